//! Read-only typed views of object trees, and small helpers to read optional fields.

use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The tree as a typed object. A tree that came through decoding always fits; one that does not is reported.
pub(crate) fn view<T: DeserializeOwned>(tree: &Value, errors: &mut ErrorList) -> Option<T> {
    match T::deserialize(tree) {
        Ok(typed) => Some(typed),
        Err(e) => {
            errors.push(FieldError::internal(&Path::root(), format!("the object cannot be read: {e}")));
            None
        }
    }
}

/// A view where there is nobody to report to: nothing when the tree does not fit.
pub(crate) fn try_view<T: DeserializeOwned>(tree: &Value) -> Option<T> {
    T::deserialize(tree).ok()
}

/// An optional string, absent as empty.
pub(crate) fn text(s: &Option<String>) -> &str {
    s.as_deref().unwrap_or("")
}

/// An optional list, absent as empty.
pub(crate) fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or(&[])
}

/// An optional boolean, absent as false.
pub(crate) fn yes(b: &Option<bool>) -> bool {
    b.unwrap_or(false)
}

/// A string at a path of field names, absent as empty.
pub(crate) fn str_at<'a>(tree: &'a Value, path: &[&str]) -> &'a str {
    at(tree, path).and_then(Value::as_str).unwrap_or("")
}

/// The value at a path of field names.
pub(crate) fn at<'a>(tree: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |v, name| v.get(name))
}

/// Puts `old`'s field at the top of the object in place of `obj`'s, or removes it when `old` has none.
pub(crate) fn carry_over(obj: &mut Value, old: &Value, field: &str) {
    let Some(map) = obj.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// Puts the old metadata back, but for what the system itself writes.
pub(crate) fn carry_over_metadata(obj: &mut Value, old: &Value) {
    let old_meta = old.get("metadata").cloned().unwrap_or_default();
    let Some(meta) = obj.get_mut("metadata") else { return };
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        carry_over(meta, &old_meta, field);
    }
}

/// Removes a field at a path of field names.
pub(crate) fn remove_at(obj: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut here = obj;
    for name in parents {
        match here.get_mut(name) {
            Some(next) => here = next,
            None => return,
        }
    }
    if let Some(map) = here.as_object_mut() {
        map.remove(*last);
    }
}

/// Sets `metadata.generation`.
pub(crate) fn set_generation(obj: &mut Value, generation: i64) {
    if let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("generation".into(), generation.into());
    }
}

/// `metadata.generation`, absent as 0.
pub(crate) fn generation(obj: &Value) -> i64 {
    at(obj, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
}
