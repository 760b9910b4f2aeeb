//! From trees to messages. A tree is in the form of its type; what does not fit is left out.

use crate::facts::{Field, Kind, TypeId};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A message that is being written.
#[derive(Default)]
pub(super) struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, number: u16, value: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(value);
    }

    pub fn bytes(&mut self, number: u16, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A struct of a type that is known by its Go name.
    pub fn struct_field(&mut self, number: u16, value: &Value, go: &str) {
        if let Some(ty) = TypeId::by_go_name(go) {
            self.value(number, Kind::Struct(ty), value);
        }
    }

    /// Every field of a struct.
    pub fn fields(&mut self, object: &Value, ty: TypeId) {
        self.part(object, ty, 0);
    }

    /// The fields of one of a struct's messages: its own (0) or an embedded one.
    fn part(&mut self, object: &Value, ty: TypeId, via: u16) {
        let fields = ty.facts().fields;
        let mut last_embedded = 0;
        for field in fields {
            if field.via == via {
                self.field(object, field);
                continue;
            }
            // The number of the message within this one that leads to the field, if it is below this one.
            let inner = match (via, field.via) {
                (0, inner) if inner >= 64 => inner / 64,
                (0, inner) => inner,
                (via, inner) if inner / 64 == via => inner,
                _ => continue,
            };
            // The fields of one embedded struct stand together.
            if inner != last_embedded {
                last_embedded = inner;
                let mut message = Message::default();
                message.part(object, ty, inner);
                self.bytes(inner % 64, &message.0);
            }
        }
    }

    fn field(&mut self, object: &Value, field: &Field) {
        let Some(value) = object.get(field.json).filter(|value| !value.is_null()) else { return };
        if field.proto == 0 {
            return;
        }
        match (field.kind, value) {
            (Kind::List(element), Value::Array(items)) => {
                for item in items {
                    self.value(field.proto, *element, item);
                }
            }
            (Kind::Map(kind), Value::Object(entries)) => {
                for (key, value) in entries {
                    let mut entry = Message::default();
                    entry.bytes(1, key.as_bytes());
                    entry.map_value(*kind, value);
                    self.bytes(field.proto, &entry.0);
                }
            }
            (kind, value) => self.value(field.proto, kind, value),
        }
    }

    fn map_value(&mut self, kind: Kind, value: &Value) {
        let Kind::List(element) = kind else { return self.value(2, kind, value) };
        let mut list = Message::default();
        for item in value.as_array().into_iter().flatten() {
            list.value(1, *element, item);
        }
        self.bytes(2, &list.0);
    }

    fn value(&mut self, number: u16, kind: Kind, value: &Value) {
        let text = value.as_str();
        match kind {
            Kind::Bool => self.number(number, u64::from(value == true)),
            Kind::Int32 | Kind::Int64 => self.number(number, value.as_i64().unwrap_or_default() as u64),
            Kind::Float => {
                self.varint(u64::from(number) << 3 | 1);
                self.0.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            }
            Kind::String => self.bytes(number, text.unwrap_or_default().as_bytes()),
            Kind::Bytes => {
                let bytes = STANDARD.decode(text.unwrap_or_default()).unwrap_or_default();
                self.bytes(number, &bytes);
            }
            Kind::Quantity => self.inner(number, |inner| inner.bytes(1, text.unwrap_or_default().as_bytes())),
            Kind::IntOrString => self.inner(number, |inner| match value {
                Value::String(text) => {
                    inner.number(1, 1);
                    inner.number(2, 0);
                    inner.bytes(3, text.as_bytes());
                }
                other => {
                    inner.number(1, 0);
                    inner.number(2, other.as_i64().unwrap_or_default() as u64);
                    inner.bytes(3, b"");
                }
            }),
            Kind::Time | Kind::MicroTime => self.inner(number, |inner| inner.time(text.unwrap_or_default())),
            Kind::Fields | Kind::Raw | Kind::Any => {
                self.inner(number, |inner| inner.bytes(1, value.to_string().as_bytes()));
            }
            Kind::Struct(ty) => self.inner(number, |inner| inner.fields(value, ty)),
            // No API type has a list of lists.
            Kind::List(_) | Kind::Map(_) => {}
        }
    }

    fn inner(&mut self, number: u16, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// The zero time is an empty message.
    fn time(&mut self, text: &str) {
        if let Ok(Some(time)) = time::parse(text) {
            let nanos = time.subsec_nanosecond();
            // Before 1970 jiff's fraction is negative, protobuf's is not.
            let (seconds, nanos) = if nanos < 0 {
                (time.as_second() - 1, nanos + 1_000_000_000)
            } else {
                (time.as_second(), nanos)
            };
            self.number(1, seconds as u64);
            self.number(2, nanos as u64);
        }
    }
}
