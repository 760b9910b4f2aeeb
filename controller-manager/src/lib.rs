//! The controllers: loops that make the state of the cluster what its objects ask for
//! (<https://kubernetes.io/docs/concepts/architecture/controller/>).
//!
//! ```text
//!  shared informers ── handlers push keys ──> a queue a controller ──> reconcile(key)
//!                                                                        caches ──> plan (pure) ──> apply
//!                                                                        ^                            │
//!                                                                        └── watch ── apiserver <─────┘
//! ```
//!
//! Invariants:
//! - One informer per kind, whoever listens; what is kept is a projection.
//! - A plan is pure: caches and live reads are gathered first, time is an argument, and applying has no choices left.
//! - Nothing is planned before the caches are filled; what is done twice does no harm, so a key can always come again.
//! - Each controller acts as its own ServiceAccount with the rights of its role, unless told otherwise.
//! - Not served yet, and not pretended: workloads but Deployments and ReplicaSets, quotas, volumes.

mod aggregation;
mod bootstrap;
mod certificates;
mod config;
mod deployment;
mod disruption;
mod ending;
mod endpoints;
mod expectations;
mod garbage;
mod identities;
mod index;
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod objects;
mod owners;
mod pod_gc;
mod replica_set;
mod root_ca;
mod service;
mod service_account;
mod service_cidr;
mod setup;
mod taint_eviction;
mod watches;
mod worker;

pub use certificates::{Authority, AuthorityError};
pub use config::{Config, FlagError, Flags, NAME, NodeTimes};
pub use node_ipam::Ranges;
pub use service::{ManagerError, run};
