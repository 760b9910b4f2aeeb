//! Pure API machinery: fact tables, quantities, selectors, patches, server-side apply, field paths.

pub mod field;
