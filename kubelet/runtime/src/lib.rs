//! The container runtime: images, snapshots, sandboxes and their network, served as CRI v1 over a unix socket.
//!
//! ```text
//!  kubelet ── CRI ──> service ── images (pull, layers, roots) ──> overlay parts
//!                        │  └── network (an address a Pod)
//!                        └── shims: zygote ── fork ──> one shim a Pod ──> pause, containers, logs, exit codes
//! ```
//!
//! Invariants: this process may die at any time and containers run on; what runs is asked of the shims, state files are
//! caches of it. Nothing here knows Kubernetes objects, only CRI. Concept pages:
//! <https://kubernetes.io/docs/concepts/containers/>, <https://kubernetes.io/docs/concepts/architecture/cri/>

mod config;
#[doc(hidden)] // for the fuzz targets
pub mod fuzz;
pub mod images;
pub mod network;
mod record;
mod runtime;
mod serve;
mod service;
mod shims;
mod spec;
mod stats;
mod streaming;
mod users;

pub use config::{Config, Flags};
pub use serve::{ServeError, run};
