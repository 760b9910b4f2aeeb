//! Doors for the fuzz targets: what reads bytes that others write. Nothing else comes in here.

pub use crate::images::fuzz::{image, layer};
pub use crate::streaming::{serve_spdy as spdy, to_stdin};
