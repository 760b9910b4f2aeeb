//! Cluster DNS: names of Services and of what is behind them, and all other names by asking other servers.
//!
//! ```text
//!  Services, EndpointSlices ── informers ──> Index (by name, by address)
//!                                               │
//!  UDP, TCP ──> Handler ──> Zone::answer (pure) ┴─> Here ───────────────────────> reply
//!                                               └─> Elsewhere, Follow ─> Forwarder (cache, servers of resolv.conf)
//!  Publisher: this server's EndpointSlice of the Service kube-dns, kept right, taken away at the end
//! ```
//!
//! Invariants:
//! - An answer about the cluster costs what is in it: nothing is searched, nothing is asked of the API.
//! - Before the caches are filled nothing is said not to exist, and the server is not published.
//! - A name of the cluster's domain is never asked of another server; only what an ExternalName Service stands for is.
//! - As CoreDNS with kubeadm's settings, except that a namespace without any Service does not exist below `svc`
//!   (CoreDNS answers that it has no records, which ends the search of some clients).
//!
//! The concept: <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>

mod config;
mod forward;
mod handler;
#[doc(hidden)] // for the fuzz targets
pub mod index;
mod metrics;
#[doc(hidden)] // for the fuzz targets
pub mod objects;
mod publish;
mod service;
#[doc(hidden)] // for the fuzz targets
pub mod zone;

pub use config::{Config, Flags};
pub use service::{DnsError, run};
