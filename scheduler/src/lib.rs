//! The scheduler.

pub mod cluster;
pub mod decide;
pub mod framework;
mod plugins;
mod preemption;

pub use plugins::default_profile;
