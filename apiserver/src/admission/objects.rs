//! What plugins see of other objects, and how they say no.

use super::Attributes;
use crate::error::{ApiError, Named};
use serde_json::Value;
use std::sync::Arc;

/// Other objects, by the folder that they are stored in (`pods`, `minions`, `services/specs`).
pub trait Objects: Send + Sync {
    /// An object; the namespace is empty for cluster-wide kinds.
    fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects in a namespace, or in all with an empty one.
    fn list(&self, folder: &str, namespace: &str) -> Vec<Value>;
}

impl Objects for crate::world::View {
    fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        crate::world::View::get(self, folder, namespace, name)
    }

    fn list(&self, folder: &str, namespace: &str) -> Vec<Value> {
        crate::world::View::list(self, folder, namespace)
    }
}

/// The 403 of a plugin, in upstream's form: `pods "web" is forbidden: why`.
pub fn forbidden(attributes: &Attributes<'_>, object: &Value, why: impl std::fmt::Display) -> ApiError {
    let on = Named {
        group: attributes.resource.group.to_owned(),
        kind: attributes.resource.plural.to_owned(),
        name: name_of(attributes, object).to_owned(),
    };
    let message = format!("{} {:?} is forbidden: {why}", attributes.resource.qualified_name(), on.name);
    ApiError::Forbidden { on, message }
}

/// The 404 of an object that a plugin looked up.
pub fn missing(plural: &str, name: &str) -> ApiError {
    ApiError::NotFound(Named { group: String::new(), kind: plural.to_owned(), name: name.to_owned() })
}

/// The name of the request's object, as far as it is known before names are generated.
fn name_of<'a>(attributes: &Attributes<'a>, object: &'a Value) -> &'a str {
    let of = |field: &str| object["metadata"][field].as_str().filter(|name| !name.is_empty());
    let asked = Some(attributes.name).filter(|name| !name.is_empty());
    asked.or_else(|| of("name")).or_else(|| of("generateName")).unwrap_or("Unknown")
}

/// A text at a pointer, empty when it is not there.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list at a pointer, none when it is not there.
pub fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The list at a field of an object, made when it is not there; `None` when something else is there.
pub fn list_mut<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let list = object.as_object_mut()?.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut()
}

/// Whether an object is a Pod that a kubelet made of a file.
pub fn is_mirror_pod(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}
