//! The API: HTTP, authentication, authorization, admission, registry, watch cache, storage.
//!
//! ```text
//!  connection ─> server (TLS) ─> http (authn, authz, audit) ─> verbs ─> admission, registry ─> storage
//!                                                               └──<── world (a watch cache a resource) <─┘
//! ```
//!
//! [`Api`] is a `tower::Service` over a store and knows no sockets; [`run`] adds the listeners.
//!
//! Invariants: a verb is implemented once; what is special about a kind is in minik-registry; reads move bytes; a panic in
//! one request ends that request alone.

pub mod admission;
mod allocator;
mod api;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod config;
mod counted;
mod discovery;
mod error;
mod http;
mod loopback;
mod metrics;
mod negotiate;
mod object;
mod openapi;
mod owners;
mod proxy;
mod request;
mod served;
mod server;
mod service;
mod verbs;
mod wire;
mod world;

pub use self::http::{Body, InFlight};
pub use allocator::Cidr;
pub use api::{Api, OpenError, Settings};
pub use audit::{Audit, AuditLevel};
pub use authn::Peer;
pub use config::{Config, Flags};
pub use error::{ApiError, Named};
pub use loopback::{Loopback, Place};
pub use proxy::{KubeletFiles, Kubelets};
pub use service::{ApiserverError, run, run_within};
pub use world::{Follower, View, World};
