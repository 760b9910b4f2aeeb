//! A v2 document in protobuf, by the message definitions of gnostic (openapi.v2.Document), which kubectl prefers.
//!
//! Each function writes one message; the numbers are those of its fields.

use serde_json::Value;

/// A document that is being written.
#[derive(Default)]
pub struct Document {
    paths: Message,
    definitions: Message,
}

impl Document {
    /// Adds a path of v2.
    pub fn path(&mut self, path: &str, item: &Value) {
        self.paths.named(2, path, |out| path_item(out, item));
    }

    /// Adds a definition of v2.
    pub fn definition(&mut self, name: &str, one: &Value) {
        self.definitions.named(1, name, |out| schema(out, one));
    }

    /// The bytes of the document.
    pub fn finish(self, version: &str) -> Vec<u8> {
        let mut out = Message::default();
        out.bytes(1, b"2.0");
        out.message(2, |info| {
            info.bytes(1, b"Kubernetes");
            info.bytes(2, version.as_bytes());
        });
        out.bytes(8, &self.paths.0);
        out.bytes(9, &self.definitions.0);
        out.0
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text that is there.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, list: &Value) {
        for one in items(list) {
            self.text(number, one);
        }
    }

    fn truth(&mut self, number: u64, value: &Value) {
        if value == true {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A message of a name and a value.
    fn named(&mut self, number: u64, name: &str, write: impl FnOnce(&mut Message)) {
        self.message(number, |named| {
            named.bytes(1, name.as_bytes());
            named.message(2, write);
        });
    }

    /// Any value, which is written as YAML, of which JSON is a part.
    fn any(&mut self, number: u64, value: &Value) {
        self.message(number, |any| any.bytes(2, value.to_string().as_bytes()));
    }

    fn extensions(&mut self, number: u64, holder: &Value) {
        for (name, value) in entries(holder).filter(|(name, _)| name.starts_with("x-")) {
            self.message(number, |named| {
                named.bytes(1, name.as_bytes());
                named.any(2, value);
            });
        }
    }
}

fn path_item(out: &mut Message, item: &Value) {
    let methods =
        [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, number) in methods {
        if item[method].is_object() {
            out.message(number, |out| operation(out, &item[method]));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Message, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    parameters(out, 8, &operation["parameters"]);
    out.message(9, |responses| {
        for (code, response) in entries(&operation["responses"]) {
            responses.named(1, code, |value| {
                value.message(1, |out| {
                    out.text(1, &response["description"]);
                    if response["schema"].is_object() {
                        out.message(2, |item| item.message(1, |out| schema(out, &response["schema"])));
                    }
                });
            });
        }
    });
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
}

fn parameters(out: &mut Message, number: u64, list: &Value) {
    for one in items(list) {
        out.message(number, |item| item.message(1, |out| parameter(out, one)));
    }
}

fn parameter(out: &mut Message, parameter: &Value) {
    if parameter["in"] == "body" {
        out.message(1, |out| {
            out.text(1, &parameter["description"]);
            out.text(2, &parameter["name"]);
            out.text(3, &parameter["in"]);
            out.truth(4, &parameter["required"]);
            out.message(5, |out| schema(out, &parameter["schema"]));
        });
        return;
    }
    let in_path = parameter["in"] == "path";
    let (kind, number, unique) = if in_path { (4, 5, 19) } else { (3, 6, 20) };
    out.message(2, |out| {
        out.message(kind, |out| {
            out.truth(1, &parameter["required"]);
            out.text(2, &parameter["in"]);
            out.text(3, &parameter["description"]);
            out.text(4, &parameter["name"]);
            out.text(number, &parameter["type"]);
            out.truth(unique, &parameter["uniqueItems"]);
        });
    });
}

fn schema(out: &mut Message, one: &Value) {
    out.text(1, &one["$ref"]);
    out.text(2, &one["format"]);
    out.text(4, &one["description"]);
    out.texts(19, &one["required"]);
    for value in items(&one["enum"]) {
        out.any(20, value);
    }
    if one["additionalProperties"].is_object() {
        out.message(21, |item| item.message(1, |out| schema(out, &one["additionalProperties"])));
    }
    if one["type"].is_string() {
        out.message(22, |out| out.text(1, &one["type"]));
    }
    if one["items"].is_object() {
        out.message(23, |item| item.message(1, |out| schema(out, &one["items"])));
    }
    if one["properties"].is_object() {
        out.message(25, |properties| {
            for (name, property) in entries(&one["properties"]) {
                properties.named(1, name, |out| schema(out, property));
            }
        });
    }
    out.extensions(31, one);
}
