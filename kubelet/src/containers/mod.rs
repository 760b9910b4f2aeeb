//! From a Pod's specification to what the runtime is asked for: environment, mounts, users, limits.

mod config;
pub mod env;
mod expand;
pub mod fields;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod services;

pub use config::{ContainerInput, container_config, sandbox_resources};
pub use expand::expand;
