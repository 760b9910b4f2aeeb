//! Numbers that may be shares of another.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use crate::meta::check_nonnegative;

/// A number of 0 or more, or a percentage. Absent counts as 0.
pub(crate) fn check_int_or_percent(value: Option<&IntOrString>, path: &Path, errors: &mut ErrorList) {
    match value {
        None => {}
        Some(IntOrString::Int(number)) => check_nonnegative((*number).into(), path, errors),
        Some(IntOrString::String(text)) if percent(text).is_some() => {}
        Some(IntOrString::String(text)) => {
            errors.push(FieldError::invalid(
                path,
                text.as_str(),
                "must be a number or a percentage, as in 5%",
            ));
        }
    }
}

/// A percentage of more than all.
pub(crate) fn check_at_most_all(value: Option<&IntOrString>, path: &Path, errors: &mut ErrorList) {
    if let Some(IntOrString::String(text)) = value
        && percent(text).is_some_and(|share| share > 100)
    {
        errors.push(FieldError::invalid(path, text.as_str(), "must not be greater than 100%"));
    }
}

/// The number or the percentage's number; a text that is a number counts as that, other texts as 0.
pub(crate) fn value_of(value: Option<&IntOrString>) -> u64 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => number.unsigned_abs().into(),
        Some(IntOrString::String(text)) => {
            percent(text).unwrap_or_else(|| text.parse().map_or(0, i64::unsigned_abs))
        }
    }
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    // More digits than fit are very much more than all.
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().unwrap_or(u64::MAX))
}
