//! Whole-cluster tests: real programs, over the wire.

mod cluster;
mod kubectl;
mod pods;
