//! The kubelet: carries out the Pods of one node (<https://kubernetes.io/docs/concepts/architecture/#kubelet>).
//!
//! ```text
//!  Pods of this node (informer) ──> Dispatcher ──> admit ──> one Worker a Pod
//!                                                              │ observe (CRI) ──> plan (pure) ──> apply (CRI, volumes, cgroups)
//!  container events (CRI) ─────────> mailboxes ────────────────┘        └──> status (pure) ──> StatusWriter ──> PATCH pods/status
//!  NodeKeeper: Node, conditions, Lease          node API: logs, exec, metrics, health
//! ```
//!
//! Invariants:
//! - What is to be done for a Pod is decided by [`core::plan`], what is told of it by [`status`]; both are pure.
//! - Nothing polls: container events drive the workers, and a full look follows each connection to the runtime.
//! - The kubelet may die at any time: containers run on, and all that it needs is regained from the runtime and the API.
//! - Nothing here knows netfilter, and nothing here starts a process: containers are the runtime's.

mod admit;
mod api;
mod certificates;
mod cgroups;
mod config;
mod containers;
pub mod core;
mod dispatch;
mod events;
mod hooks;
mod images;
#[doc(hidden)] // for the fuzz targets
pub mod logs;
mod metrics;
mod names;
mod node;
mod objects;
pub mod pod;
mod probes;
mod runtime;
mod service;
pub mod status;
mod upkeep;
mod volumes;
mod watches;
mod worker;

pub use certificates::{BootstrapError, CertConfig};
pub use config::{ApiConfig, Config, Flags, TaintFlag};
pub use service::{KubeletError, run};

#[cfg(test)]
mod tests;
