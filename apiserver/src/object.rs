//! Metadata of a tree, for the generic verbs: the one place that knows where it stands.

use serde_json::{Map, Value};

/// Reading and writing what every object has.
pub trait Object {
    /// A text of the metadata, empty when it is not there.
    fn meta(&self, name: &str) -> &str;
    /// The metadata, made if there is none.
    fn metadata_mut(&mut self) -> &mut Map<String, Value>;
    /// Sets or, with an empty text, removes a text of the metadata.
    fn set_meta(&mut self, name: &str, value: &str);
    /// The finalizers.
    fn finalizers(&self) -> Vec<&str>;
    /// Whether the object's deletion was asked for.
    fn is_terminating(&self) -> bool;
}

impl Object for Value {
    fn meta(&self, name: &str) -> &str {
        self.get("metadata")
            .and_then(|metadata| metadata.get(name))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        let Value::Object(fields) = self else { unreachable!("made an object above") };
        let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !metadata.is_object() {
            *metadata = Value::Object(Map::new());
        }
        match metadata {
            Value::Object(metadata) => metadata,
            _ => unreachable!("made an object above"),
        }
    }

    fn set_meta(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.metadata_mut().remove(name);
        } else {
            self.metadata_mut().insert(name.to_owned(), value.into());
        }
    }

    fn finalizers(&self) -> Vec<&str> {
        let list = self.pointer("/metadata/finalizers").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn is_terminating(&self) -> bool {
        !self.meta("deletionTimestamp").is_empty()
    }
}
