//! The container runtime interface (CRI v1): types, client and server stubs, and a channel over a unix socket.
//!
//! ```text
//!  kubelet ── connect("unix:///run/…") ──> Channel ── v1::RuntimeService, v1::ImageService ──> runtime (any)
//!  minikctl ─────────────────────────────> Channel ── images::Images/Load ──────────────────> minik's runtime
//! ```
//!
//! Invariants: everything in [`v1`] is generated from the interface's definition as upstream publishes it, so field
//! numbers and names are upstream's; what minik adds stands in a package of its own ([`images`]).
//! Concept page: <https://kubernetes.io/docs/concepts/containers/cri/>

mod channel;

pub use channel::{ConnectError, MOST_MESSAGE_BYTES, connect, socket_path};

/// CRI v1: `RuntimeService` and `ImageService`.
#[allow(missing_docs, clippy::all)] // generated; the definition says where each message is explained
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// What minik's runtime serves beside CRI: loading images from an archive.
#[allow(missing_docs, clippy::all)] // generated
pub mod images {
    tonic::include_proto!("minik.runtime.v1");
}
