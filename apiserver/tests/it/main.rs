//! The whole API without sockets, over a store in memory.

#![allow(clippy::unwrap_used)]

mod allocation;
mod audit;
mod bad_input;
mod client;
mod compare;
mod eviction;
mod floods;
mod random;
mod reads;
mod recorded;
mod requests;
mod service;
mod watches;
mod workloads;
mod writes;
