//! The server on real sockets, over an API in memory and servers for other names that are made here.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod api;
mod forwarding;
mod serving;
mod wire;
