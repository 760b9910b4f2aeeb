//! Reading an object: JSON (or a tree) becomes the tree that decoding it into upstream's Go type and encoding it
//! again would give.
//!
//! One visitor walks text and type together, so that unknown and duplicate fields are seen where they stand, and what
//! is read is checked, made canonical and pruned in the same pass:
//! - an empty value of a field that is no pointer and bears `omitempty` is absent (but for two); a struct held by value is always there;
//! - `null` is absence; a list or map without `omitempty` that is absent is `null`;
//! - quantities and times are canonical.

use crate::facts::{Field, Kind, TypeId};
use crate::quantity::Quantity;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

/// Deepest nesting of a text, as Go's decoder has it. What is kept of a text is nested less deeply still; this is for
/// what is passed over.
const DEEPEST: usize = 10_000;
/// Deepest nesting of what is kept: whoever reads it again from the store goes no deeper than 127.
pub(crate) const DEEPEST_KEPT: usize = 120;
/// Most unknown or duplicate fields that are remembered; one object gives no more warnings.
const MOST_FINDINGS: usize = 100;
/// As much of a path and of a name as a finding tells: both may be as long as the text.
const MOST_TOLD_BYTES: usize = 1024;
/// The memory that a tree may take: a text of few bytes may become very many empty structs.
const MOST_TREE_BYTES: usize = 16 << 20;
/// About what a tree's values take: a list's element (lists grow by doubling), each field of a typed view of it, a map's
/// first leaf, its further entries, and the allocation of a text.
const ITEM_BYTES: usize = 2 * size_of::<Value>();
const FIELD_BYTES: usize = 64;
const LEAF_BYTES: usize = 640;
const LEAF_ENTRIES: usize = 11;
const ENTRY_BYTES: usize = 110;
const TEXT_BYTES: usize = 16;

/// What is told when a tree would take more.
pub const TOO_MUCH: &str = "the object holds too many values";

/// A decoded object.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The tree.
    pub value: Value,
    /// Unknown and duplicate fields, in the order of the text: `unknown field "spec.x"`.
    pub findings: Vec<String>,
}

/// A text that is no object of its type. Final.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

/// Reads JSON text as an object of a type.
///
/// # Errors
/// Malformed JSON, a value of the wrong type, an integer out of range, a malformed quantity, time or base64.
pub fn decode(json: &[u8], ty: TypeId) -> Result<Decoded, DecodeError> {
    check_depth(json)?;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let decoded = read(&mut reader, ty)?;
    reader.end().map_err(|error| DecodeError(error.to_string()))?;
    Ok(decoded)
}

/// Refuses a text that is nested too deeply.
fn check_depth(json: &[u8]) -> Result<(), DecodeError> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > DEEPEST {
                    return Err(DecodeError("exceeded max depth".to_owned()));
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Reads JSON text without a type, such as a patch; the findings are its duplicate fields.
///
/// # Errors
/// Malformed JSON.
pub fn parse(json: &[u8]) -> Result<Decoded, DecodeError> {
    check_depth(json)?;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let decoded = untyped(&mut reader).map_err(|error| DecodeError(error.to_string()))?;
    reader.end().map_err(|error| DecodeError(error.to_string()))?;
    Ok(decoded)
}

/// Reads anything that serde can read without a type, as [`parse`] does JSON.
///
/// # Errors
/// The reader's, and what is too large or nested too deeply.
pub fn untyped<'de, D: Deserializer<'de>>(reader: D) -> Result<Decoded, D::Error> {
    untyped_within(reader, &Room::default())
}

pub(crate) fn untyped_within<'de, D: Deserializer<'de>>(reader: D, room: &Room) -> Result<Decoded, D::Error> {
    let cx = Context::new(room);
    let value = Untyped { cx: &cx, tells: true }.deserialize(reader)?;
    Ok(Decoded { value, findings: cx.findings.into_inner() })
}

/// Brings a tree (a patched object, a parsed YAML document) into the form of its type.
///
/// # Errors
/// As [`decode`].
pub fn normalize(tree: Value, ty: TypeId) -> Result<Decoded, DecodeError> {
    read(tree, ty)
}

/// Reads from anything that serde can read.
///
/// # Errors
/// As [`decode`].
pub fn read<'de, D: Deserializer<'de>>(reader: D, ty: TypeId) -> Result<Decoded, DecodeError> {
    let room = Room::default();
    let cx = Context::new(&room);
    let value = Seed { kind: Kind::Struct(ty), cx: &cx }
        .deserialize(reader)
        .map_err(|error| DecodeError(error.to_string()))?;
    let value = if value.is_null() { zero(Kind::Struct(ty)) } else { value };
    Ok(Decoded { value, findings: cx.findings.into_inner() })
}

/// The zero value of a kind, as it would be encoded.
pub fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::Float | Kind::IntOrString => Value::from(0),
        Kind::String => Value::from(""),
        Kind::Quantity => Value::from("0"),
        Kind::Struct(ty) => finish(ty, Map::new()),
        Kind::Bytes
        | Kind::Time
        | Kind::MicroTime
        | Kind::Fields
        | Kind::Raw
        | Kind::Any
        | Kind::List(_)
        | Kind::Map(_) => Value::Null,
    }
}

