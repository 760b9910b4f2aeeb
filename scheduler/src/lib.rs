//! The scheduler: gives each Pod that has none a node (<https://kubernetes.io/docs/concepts/scheduling-eviction/>).
//!
//! ```text
//!  informers (Pods, Nodes, Namespaces, Services) ──> Shared { Cluster, Queue } <── hints wake what waits
//!                                                       │ pop
//!                            decide: PreFilter → Filter → PostFilter │ PreScore → Score → choose   (pure)
//!                                                       │ assume
//!            tasks: POST binding · PATCH PodScheduled and nominatedNodeName · evict victims · events
//! ```
//!
//! Invariants:
//! - A decision is pure and takes the whole state under one lock that is never held over an await, so that nothing
//!   changes while it is taken and none must be repeated for what happened meanwhile.
//! - A Pod counts on its node from the decision on; a binding that fails gives the room back.
//! - No binding holds up the next decision.
//! - Not served yet, and not pretended: PersistentVolumeClaims (a Pod that names one waits), PodDisruptionBudgets,
//!   Reserve and Permit (no plugin here needs them).

pub mod cluster;
mod config;
pub mod decide;
pub mod framework;
mod metrics;
mod objects;
mod plugins;
mod preemption;
mod queue;
mod service;
mod state;
mod write;

pub use config::{Config, DEFAULT_SCHEDULER_NAME, Flags};
pub use plugins::default_profile;
pub use preemption::Preemption;
pub use service::{SchedulerError, run};
