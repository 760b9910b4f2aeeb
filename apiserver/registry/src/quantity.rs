//! Amounts of resources in typed views, as apimachinery compares them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use minik_apimachinery::quantity::{Format, Quantity};

/// The amount that a view holds as text. A tree that came through decoding holds none that cannot be read; such a one
/// counts as nothing.
pub(crate) fn amount(written: &Written) -> Quantity {
    parse(&written.0).unwrap_or_else(zero)
}

/// Reads an amount.
pub(crate) fn parse(text: &str) -> Option<Quantity> {
    text.parse().ok()
}

/// Nothing.
pub(crate) fn zero() -> Quantity {
    Quantity::from_whole(0, Format::DecimalSi)
}

/// Below zero.
pub(crate) fn is_negative(written: &Written) -> bool {
    amount(written).sign().is_lt()
}
