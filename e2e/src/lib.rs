//! Whole-cluster tests, fault injection, load generator, benchmarks.
