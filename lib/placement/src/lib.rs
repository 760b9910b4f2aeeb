//! Where a Pod can be placed, and why not elsewhere; pure, so that scheduler, controllers, kubelet admission and
//! `describe` give the same answers.
//!
//! ```text
//!  JSON of a Pod, of a Node ──> Pod, Node (what placement reads, summed)
//!                                 NodeState = Node + Pods on it ──> fit::*, InterPod, Spread ──> Ok or Reasons
//!                                                                    (Judge: all of them, over all nodes)
//!                                                                                       summary("0/3 nodes …")
//! ```
//!
//! Invariants: no tokio, no client, no clock, no chance; the same input gives the same answer in the same order.
//! The concept: <https://kubernetes.io/docs/concepts/scheduling-eviction/>.

pub mod fit;
mod inter_pod;
mod judge;
mod labels;
mod node;
mod pod;
mod reason;
mod resources;
mod spread;
pub mod taints;
mod wire;

pub use inter_pod::{InterPod, Namespaces};
pub use judge::{Judge, Judgement, World};
pub use labels::{AffinityTerm, Labels, NodeSelectorTerm, Operator, Requirement, Selector, Weighted};
pub use node::{Node, NodeState};
pub use pod::{ClaimRef, HostPort, Pod, PodAffinity, SpreadConstraint, WhenUnsatisfiable};
pub use reason::{Reason, summary};
pub use resources::{Requests, ResourceList, Resources};
pub use spread::{Spread, matching};
