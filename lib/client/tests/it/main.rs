//! The client against an apiserver in memory.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod connect;
mod election;
mod fake;
mod informer;
