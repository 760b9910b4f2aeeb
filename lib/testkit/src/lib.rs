//! Fixtures for tests: images built in memory, a registry, bounded waits, recorded cases. Knows no service.

pub mod cases;
pub mod image;
pub mod registry;
mod wait;

pub use wait::eventually;
