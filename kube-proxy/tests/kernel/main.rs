//! Rules in the real kernel, as root, in namespaces of their own: a client outside, a node, and Pods behind it.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod affinity;
mod cluster_ip;
mod external;
mod server;
mod service;
mod table;
mod udp;
mod world;
