//! Services to kernel rules (<https://kubernetes.io/docs/reference/networking/virtual-ips/>), by nftables.
//!
//! ```text
//!  informers (Services, EndpointSlices, own Node) ──> which Services changed
//!        │ render (pure): a Service and its slices -> entries (frontend, count, slot, ...)
//!        │ Book: all entries, who wants them -> changes
//!        └ Kernel: one atomic transaction of set elements over netlink; stale UDP connections and affinities forgotten
//! ```
//!
//! Invariants:
//! - What a change costs depends on that change: no chain stands for a Service, its data are elements of maps.
//! - A restart reads what stands in the kernel and rewrites nothing that is right.
//! - No table but the own one is touched. Whoever else changes it is noticed by the rule set's generation.
//! - Marks of packets: only bit 0x4000, for masquerade, as upstream.
//! - Unlike upstream, session affinity holds for a client and a frontend, not over all frontends of a Service's port.

mod book;
mod config;
mod health;
mod kernel;
mod metrics;
mod nft;
mod objects;
mod rules;
mod service;

pub use book::{Book, Change};
pub use config::{Config, Flags, NodePorts, Settings};
pub use kernel::Kernel;
pub use objects::{Node, Protocol, Service, ServicePort, Slice, SliceEndpoint, SlicePort};
pub use rules::{Endpoint, Entry, Frontend, List, Place, Treatment, Value, render};
pub use service::{ProxyError, clean_up, run};
