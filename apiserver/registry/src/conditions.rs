//! Conditions of a status, in their common form.

use std::collections::BTreeSet;

use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{self, invalid};
use crate::meta::check_nonnegative;
use crate::view::str_at;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// The conditions of an object's status: each type once, with a known status, a time and a reason.
pub(crate) fn check_conditions(obj: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("conditions");
    let mut seen = BTreeSet::new();
    let conditions = obj.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    for (i, condition) in conditions.enumerate() {
        let at = path.index(i);
        let text = |field: &str| str_at(condition, &[field]);
        let kind = text("type");
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
        invalid(format::qualified_name(kind), kind, &at.child("type"), errors);
        let states = ["False", "True", "Unknown"];
        if !states.contains(&text("status")) {
            errors.push(FieldError::not_supported(&at.child("status"), text("status"), &states));
        }
        let generation = condition["observedGeneration"].as_i64().unwrap_or(0);
        check_nonnegative(generation, &at.child("observedGeneration"), errors);
        for field in ["lastTransitionTime", "reason"].into_iter().filter(|field| text(field).is_empty()) {
            errors.push(FieldError::required(&at.child(field), "must be set"));
        }
        if !text("reason").is_empty() {
            check_reason(text("reason"), &at.child("reason"), errors);
        }
        if text("message").len() > MESSAGE_MAX {
            errors.push(FieldError::too_long(&at.child("message"), MESSAGE_MAX));
        }
    }
}

/// One word, with commas and colons in it.
fn check_reason(reason: &str, path: &Path, errors: &mut ErrorList) {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    let fits = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'));
    if !fits {
        errors.push(FieldError::invalid(path, reason, "must be a word, in which ',' and ':' may stand too"));
    }
    if reason.len() > REASON_MAX {
        errors.push(FieldError::too_long(path, REASON_MAX));
    }
}
