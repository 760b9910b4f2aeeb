//! The client against an apiserver in memory.

mod election;
mod fake;
mod informer;
