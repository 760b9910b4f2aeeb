//! Field selectors. Which fields a kind can be selected by is its strategy's to say.

use super::SelectorError;
use std::fmt;

/// One term: a field equals a value, or does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldTerm {
    /// The field, such as `metadata.name`.
    pub field: String,
    /// Whether it must equal the value (or must not).
    pub equal: bool,
    /// The value.
    pub value: String,
}

impl FieldTerm {
    /// Whether a field's value meets it.
    pub fn matches(&self, value: &str) -> bool {
        (self.value == value) == self.equal
    }
}

/// A field selector: all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the text of a `fieldSelector` parameter.
    ///
    /// # Errors
    /// [`SelectorError::Term`], [`SelectorError::Escape`].
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (field, equal, value) = split_term(part)
                .ok_or_else(|| SelectorError::Term { selector: text.to_owned(), term: part.to_owned() })?;
            terms.push(FieldTerm { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(FieldSelector { terms })
    }

    /// Its terms.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object matches, whose fields `get` tells; a field that is not told is empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| term.matches(get(&term.field).unwrap_or_default()))
    }

    /// The value that a field must have, if one is demanded.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            let (comma, operator) = (if at > 0 { "," } else { "" }, if term.equal { "=" } else { "!=" });
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at =
        term.char_indices().find(|(at, c)| *c == '=' || term[*at..].starts_with("!=")).map(|(at, _)| at)?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).map(|value| (field, true, value))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let bad = || SelectorError::Escape(value.to_owned());
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                _ => return Err(bad()),
            },
            ',' | '=' => return Err(bad()),
            other => plain.push(other),
        }
    }
    Ok(plain)
}
