//! Nodes without machines: they register, stay alive, and their Pods live by rule. For trying what a thousand nodes do to
//! a cluster, on one machine and without privileges (as kwok does, <https://kwok.sigs.k8s.io>).
//!
//! ```text
//!  --nodes N ──> Node objects, their Leases renewed in turn
//!  watch of Pods ──> stage (from the status) ── rule, time in this stage ──> next (pure) ──> PATCH status, or the last DELETE
//! ```
//!
//! Invariants:
//! - What a Pod does next follows from its status, its rule and how long it has been as it is: after a restart of this
//!   process Pods go on, at worst with a delay begun anew.
//! - No address of these Pods leads anywhere, and nothing here starts a process or touches the machine.
//!
//! Concept: <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>

mod addresses;
mod config;
mod life;
mod nodes;
mod pods;
mod rules;
mod service;

pub use config::{Config, FlagError, Flags, Lost, Pairs};
pub use rules::{Rule, Rules};
pub use service::{FakeNodesError, run};
