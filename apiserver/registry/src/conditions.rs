//! Conditions of a status, in their common form.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use crate::format::{self, invalid};
use crate::meta::check_nonnegative;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// The conditions of a status: each type once, with a known status, a time and a reason.
pub(crate) fn check_conditions(conditions: &[Condition], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let kind = &condition.type_;
        if kind.is_empty() {
            errors.push(FieldError::required(&at.child("type"), "must be set"));
        } else {
            invalid(format::qualified_name(kind), kind, &at.child("type"), errors);
            if !seen.insert(kind) {
                errors.push(FieldError::duplicate(&at.child("type"), kind.as_str()));
            }
        }
        let states = ["False", "True", "Unknown"];
        if !states.contains(&condition.status.as_str()) {
            errors.push(FieldError::not_supported(&at.child("status"), condition.status.as_str(), &states));
        }
        check_nonnegative(
            condition.observed_generation.unwrap_or(0),
            &at.child("observedGeneration"),
            errors,
        );
        if condition.last_transition_time.0 == jiff::Timestamp::UNIX_EPOCH {
            errors.push(FieldError::required(&at.child("lastTransitionTime"), "must be set"));
        }
        if condition.reason.is_empty() {
            errors.push(FieldError::required(&at.child("reason"), "must be set"));
        } else {
            check_reason(&condition.reason, &at.child("reason"), errors);
        }
        if condition.message.len() > MESSAGE_MAX {
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
