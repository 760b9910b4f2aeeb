//! The Node object: what the machine is, how it is, and that it lives
//! (<https://kubernetes.io/docs/concepts/architecture/nodes/>).

mod health;
mod lease;
pub mod machine;
mod object;
mod register;
mod thresholds;

pub use health::HealthLook;
pub use lease::renew as renew_lease;
pub use machine::Machine;
pub use object::{Health, NodeFacts, NodeObject, NodeUpdate};
pub use register::NodeKeeper;
pub use thresholds::{DEFAULT as DEFAULT_THRESHOLDS, Thresholds};
