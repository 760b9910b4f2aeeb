//! The shim: one small process a Pod that starts its containers, owns them, their exit codes and logs.
//!
//! ```text
//!  runtime ── Spawn (a listening socket) ──> zygote ── fork ──> shim ── fork ──> pause (net, IPC, UTS, PID namespaces)
//!     └────── calls, answers, events over that socket ───────────┘ └── fork ──> init ── exec ──> a container's program
//! ```
//!
//! Invariants: a single thread, no async runtime, no TLS. A shim outlives the runtime and the zygote; it is the truth
//! about its containers. Everything that it changed on the machine (mounts, namespaces, cgroups) ends with it or is
//! removed by the runtime through the same [`cgroup`] names. Between any two effects stands a fault point, so that tests kill
//! it there. The runtime uses [`protocol`], [`frame`], [`zygote`]'s
//! messages and [`cgroup`] of this crate, nothing else.

pub mod cgroup;
mod container;
pub mod frame;
mod init;
#[doc(hidden)] // for the fuzz targets
pub mod log;
mod mounts;
mod pause;
pub mod protocol;
mod rootfs;
mod seccomp;
mod server;
mod sys;
mod time;
pub mod zygote;

pub use time::start_ticks;
