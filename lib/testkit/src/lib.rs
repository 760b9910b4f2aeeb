//! Fixtures for tests: images built in memory, a registry, bounded waits, recorded cases. Knows no service.

pub mod cases;
pub mod image;
pub mod registry;
mod wait;

pub use wait::eventually;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

/// An address of loopback that nobody else takes: this process has one of 127.0.0.0/8 to itself, and each call gives another
/// port of it. A port that was free a moment ago may be another's by the time that it is used.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 128 | high, middle, low], NEXT.fetch_add(1, Ordering::Relaxed)))
}
