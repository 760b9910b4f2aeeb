//! Whole-cluster tests, fault injection, load generator, benchmarks.

pub mod recorded_pods;
