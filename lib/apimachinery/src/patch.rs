//! The three patches of the API: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.
//!
//! ```text
//!  body ──> Patch::parse ──> Patch ──apply(object)──> tree ──> decode::normalize (a failure there is the patch's fault)
//! ```
//!
//! A patch is parsed once and can be applied again to a newer object. What is wrong with the body is told from what
//! does not fit the object, since the API answers them differently.

mod json;
mod strategic;

use crate::decode;
use crate::facts::TypeId;
use serde_json::{Map, Value};

/// The most operations of a JSON patch.
pub const MOST_OPERATIONS: usize = 10_000;
/// How much the copies of one JSON patch may add, as much as a request's body may hold.
pub const MOST_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// How many values one JSON patch may move, by adding or removing before them in their list or by taking them elsewhere: some
/// tenths of a second's work.
pub const MOST_MOVED_VALUES: usize = 20_000_000;

/// Which patch a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

/// Whether the writer wants to hear of unknown and duplicate fields (`fieldValidation` Warn and Strict).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Findings {
    /// They are looked for; the body must then also have the shape of its type.
    Wanted,
    /// They are passed over.
    Ignored,
}

/// Why a patch does not work. All are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The body is no patch (a bad request).
    #[error("{0}")]
    Malformed(String),
    /// Too many operations (a request too large).
    #[error("a JSON patch may have {MOST_OPERATIONS} operations, this one has {0}")]
    TooMany(usize),
    /// The patch does not fit the object (unprocessable).
    #[error("{0}")]
    Inapplicable(String),
    /// A strategic merge that the object's type gives no meaning (stock calls it an internal error).
    #[error("{0}")]
    Unmergeable(String),
}

/// A parsed patch.
#[derive(Debug, Clone)]
pub struct Patch(Body);

#[derive(Debug, Clone)]
enum Body {
    Json(Vec<json::Operation>),
    Merge(Value),
    Strategic(Map<String, Value>),
}

impl Patch {
    /// Reads a body; beside the patch come its unknown and duplicate fields, when wanted.
    ///
    /// # Errors
    /// [`PatchError::Malformed`], [`PatchError::TooMany`].
    pub fn parse(
        form: PatchType,
        body: &[u8],
        findings: Findings,
    ) -> Result<(Patch, Vec<String>), PatchError> {
        let malformed = |error: decode::DecodeError| PatchError::Malformed(error.to_string());
        let read = decode::parse(body).map_err(malformed)?;
        let wanted = findings == Findings::Wanted;
        let mut found = if wanted { read.findings } else { Vec::new() };
        let body = match (form, read.value) {
            (PatchType::Json, value) => Body::Json(json::parse(value, findings, &mut found)?),
            (PatchType::Strategic, Value::Object(fields)) => Body::Strategic(fields),
            // Go reads a null into a map as an empty one.
            (PatchType::Strategic, Value::Null) => Body::Strategic(Map::new()),
            (PatchType::Merge, value @ Value::Object(_)) => Body::Merge(value),
            (PatchType::Merge, value @ Value::Array(_)) if !wanted => Body::Merge(value),
            _ => return Err(PatchError::Malformed("the patch must be an object".to_owned())),
        };
        Ok((Patch(body), found))
    }

    /// What the object becomes. The result is not yet in the form of its type.
    ///
    /// # Errors
    /// [`PatchError::Inapplicable`]; a strategic merge patch also [`PatchError::Malformed`], since only the type tells
    /// what its directives mean, and [`PatchError::Unmergeable`].
    pub fn apply(&self, object: Value, ty: TypeId) -> Result<Value, PatchError> {
        match &self.0 {
            Body::Json(operations) => json::apply(operations, object),
            Body::Merge(patch) => Ok(merge(object, patch.clone())),
            Body::Strategic(patch) => strategic::apply(object, patch.clone(), ty),
        }
    }

    /// What an object without a type in the fact table (a custom resource) becomes.
    ///
    /// # Errors
    /// As [`Patch::apply`]; a strategic merge patch is [`PatchError::Malformed`].
    pub fn apply_untyped(&self, object: Value) -> Result<Value, PatchError> {
        match &self.0 {
            Body::Json(operations) => json::apply(operations, object),
            Body::Merge(patch) => Ok(merge(object, patch.clone())),
            Body::Strategic(_) => {
                Err(PatchError::Malformed("this kind takes no strategic merge patch".to_owned()))
            }
        }
    }
}

/// A JSON merge patch.
fn merge(target: Value, patch: Value) -> Value {
    match (target, patch) {
        (Value::Object(mut target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(&name);
                    continue;
                }
                let merged = match target.remove(&name) {
                    None | Some(Value::Null) => without_nulls(value),
                    Some(old) => merge(old, value),
                };
                target.insert(name, merged);
            }
            Value::Object(target)
        }
        (Value::Object(_), patch) => patch,
        (_, patch) => without_nulls(patch),
    }
}

/// What a patch sets where nothing was: its nulls, which remove, have nothing to remove. A list keeps its own.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests;
