//! The API: HTTP, authentication, authorization, admission, registry, watch cache, storage.

mod authn;
mod authz;
mod body;
mod discovery;
mod error;
mod negotiate;
mod object;
mod openapi;
mod request;
