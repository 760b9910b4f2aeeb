//! Whole-cluster tests, fault injection, load generator, benchmarks.

pub mod harness;
pub mod images;
pub mod leaks;
pub mod recorded_pods;
