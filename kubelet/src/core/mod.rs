//! What is decided about one Pod, without touching anything.

pub mod memory;
pub mod plan;
pub mod view;