struct Context<'a> {
    path: RefCell<Vec<Step>>,
    findings: RefCell<Vec<String>>,
    room: &'a Room,
}

/// The memory that is left for a tree.
pub(crate) struct Room(Cell<usize>);

impl Default for Room {
    fn default() -> Room {
        Room(Cell::new(MOST_TREE_BYTES))
    }
}

impl Room {
    /// Takes some; gives whether there was so much.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// For a list's next element. A typed view of it has room for each of its fields, given or not.
    #[must_use]
    pub fn item(&self, kind: Kind) -> bool {
        let fields = if let Kind::Struct(ty) = kind { ty.facts().fields.len() } else { 0 };
        self.take(ITEM_BYTES + fields * FIELD_BYTES)
    }

    /// For a text.
    #[must_use]
    pub fn text(&self, text: &str) -> bool {
        self.take(TEXT_BYTES + text.len())
    }

    /// For a map's next entry, when it has so many already.
    #[must_use]
    pub fn entry(&self, have: usize, key: &str) -> bool {
        let place = match have {
            0 => LEAF_BYTES,
            1..LEAF_ENTRIES => 0,
            _ => ENTRY_BYTES,
        };
        self.take(place) && self.text(key)
    }

    /// For a value as it stands.
    #[must_use]
    pub fn value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().all(|item| self.item(Kind::Any) && self.value(item)),
            Value::Object(fields) => {
                fields.iter().enumerate().all(|(at, (name, value))| self.entry(at, name) && self.value(value))
            }
            _ => true,
        }
    }
}

enum Step {
    Field(Cow<'static, str>),
    Index(usize),
    Key(String),
}

impl<'a> Context<'a> {
    fn new(room: &'a Room) -> Self {
        Context { path: RefCell::default(), findings: RefCell::default(), room }
    }

    fn path(&self) -> String {
        let mut text = String::new();
        for step in self.path.borrow().iter() {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => text.push_str(&format!(".{name}")),
                Step::Index(at) => text.push_str(&format!("[{at}]")),
                Step::Key(key) => text.push_str(&format!("[{key}]")),
            }
        }
        text
    }

    fn within<T>(&self, step: Step, read: impl FnOnce() -> T) -> T {
        self.path.borrow_mut().push(step);
        let result = read();
        self.path.borrow_mut().pop();
        result
    }

    fn find(&self, what: &str, name: &str) {
        let mut findings = self.findings.borrow_mut();
        if findings.len() < MOST_FINDINGS {
            let path = self.path();
            let dot = if path.is_empty() { "" } else { "." };
            let (path, name) = (beginning(&path), beginning(name));
            findings.push(format!("{what} field \"{path}{dot}{name}\""));
        }
    }

    /// Whether a value may stand here.
    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.path.borrow().len() > DEEPEST_KEPT { Err(E::custom("exceeded max depth")) } else { Ok(()) }
    }

    /// Refuses what there was no room for.
    fn fits<E: serde::de::Error>(&self, had_room: bool) -> Result<(), E> {
        if had_room { Ok(()) } else { Err(E::custom(TOO_MUCH)) }
    }
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TOLD_BYTES)]
}

/// Reads one value of a kind; `null` gives [`Value::Null`], whose meaning the holder knows.
#[derive(Clone, Copy)]
struct Seed<'a> {
    kind: Kind,
    cx: &'a Context<'a>,
}

impl Seed<'_> {
    fn wrong<E: serde::de::Error>(&self, found: &str) -> E {
        let path = self.cx.path();
        let place = if path.is_empty() { String::new() } else { format!("field {path} of ") };
        E::custom(format!("json: cannot unmarshal {found} into {place}type {}", type_name(self.kind)))
    }

    fn bad<E: serde::de::Error>(&self, problem: impl fmt::Display) -> E {
        E::custom(format!("{}: {problem}", self.cx.path()))
    }
}

