//! The API: HTTP, authentication, authorization, admission, registry, watch cache, storage.

mod authn;
mod authz;
mod discovery;
mod error;
mod negotiate;
mod request;
