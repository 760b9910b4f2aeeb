//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::selector;
use serde_json::Value;

use crate::format::{self, invalid};
use crate::meta::check_labels;
use crate::view::items;

/// A label selector. `allow_values`: values that are no label values are let through, because they were there before.
pub(crate) fn check_label_selector(
    selector: Option<&LabelSelector>,
    allow_values: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let Some(selector) = selector else { return };
    if let Some(labels) = &selector.match_labels {
        check_labels(labels, &path.child("matchLabels"), errors);
    }
    for (i, requirement) in items(&selector.match_expressions).iter().enumerate() {
        check_requirement(requirement, allow_values, &path.child("matchExpressions").index(i), errors);
    }
}

/// The selector of an object as it stands in its tree, to be matched; nothing when it is none.
pub(crate) fn as_selector(tree: Option<&Value>) -> Option<selector::LabelSelector> {
    selector::LabelSelector::from_object(tree).ok()
}

fn check_requirement(
    requirement: &LabelSelectorRequirement,
    allow_values: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&path.child("values"), "'In' and 'NotIn' need values"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(FieldError::forbidden(
                &path.child("values"),
                "'Exists' and 'DoesNotExist' have no values",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "is no operator of selectors"))
        }
    }
    invalid(format::qualified_name(&requirement.key), &requirement.key, &path.child("key"), errors);
    if allow_values {
        return;
    }
    for (i, value) in values.iter().enumerate() {
        invalid(format::label_value(value), value, &path.child("values").index(i), errors);
    }
}
