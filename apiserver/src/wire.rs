//! Objects as bytes at rest: how they are laid out, and how to answer with them without reading them.
//!
//! A stored object is JSON that begins `{"kind":K,"apiVersion":V,"metadata":{`, as upstream writes it too. Its revision is
//! not in the bytes: it is put in behind that head when the object goes out.

use crate::error::{ApiError, Result};
use bytes::Bytes;
use minik_apimachinery::{facts, proto};
use minik_storage::Revision;
use serde_json::{Map, Value};

const HEAD: &[&str] = &["kind", "apiVersion", "metadata"];

/// The bytes at rest of a tree. A resourceVersion in its metadata is left out.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    out.extend_from_slice(b"{\"kind\":");
    push(&mut out, &Value::from(text("kind")));
    out.extend_from_slice(b",\"apiVersion\":");
    push(&mut out, &Value::from(text("apiVersion")));
    out.extend_from_slice(b",\"metadata\":{");
    let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        push_field(&mut out, &mut first, name, value);
    }
    out.push(b'}');
    first = false;
    for (name, value) in fields.iter().filter(|(name, _)| !HEAD.contains(&name.as_str())) {
        push_field(&mut out, &mut first, name, value);
    }
    out.push(b'}');
    // These bytes are kept, once for the store and all caches; what they grew beyond is given back.
    out.shrink_to_fit();
    out.into()
}

fn push_field(out: &mut Vec<u8>, first: &mut bool, name: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    push(out, &Value::from(name));
    out.push(b':');
    push(out, value);
}

/// Appends a value as JSON.
pub fn push(out: &mut Vec<u8>, value: &Value) {
    // Trees have text keys only and memory does not fail.
    serde_json::to_writer(out, value).expect("a JSON tree can be written to memory");
}

/// Where the head of bytes at rest ends: (behind the type, behind the metadata's opening brace). `None` for another layout.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = skip(bytes, 0, b"{\"kind\":\"")?;
    at += quoted(&bytes[at..])?;
    at = skip(bytes, at, b",\"apiVersion\":\"")?;
    at += quoted(&bytes[at..])?;
    let typed = skip(bytes, at, b",")?;
    Some((typed, skip(bytes, typed, b"\"metadata\":{")?))
}

fn skip(bytes: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(text).then_some(at + text.len())
}

/// Behind the quote that ends a plain text; kinds and versions have no escapes.
fn quoted(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| *byte == b'"' || *byte == b'\\')?;
    (bytes[end] == b'"').then_some(end + 1)
}

/// Brings stored bytes of whatever layout into ours.
///
/// # Errors
/// When they are no object.
pub fn at_rest(bytes: Bytes) -> std::result::Result<Bytes, Unreadable> {
    if head(&bytes).is_some() {
        return Ok(bytes);
    }
    if !bytes.starts_with(b"k8s\0") {
        let value: Value = serde_json::from_slice(&bytes)?;
        return Ok(encode(&value));
    }
    let envelope = proto::Envelope::open(&bytes)?;
    let ty = facts::kind(&envelope.api_version, &envelope.kind)
        .ok_or_else(|| Unreadable::Kind(envelope.api_version.clone(), envelope.kind.clone()))?;
    Ok(encode(&proto::decode(&envelope, ty)?))
}

/// Why stored bytes are no object. Final.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are no JSON.
    #[error("it is no JSON")]
    Json(#[from] serde_json::Error),
    /// They are no protobuf of their kind.
    #[error("it is no protobuf of its kind")]
    Proto(#[from] proto::ProtoError),
    /// Their kind is not known.
    #[error("its kind {1} in {0} is not known")]
    Kind(String, String),
}

/// Which of an object's type is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// Kind and apiVersion stand at the beginning.
    Yes,
    /// They are left out, as in lists.
    No,
}

/// Appends an object with its revision. Without a revision (a dry run's new object) it stays as it is.
pub fn splice(out: &mut Vec<u8>, bytes: &[u8], revision: Option<Revision>, typed: Typed) {
    let Some((after_type, inside)) = head(bytes) else {
        // What the cache holds has our layout; anything else goes out as it is.
        return out.extend_from_slice(bytes);
    };
    match typed {
        Typed::Yes => out.extend_from_slice(&bytes[..inside]),
        Typed::No => {
            out.push(b'{');
            out.extend_from_slice(&bytes[after_type..inside]);
        }
    }
    if let Some(revision) = revision {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        let mut digits = [0; 20];
        out.extend_from_slice(decimal(revision.0, &mut digits));
        out.push(b'"');
        if bytes.get(inside) != Some(&b'}') {
            out.push(b',');
        }
    }
    out.extend_from_slice(&bytes[inside..]);
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// An object's bytes with its revision.
pub fn with_revision(bytes: &[u8], revision: Option<Revision>) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 48);
    splice(&mut out, bytes, revision, Typed::Yes);
    out.into()
}

/// The tree of stored bytes, with its revision.
///
/// # Errors
/// When they are no JSON: the store is damaged.
pub fn tree(bytes: &[u8], revision: Option<Revision>) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::Internal(format!("a stored object cannot be read: {error}")))?;
    if let (Some(revision), Some(metadata)) =
        (revision, value.get_mut("metadata").and_then(Value::as_object_mut))
    {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spliced(bytes: &[u8], revision: Option<u64>, typed: Typed) -> Value {
        let mut out = Vec::new();
        splice(&mut out, bytes, revision.map(Revision), typed);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_revision_is_put_into_the_bytes() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "7"},
            "data": {"x": "\"metadata\":{"}});
        let bytes = encode(&object);
        assert!(bytes.starts_with(b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\""));
        assert_eq!(spliced(&bytes, None, Typed::Yes)["metadata"], json!({"name": "a"}));
        let seen = spliced(&bytes, Some(120), Typed::No);
        assert_eq!(
            seen,
            json!({"metadata": {"name": "a", "resourceVersion": "120"}, "data": {"x": "\"metadata\":{"}})
        );
    }

    #[test]
    fn another_layout_is_brought_into_ours() {
        let other = Bytes::from_static(b"{\"metadata\":{},\"apiVersion\":\"v1\",\"kind\":\"X\"}");
        let ours = at_rest(other).unwrap();
        assert_eq!(&ours[..], b"{\"kind\":\"X\",\"apiVersion\":\"v1\",\"metadata\":{}}");
        assert_eq!(spliced(&ours, Some(0), Typed::Yes)["metadata"]["resourceVersion"], "0");
        assert!(at_rest(Bytes::from_static(b"k8s\0")).is_err());
        assert!(at_rest(Bytes::from_static(b"[1")).is_err());
    }

    #[test]
    fn stored_protobuf_is_read() {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}});
        let ty = facts::kind("v1", "ConfigMap").unwrap();
        let ours = at_rest(proto::encode(&object, ty).into()).unwrap();
        let seen: Value = serde_json::from_slice(&ours).unwrap();
        assert_eq!((&seen["data"], &seen["metadata"]["name"]), (&json!({"x": "y"}), &json!("a")));
    }
}
