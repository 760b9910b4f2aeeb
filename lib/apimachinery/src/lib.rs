//! Pure API machinery: fact tables, quantities, selectors, patches, server-side apply, field paths.
//!
//! ```text
//!  bytes ──> decode(type) ──> tree (serde_json::Value, as a Go round trip would give) ──> defaults(type)
//!                               ├─> patch (JSON, merge, strategic)    ├─> apply (managedFields)
//!                               └─> proto (from and to protobuf)
//! ```
//!
//! Invariants: no tokio, no clock, no chance; `now` and ids are arguments. One fact table ([`facts`]) drives it all.

pub mod apply;
pub mod decode;
pub mod defaults;
pub mod facts;
pub mod field;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod selector;
pub mod time;
