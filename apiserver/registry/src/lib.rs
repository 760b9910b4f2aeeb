//! What is special about each built-in kind. Pure: no tokio, no clock, no chance.
//!
//! The generic verbs of the apiserver know no kind. They find a [`Resource`] (how it is served and stored) and its
//! [`Strategy`] (what is checked and filled in) here, and walk an object through:
//!
//! ```text
//! decoded and defaulted tree ─> allocate ─> prepare_create / prepare_update(Part)
//!                            ─> check_create / check_update(Part) ─> warnings ─> canonicalize
//! stored tree ─> selectable_fields (field selectors) ─> cells (Table rows)
//! ```
//!
//! Invariants: an object is a `serde_json::Value` tree in the storage version, normalized by minik-apimachinery; a
//! k8s-openapi type is a read-only view of it and is never written back. Whatever needs a clock, an allocator or
//! another object comes in as an argument ([`Context`]) or is done by the apiserver.

mod apps;
mod certificates;
mod conditions;
mod coordination;
mod core;
mod discovery;
mod format;
mod int_or_percent;
mod meta;
mod networking;
mod policy;
mod quantity;
mod rbac;
mod resource;
mod resources;
mod reviews;
mod scale;
mod scheduling;
mod selector;
mod strategy;
mod table;
mod view;

pub use core::pod::status::check_binding;
pub use core::service::allocate::{Held, held_by_service};
pub use meta::{MetaRules, NameRule, check_field_manager};
pub use resource::{DeleteStyle, FieldFilter, Kind, Resource, Scope, Subresource, Verb, Verbs};
pub use resources::{all, find, find_kind};
pub use scale::{SCALE, scale_of, with_scale};
pub use strategy::{
    AllocationError, Allocator, Context, Part, SelectableFields, Strategy, StrategyError, User,
};
pub use table::Column;
