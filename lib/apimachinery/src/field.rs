//! Where in an object something is wrong, and in what way: [`Path`], [`FieldError`], [`ErrorList`].
//!
//! A field error carries no HTTP: whoever answers the request turns a list into a `Status` whose causes are
//! [`FieldError::reason`], [`FieldError::body`] and the path.

use std::fmt;

use serde_json::Value;

/// The way to a field, as it is printed in a cause: `spec.containers[0].env[1].name`, `data[key]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

impl Path {
    /// The path of a field at the top of an object.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of nothing: children of it stand at the top of an object.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// A field of the object at this path. `name` may hold several steps joined by dots.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self::new(name);
        }
        let mut s = String::with_capacity(self.0.len() + 1 + name.len());
        s.push_str(&self.0);
        s.push('.');
        s.push_str(name);
        Self(s)
    }

    /// An item of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A value of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cause without a field still has a word for it.
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// In what way a field is wrong; the reason of a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldErrorKind {
    /// What the field names does not exist.
    NotFound,
    /// The field must be there.
    Required,
    /// The value must be unique and is not.
    Duplicate,
    /// The value is malformed, out of bounds, or may not change.
    Invalid,
    /// The value is none of those that are known.
    NotSupported,
    /// The value is well-formed but not allowed here and now.
    Forbidden,
    /// The value has too many characters or bytes.
    TooLong,
    /// The value has too few characters or bytes.
    TooShort,
    /// The list or map has too many items.
    TooMany,
    /// The list or map has too few items.
    TooFew,
    /// The value has another type than the field.
    TypeInvalid,
    /// The check itself failed.
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of a status cause.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing that is wrong with one field. Final: the same object is refused again.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// In what way it is wrong.
    pub kind: FieldErrorKind,
    /// Where.
    pub path: Path,
    /// The value that was found, when it helps to see it.
    pub value: Option<Value>,
    /// What would have been right.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.clone(), value, detail: detail.into() }
    }

    /// The field must be there.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail)
    }

    /// The value is malformed, out of bounds, or may not change.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// The value has another type than the field.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut detail = String::new();
        if !supported.is_empty() {
            let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            detail = format!("supported values: {}", quoted.join(", "));
        }
        Self::new(FieldErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// The value is well-formed but not allowed here and now.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// The value stands elsewhere already.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// What the field names does not exist.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// More than `max` bytes; the value itself is left out of the message.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// `actual` items where at most `max` may be.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(
            FieldErrorKind::TooMany,
            path,
            Some(actual.into()),
            format!("must have at most {max} {unit}"),
        )
    }

    /// The check itself failed.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, None, detail)
    }

    /// The `reason` of the status cause.
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }

    /// The `message` of the status cause: what is wrong, without the path.
    pub fn body(&self) -> String {
        let mut s = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            s.push_str(": ");
            match value {
                Value::String(text) => s.push_str(&format!("{text:?}")),
                other => s.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Most errors that are told of one object: one with a hundred thousand wrong elements is known to be wrong without the rest.
const MOST_ERRORS: usize = 1000;

/// Everything that is wrong with an object, up to a number; empty when nothing is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorList(Vec<FieldError>);

impl ErrorList {
    /// A list without errors.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one error.
    pub fn push(&mut self, error: FieldError) {
        if self.0.len() < MOST_ERRORS {
            self.0.push(error);
        }
    }

    /// Drops errors that read like one before them.
    pub fn dedup(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.0.retain(|error| seen.insert(error.to_string()));
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many errors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// One line for the message of a `Status`: equal errors once, several in brackets.
    pub fn aggregate(&self) -> String {
        let mut seen = std::collections::HashSet::new();
        let texts = self.0.iter().map(FieldError::to_string);
        let texts: Vec<String> = texts.filter(|text| seen.insert(text.clone())).collect();
        match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }
    }
}

impl Extend<FieldError> for ErrorList {
    fn extend<T: IntoIterator<Item = FieldError>>(&mut self, iter: T) {
        iter.into_iter().for_each(|error| self.push(error));
    }
}

impl FromIterator<FieldError> for ErrorList {
    fn from_iter<T: IntoIterator<Item = FieldError>>(iter: T) -> Self {
        let mut list = Self::new();
        list.extend(iter);
        list
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<FieldError> for ErrorList {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_like_causes() {
        let p = Path::new("spec").child("containers").index(0).child("env").key("a.b");
        assert_eq!(p.as_str(), "spec.containers[0].env[a.b]");
        assert_eq!(Path::root().child("kind").to_string(), "kind");
        assert_eq!(Path::root().to_string(), "<nil>");
    }

    #[test]
    fn bodies_name_the_value_and_what_would_be_right() {
        let p = Path::new("spec").child("x");
        assert_eq!(
            FieldError::invalid(&p, 5, "must be less").to_string(),
            "spec.x: Invalid value: 5: must be less"
        );
        assert_eq!(
            FieldError::not_supported(&p, "c", &["a", "b"]).to_string(),
            r#"spec.x: Unsupported value: "c": supported values: "a", "b""#
        );
        let list: ErrorList =
            [FieldError::required(&p, ""), FieldError::required(&p, ""), FieldError::duplicate(&p, "v")]
                .into_iter()
                .collect();
        assert_eq!(list.aggregate(), r#"[spec.x: Required value, spec.x: Duplicate value: "v"]"#);
        let many: ErrorList = (0..100_000).map(|at| FieldError::required(&p.index(at), "")).collect();
        assert_eq!(many.len(), MOST_ERRORS);
    }
}
