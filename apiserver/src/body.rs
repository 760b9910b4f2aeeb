//! Bodies: from bytes of any accepted encoding to a tree of the expected kind.

use crate::error::{ApiError, Result};
use crate::negotiate::Encoding;
use crate::object::Object;
use minik_apimachinery::decode::{self, Decoded};
use minik_apimachinery::facts::{self, TypeId};
use minik_apimachinery::proto;
use serde_json::Value;

/// The largest body that is read, as upstream has it.
pub const MOST_BYTES: usize = 3 << 20;

/// What happens with unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// They are refused.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; warning is the default, any other word is none.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }

    /// Turns findings into warnings or a refusal.
    ///
    /// # Errors
    /// 400 when strict and there are any.
    pub fn judge(self, findings: Vec<String>) -> Result<Vec<String>> {
        match self {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(findings),
            FieldValidation::Strict if findings.is_empty() => Ok(findings),
            FieldValidation::Strict => {
                Err(ApiError::BadRequest(format!("strict decoding error: {}", findings.join(", "))))
            }
        }
    }
}

/// The kind that a path expects.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Its `apiVersion`.
    pub api_version: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its facts.
    pub ty: TypeId,
}

impl<'a> Expected<'a> {
    /// The kind with these names.
    ///
    /// # Errors
    /// When the fact tables do not have it, which is a defect of a resource's description.
    pub fn of(api_version: &'a str, kind: &'a str) -> Result<Expected<'a>> {
        let ty = facts::kind(api_version, kind)
            .ok_or_else(|| ApiError::Internal(format!("no facts of {kind} in {api_version}")))?;
        Ok(Expected { api_version, kind, ty })
    }
}

/// Reads a body as an object of the expected kind. An absent apiVersion or kind is taken from what is expected.
///
/// # Errors
/// 400 for malformed text, values of wrong types, or another version or kind; 413 for what would take too much memory.
pub fn read(bytes: &[u8], encoding: Encoding, expected: Expected<'_>) -> Result<Decoded> {
    if bytes.len() > MOST_BYTES {
        return Err(ApiError::TooLarge(MOST_BYTES));
    }
    let cannot = |problem: String| {
        let (kind, version) = (expected.kind, version(expected.api_version));
        let message = format!("{kind} in version {version:?} cannot be handled as a {kind}: {problem}");
        let is_too_much = problem.contains(decode::TOO_MUCH);
        if is_too_much { ApiError::TooManyValues(message) } else { ApiError::BadRequest(message) }
    };
    let mut decoded = match encoding {
        Encoding::Json => decode::decode(bytes, expected.ty).map_err(|error| cannot(error.to_string()))?,
        Encoding::Yaml => {
            decode::normalize(yaml(bytes)?, expected.ty).map_err(|error| cannot(error.to_string()))?
        }
        Encoding::Protobuf => {
            let envelope = proto::Envelope::open(bytes).map_err(|error| cannot(error.to_string()))?;
            let value = proto::decode(&envelope, expected.ty).map_err(|error| cannot(error.to_string()))?;
            Decoded { value, findings: Vec::new() }
        }
    };
    check_kind(&mut decoded.value, expected)?;
    Ok(decoded)
}

fn version(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or(api_version)
}

/// Parses a YAML document as a tree.
///
/// # Errors
/// 400 with the parser's words.
pub fn yaml(bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiError::BadRequest(format!("error converting YAML to JSON: {error}")))?;
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        decode::untyped(reader)
    });
    read.map(|decoded| decoded.value)
        .map_err(|error| ApiError::BadRequest(format!("error converting YAML to JSON: {error}")))
}

/// Compares what an object says it is with what is expected, and fills in what it does not say.
///
/// # Errors
/// 400 for another version or kind.
pub fn check_kind(object: &mut Value, expected: Expected<'_>) -> Result<()> {
    let said = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (said("apiVersion"), said("kind"));
    if !kind.is_empty() && kind != expected.kind {
        return Err(ApiError::BadRequest(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            expected.kind
        )));
    }
    if !api_version.is_empty() && api_version != expected.api_version {
        let message = format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version
        );
        return Err(ApiError::BadRequest(message));
    }
    if let Value::Object(fields) = object {
        fields.insert("apiVersion".into(), expected.api_version.into());
        fields.insert("kind".into(), expected.kind.into());
    }
    Ok(())
}

/// Brings the namespace of an object and that of the request together.
///
/// # Errors
/// 400 when they differ.
pub fn check_namespace(object: &mut Value, namespaced: bool, namespace: &str) -> Result<()> {
    if !namespaced {
        // A namespace in a cluster-wide object is dropped, not refused.
        object.set_meta("namespace", "");
        return Ok(());
    }
    match object.meta("namespace") {
        "" => object.set_meta("namespace", namespace),
        said if said == namespace => {}
        _ => {
            return Err(ApiError::BadRequest(
                "the namespace of the provided object does not match the namespace sent on the request"
                    .into(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, want: std::result::Result<&str, u16>) {
        let expected = Expected::of("v1", "ConfigMap").unwrap();
        let seen = read(body.as_bytes(), Encoding::Yaml, expected).map_err(|error| error.code().0.as_u16());
        assert_eq!(
            seen.as_ref().map(|decoded| decoded.value.meta("name")).map_err(|code| *code),
            want,
            "{body}"
        );
    }

    #[test]
    fn a_body_is_what_the_path_expects() {
        check("{metadata: {name: a}}", Ok("a"));
        check("{kind: ConfigMap, apiVersion: v1, metadata: {name: a}}", Ok("a"));
        check("{kind: Secret, metadata: {name: a}}", Err(400));
        check("{apiVersion: v2, metadata: {name: a}}", Err(400));
        check("{data: 1}", Err(400));
        check("{", Err(400));
        check("- a", Err(400));
    }

    #[test]
    fn findings_are_judged_by_the_level() {
        let found = || vec!["unknown field \"x\"".to_owned()];
        assert_eq!(FieldValidation::Ignore.judge(found()).unwrap().len(), 0);
        assert_eq!(FieldValidation::Warn.judge(found()).unwrap().len(), 1);
        assert!(FieldValidation::Strict.judge(found()).is_err());
        assert!(FieldValidation::parse("strict").is_none());
    }
}
