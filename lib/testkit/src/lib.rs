//! Fixtures for tests: fake clock, image builder, bounded waits. Knows no service.

pub mod cases;
