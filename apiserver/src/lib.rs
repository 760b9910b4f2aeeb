//! The API: HTTP, authentication, authorization, admission, registry, watch cache, storage.
