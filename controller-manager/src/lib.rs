//! The controllers, one folder each: plan (pure) and apply.
