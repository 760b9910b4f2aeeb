//! Label selectors.

use super::SelectorError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Something that has labels.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has another value.
    NotIn,
    /// The label has the value (`=`).
    Equals,
    /// The label has the value (`==`).
    DoubleEquals,
    /// The label is absent or has another value (`!=`).
    NotEquals,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer above the value.
    Gt,
    /// The label is an integer below the value.
    Lt,
}

impl Operator {
    /// Its name in `matchExpressions` of labels or nodes.
    pub fn by_name(name: &str) -> Option<Operator> {
        Some(match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Operator::In => "in",
            Operator::NotIn => "notin",
            Operator::Equals => "=",
            Operator::DoubleEquals => "==",
            Operator::NotEquals => "!=",
            Operator::Exists => "exists",
            Operator::DoesNotExist => "!",
            Operator::Gt => ">",
            Operator::Lt => "<",
        }
    }
}

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// A requirement, when key, operator and values go together.
    ///
    /// # Errors
    /// A malformed key or value, a number of values that the operator does not take.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        if let Some(problem) = label_key_problem(key) {
            return Err(SelectorError::Key { key: key.to_owned(), problem });
        }
        let count =
            |wanted| SelectorError::Count { operator: operator.text(), wanted, values: values.clone() };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => return Err(count("at least one value")),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                return Err(count("one value"));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err(count("no values"));
            }
            Operator::Gt | Operator::Lt if values.len() != 1 || values[0].parse::<i64>().is_err() => {
                return Err(count("one integer"));
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            if let Some(problem) = label_value_problem(value) {
                let (key, value) = (key.to_owned(), value.clone());
                return Err(SelectorError::Value { key, at, value, problem });
            }
        }
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// With what.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether labels meet it.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        let among = |value: &str| self.values.iter().any(|one| one == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => {
                let number = |text: &str| text.parse::<i64>().ok();
                let sides = (value.and_then(number), self.values.first().and_then(|one| number(one)));
                match sides {
                    (Some(left), Some(right)) if self.operator == Operator::Gt => left > right,
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In | Operator::NotIn => {
                write!(f, "{key} {} ({})", self.operator.text(), self.values.join(","))
            }
            _ => write!(f, "{key}{}{}", self.operator.text(), self.values.join(",")),
        }
    }
}

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: false }
    }

    /// Matches nothing.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// All of some requirements.
    pub fn all_of(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Reads the text of a `labelSelector` parameter.
    ///
    /// # Errors
    /// See [`SelectorError`].
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        Parser { tokens: tokens(text), at: 0 }.selector().map(LabelSelector::all_of)
    }

    /// Reads a `LabelSelector` object; none or null matches nothing.
    ///
    /// # Errors
    /// See [`SelectorError`].
    pub fn from_object(selector: Option<&Value>) -> Result<LabelSelector, SelectorError> {
        let Some(Value::Object(selector)) = selector else { return Ok(LabelSelector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for one in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = Operator::by_name(text("operator"))
                .filter(|operator| !matches!(operator, Operator::Gt | Operator::Lt))
                .ok_or_else(|| SelectorError::Operator(text("operator").to_owned()))?;
            let values = one.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(LabelSelector::all_of(requirements))
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(labels))
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Its requirements, by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// What is wrong with a label's key: `[DNS-SUBDOMAIN/]NAME`.
pub fn label_key_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        let label = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !part.is_empty()
                && part.bytes().all(|byte| inner(byte) || byte == b'-')
                && part.bytes().next().is_some_and(inner)
                && part.bytes().last().is_some_and(inner)
        };
        if prefix.is_empty() || prefix.len() > 253 || !prefix.split('.').all(label) {
            return Some("the prefix must be a DNS subdomain of at most 253 characters".to_owned());
        }
    }
    if name.is_empty() {
        return Some("the name part must not be empty".to_owned());
    }
    (name.len() > 63 || !is_name(name)).then(|| {
        "the name part must be at most 63 letters, digits, '-', '_' or '.', and begin and end with a letter or digit"
            .to_owned()
    })
}

/// What is wrong with a label's value.
pub fn label_value_problem(value: &str) -> Option<String> {
    (value.len() > 63 || !(value.is_empty() || is_name(value))).then(|| {
        "a label value must be empty or at most 63 letters, digits, '-', '_' or '.', and begin and end with a letter or digit"
            .to_owned()
    })
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().all(|byte| inner(byte) || matches!(byte, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    Unknown(&'a str),
    End,
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) | Token::Unknown(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", ")", ",", "!", "=", ">", "<", "("];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(blank);
    while let Some(first) = rest.chars().next() {
        // A zero byte ends the text, as it does in stock.
        if first == '\0' {
            break;
        }
        let (token, len) = if special(first) {
            match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => (Token::Unknown(&rest[..1]), 1),
            }
        } else {
            let len = rest.find(|c| special(c) || blank(c) || c == '\0').unwrap_or(rest.len());
            (Token::Word(&rest[..len]), len)
        };
        tokens.push(token);
        rest = rest[len..].trim_start_matches(blank);
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn wrong<T>(&self, found: Token<'_>, expected: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError::Syntax { found: found.text().to_owned(), expected })
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => requirements.push(self.requirement()?),
                other => return self.wrong(other, "!, identifier, or 'end of string'"),
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => {
                    if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
                        return self.wrong(self.peek(), "identifier after ','");
                    }
                }
                other => return self.wrong(other, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let absent = token == Token::Symbol("!");
        if absent {
            token = self.next();
        }
        let Token::Word(key) = token else { return self.wrong(token, "identifier") };
        if let Some(problem) = label_key_problem(key) {
            return Err(SelectorError::Key { key: key.to_owned(), problem });
        }
        // After a `!` nothing else is looked at here: whoever called finds what stands there.
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::Gt,
            Token::Symbol("<") => Operator::Lt,
            other => return self.wrong(other, "in, notin, =, ==, !=, gt, lt"),
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.value()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            _ => match self.next() {
                Token::Word(value) => Ok(value.to_owned()),
                other => self.wrong(other, "identifier"),
            },
        }
    }

    /// `(a, b)`; what is left out between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return self.wrong(other, "'('"),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(value) => {
                    self.at += 1;
                    values.push(value.to_owned());
                }
                Token::Symbol("," | ")") => values.push(String::new()),
                other => return self.wrong(other, "',', ')' or identifier"),
            }
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return self.wrong(other, "',' or ')'"),
            }
        }
    }
}