/// Reads any value.
#[derive(Clone, Copy)]
struct Untyped<'a> {
    cx: &'a Context<'a>,
    /// Whether duplicate fields are findings.
    tells: bool,
}

impl<'de> DeserializeSeed<'de> for Untyped<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.cx.check_depth()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Untyped<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.cx.fits(self.cx.room.text(text))?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = self.cx.within(Step::Index(items.len()), || seq.next_element_seed(self))? {
            self.cx.fits(self.cx.room.item(Kind::Any))?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.tells && fields.contains_key(&name) {
                self.cx.find("duplicate", &name);
            }
            self.cx.fits(self.cx.room.entry(fields.len(), &name))?;
            let value = self.cx.within(Step::Field(name.clone().into()), || map.next_value_seed(self))?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Float => "float64",
        Kind::String => "string",
        Kind::Bytes => "[]uint8",
        Kind::Quantity => "resource.Quantity",
        Kind::IntOrString => "intstr.IntOrString",
        Kind::Time => "v1.Time",
        Kind::MicroTime => "v1.MicroTime",
        Kind::Fields => "v1.FieldsV1",
        Kind::Raw => "runtime.RawExtension",
        Kind::Any => "JSON",
        Kind::Struct(ty) => ty.facts().go.rsplit('/').next().unwrap_or_default(),
        Kind::List(_) => "list",
        Kind::Map(_) => "map",
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.kind {
            Kind::Any | Kind::Raw | Kind::Fields => {
                Untyped { cx: self.cx, tells: false }.deserialize(deserializer)
            }
            _ => {
                self.cx.check_depth()?;
                deserializer.deserialize_any(self)
            }
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(type_name(self.kind))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        if self.kind == Kind::Bool { Ok(value.into()) } else { Err(self.wrong("bool")) }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        match self.kind {
            Kind::Int32 | Kind::IntOrString if i32::try_from(value).is_err() => {
                Err(self.wrong(&format!("number {value}")))
            }
            Kind::Int32 | Kind::Int64 | Kind::IntOrString | Kind::Float => Ok(value.into()),
            Kind::Quantity => quantity(self, &value.to_string()),
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) if self.kind == Kind::Quantity => quantity(self, &value.to_string()),
            Err(_) if self.kind == Kind::Float => Ok(value.into()),
            Err(_) => Err(self.wrong(&format!("number {value}"))),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match self.kind {
            Kind::Float if value.fract() == 0.0 && value.abs() < 1e15 => Ok((value as i64).into()),
            Kind::Float => Ok(value.into()),
            Kind::Quantity => quantity(self, &value.to_string()),
            _ => Err(self.wrong(&format!("number {value}"))),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.cx.fits(self.cx.room.text(text))?;
        match self.kind {
            Kind::String | Kind::IntOrString => Ok(text.into()),
            Kind::Quantity => quantity(self, text),
            Kind::Time => time::canonical_seconds(text).map(Value::from).map_err(|error| self.bad(error)),
            Kind::MicroTime => time::canonical_micros(text).map(Value::from).map_err(|error| self.bad(error)),
            Kind::Bytes => {
                // Go skips line ends within base64.
                let compact: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
                let bytes = STANDARD
                    .decode(&compact)
                    .map_err(|error| self.bad::<E>(format!("illegal base64 data: {error}")))?;
                Ok(STANDARD.encode(bytes).into())
            }
            _ => Err(self.wrong("string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Kind::List(element) = self.kind else { return Err(self.wrong("array")) };
        let seed = Seed { kind: *element, cx: self.cx };
        let mut items = Vec::new();
        while let Some(item) = self.cx.within(Step::Index(items.len()), || seq.next_element_seed(seed))? {
            self.cx.fits(self.cx.room.item(*element))?;
            items.push(if item.is_null() { self.zero(*element)? } else { item });
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.kind {
            Kind::Map(value) => self.entries(*value, map),
            Kind::Struct(ty) => self.fields(ty, map),
            _ => Err(self.wrong("object")),
        }
    }
}

fn quantity<E: serde::de::Error>(seed: Seed<'_>, text: &str) -> Result<Value, E> {
    let quantity: Quantity = text.trim().parse().map_err(|error| seed.bad::<E>(error))?;
    Ok(quantity.to_string().into())
}

impl Seed<'_> {
    fn entries<'de, A: MapAccess<'de>>(self, kind: Kind, mut map: A) -> Result<Value, A::Error> {
        let seed = Seed { kind, cx: self.cx };
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                self.cx.find("duplicate", &key);
            }
            self.cx.fits(self.cx.room.entry(entries.len(), &key))?;
            let value = self.cx.within(Step::Key(key.clone()), || map.next_value_seed(seed))?;
            entries.insert(key, if value.is_null() { self.zero(kind)? } else { value });
        }
        Ok(Value::Object(entries))
    }

    fn zero<E: serde::de::Error>(self, kind: Kind) -> Result<Value, E> {
        let zero = zero(kind);
        self.cx.fits(self.cx.room.value(&zero))?;
        Ok(zero)
    }

    fn fields<'de, A: MapAccess<'de>>(self, ty: TypeId, mut map: A) -> Result<Value, A::Error> {
        let fields = ty.facts().fields;
        let mut found = Map::new();
        // One bit a field; no type has more (see `facts`).
        let mut seen = 0u64;
        while let Some(name) = map.next_key_seed(FieldName(fields))? {
            let at = match name {
                Ok(at) => at,
                Err(unknown) => {
                    self.cx.find("unknown", &unknown);
                    map.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
            };
            let field = &fields[at];
            if seen & (1 << at) != 0 {
                self.cx.find("duplicate", field.json);
            }
            seen |= 1 << at;
            let seed = Seed { kind: field.kind, cx: self.cx };
            let value = self.cx.within(Step::Field(field.json.into()), || map.next_value_seed(seed))?;
            if value.is_null() {
                continue;
            }
            self.cx.fits(self.cx.room.entry(found.len(), field.json))?;
            found.insert(field.json.to_owned(), value);
        }
        let room = self.cx.room;
        complete(ty, found, &mut |have, name, value| room.entry(have, name) && room.value(value))
            .ok_or_else(|| A::Error::custom(TOO_MUCH))
    }
}

/// Reads a field's name: its place in the type, or the name of what is no field.
struct FieldName(&'static [Field]);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| field.json == name).ok_or_else(|| name.to_owned()))
    }
}

/// Fields whose emptiness means something else than their absence, until what it means is done. Whoever sends no managed fields
/// leaves them alone, who sends an empty list has them forgotten; a new Pod that speaks of overhead needs a class that has one.
const EMPTY_MEANS: [&str; 2] = ["managedFields", "overhead"];

/// A struct's fields, completed and pruned.
fn finish(ty: TypeId, found: Map<String, Value>) -> Value {
    complete(ty, found, &mut |_, _, _| true).unwrap_or_default()
}

/// Completes and prunes the fields of a struct; `None` when there is no room for one that is added.
fn complete(
    ty: TypeId,
    mut found: Map<String, Value>,
    has_room: &mut dyn FnMut(usize, &str, &Value) -> bool,
) -> Option<Value> {
    // Templates have metadata too, but no owners of their fields.
    if let Some(Value::Object(metadata)) = found.get_mut("metadata")
        && ty.field("apiVersion").is_none()
    {
        metadata.retain(|name, value| {
            !EMPTY_MEANS.contains(&name.as_str()) || *value != Value::Array(Vec::new())
        });
    }
    for field in ty.facts().fields {
        match found.get(field.json) {
            Some(value)
                if !field.pointer()
                    && field.omitempty()
                    && is_empty(field.kind, value)
                    && !EMPTY_MEANS.contains(&field.json) =>
            {
                found.remove(field.json);
            }
            Some(_) => {}
            None => {
                if let Some(value) = absent(field) {
                    if !has_room(found.len(), field.json, &value) {
                        return None;
                    }
                    found.insert(field.json.to_owned(), value);
                }
            }
        }
    }
    Some(Value::Object(found))
}

/// What stands for a field that is not there, if anything does.
fn absent(field: &Field) -> Option<Value> {
    if field.pointer() {
        return (!field.omitempty()).then_some(Value::Null);
    }
    let by_value = matches!(
        field.kind,
        Kind::Struct(_)
            | Kind::Quantity
            | Kind::IntOrString
            | Kind::Time
            | Kind::MicroTime
            | Kind::Raw
            | Kind::Any
    );
    // Go's omitempty has no effect on structs, which these are; omitzero has.
    let shown = if by_value { !field.omitzero() } else { !field.omitempty() };
    shown.then(|| zero(field.kind))
}

fn is_empty(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Struct(_) | Kind::Quantity | Kind::IntOrString | Kind::Raw | Kind::Any, _) => false,
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Number(number)) => number.as_f64() == Some(0.0),
        (_, Value::String(text)) => text.is_empty(),
        (_, Value::Array(items)) => items.is_empty(),
        (_, Value::Object(fields)) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
