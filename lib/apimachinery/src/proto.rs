//! Kubernetes' protobuf form of objects, by the fact tables
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>).
//!
//! ```text
//!  body ──> Envelope (magic, apiVersion, kind) ──> decode(type) ──> tree, as decoding JSON gives it
//!  tree ──> encode(type) ──> envelope           watch: frame(type, enveloped object) ──> length and event
//! ```
//!
//! A tree is first made as the message has it and then brought into the form of its type, so that both encodings give
//! the same trees.

mod read;
mod write;

use crate::decode::{self, DecodeError};
use crate::facts::{Kind, TypeId};
use serde_json::Value;

/// What every object in protobuf begins with.
const MAGIC: &[u8; 4] = b"k8s\0";
/// Deepest nesting of messages that is read.
const DEEPEST: usize = 100;

/// Why bytes are no object. Final.
#[derive(Debug, thiserror::Error)]
pub enum ProtoError {
    /// The envelope is missing.
    #[error("the body does not begin with the prefix of Kubernetes protobuf")]
    NoMagic,
    /// The bytes end within a field, or a field has another form than its type.
    #[error("malformed protobuf: {0}")]
    Malformed(&'static str),
    /// A text that is no UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A value that its type does not allow.
    #[error(transparent)]
    Value(#[from] DecodeError),
    /// JSON within the message (a raw extension) that is none.
    #[error("malformed JSON within protobuf: {0}")]
    Json(#[from] serde_json::Error),
}

/// An object in its envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Its `apiVersion`; may be empty, as in the options of a delete.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens a body.
    ///
    /// # Errors
    /// [`ProtoError::NoMagic`], [`ProtoError::Malformed`].
    pub fn open(body: &'a [u8]) -> Result<Envelope<'a>, ProtoError> {
        read::envelope(body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?)
    }
}

/// Reads the message of a type into a tree in the form of its type, with the envelope's apiVersion and kind.
///
/// # Errors
/// Bytes that are no such message.
pub fn decode(envelope: &Envelope<'_>, ty: TypeId) -> Result<Value, ProtoError> {
    let mut tree = read::message(envelope.raw, ty)?;
    for (name, value) in [("apiVersion", &envelope.api_version), ("kind", &envelope.kind)] {
        if !value.is_empty() {
            tree.insert(name.to_owned(), value.clone().into());
        }
    }
    Ok(decode::normalize(Value::Object(tree), ty)?.value)
}

/// Writes an object of a type in its envelope.
pub fn encode(object: &Value, ty: TypeId) -> Vec<u8> {
    let mut message = write::Message::default();
    message.fields(object, ty);
    envelope(object, &message.0)
}

/// Writes the metadata of an object, or of the objects of a list, as `PartialObjectMetadata` or its list.
pub fn encode_partial(object: &Value) -> Vec<u8> {
    let mut message = write::Message::default();
    match object.get("items").and_then(Value::as_array) {
        Some(items) => {
            message.struct_field(1, &object["metadata"], "apimachinery/pkg/apis/meta/v1.ListMeta");
            for item in items {
                let mut inner = write::Message::default();
                inner.struct_field(1, &item["metadata"], "apimachinery/pkg/apis/meta/v1.ObjectMeta");
                message.bytes(2, &inner.0);
            }
        }
        None => message.struct_field(1, &object["metadata"], "apimachinery/pkg/apis/meta/v1.ObjectMeta"),
    }
    envelope(object, &message.0)
}

fn envelope(object: &Value, raw: &[u8]) -> Vec<u8> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut meta = write::Message::default();
    meta.bytes(1, text("apiVersion").as_bytes());
    meta.bytes(2, text("kind").as_bytes());
    let mut unknown = write::Message(MAGIC.to_vec());
    unknown.bytes(1, &meta.0);
    unknown.bytes(2, raw);
    // Content encoding and type, which are empty.
    unknown.bytes(3, b"");
    unknown.bytes(4, b"");
    unknown.0
}

/// One frame of a watch: the length, then the event with the enveloped object within.
pub fn frame(event: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut raw = write::Message::default();
    raw.bytes(1, enveloped);
    let mut message = write::Message::default();
    message.bytes(1, event.as_bytes());
    message.bytes(2, &raw.0);
    let length = u32::try_from(message.0.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&message.0);
    frame
}

/// Whether a list of this kind of elements stands in a message of its own when it is a value of a map.
fn is_list(kind: Kind) -> bool {
    matches!(kind, Kind::List(_))
}

#[cfg(test)]
mod tests;
