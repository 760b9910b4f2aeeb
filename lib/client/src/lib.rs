//! Clients of the Kubernetes API, for every service and for `minikctl`.
//!
//! ```text
//!  kubeconfig ──> connect ──> kube::Client over one HTTP/2 connection (or over any tower::Service)
//!                               ├─> Informer<T>     list, watch, a store of small projections
//!                               │     └─ changes ─> WorkQueue (keys only) ─> a reconciler
//! ```
//!
//! Invariants:
//! - One watch per kind per process; a store holds a caller's projection, never a whole object.
//! - Every call has a deadline; every retry waits for a capped, jittered time.
//! - Nothing here draws on a global clock or on global chance: both are passed in.

mod backoff;
pub mod call;
mod connect;
mod csr;
mod discovery;
mod election;
mod events;
mod informer;
mod kubeconfig;
mod lead;
mod queue;

pub use backoff::Backoff;
pub use connect::{ClientError, Identity, ServerAccess, connect, connect_as, dial, over};
pub use csr::{CertificateError, CertificateWish};
pub use discovery::{Discovery, Resource, segment};
pub use election::{Elector, ElectorConfig, Led};
pub use events::{EventApi, EventRecorder, EventType, EventWriter, ObjectRef, Reporter};
pub use informer::{
    Change, Informer, InformerBuilder, Meta, ObjectKey, OwnerRef, PartialObject, Projection, Source,
};
pub use kubeconfig::{Kubeconfig, KubeconfigError, default_path};
pub use lead::{Duty, DutyError, lead_and_serve};
pub use queue::{Done, WorkQueue};
