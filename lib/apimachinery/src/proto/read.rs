//! From messages to trees.

use super::{DEEPEST, Envelope, ProtoError, is_list};
use crate::decode::{Room, TOO_MUCH, untyped_within};
use crate::facts::{Field, Kind, TypeId};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// A cursor over the fields of a message.
struct Reader<'a>(&'a [u8]);

/// A field's contents by its wire type.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// Nothing of ours is written so.
    Fixed32,
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], ProtoError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtoError::Malformed("a field has the wrong wire type")),
        }
    }

    fn varint(self) -> Result<u64, ProtoError> {
        match self {
            Wire::Varint(value) => Ok(value),
            _ => Err(ProtoError::Malformed("a field has the wrong wire type")),
        }
    }

    fn text(self) -> Result<String, ProtoError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| ProtoError::Text)
    }
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for at in 0..10 {
            let (first, rest) =
                self.0.split_first().ok_or(ProtoError::Malformed("it ends within a number"))?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << (7 * at);
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtoError::Malformed("a number is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtoError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.0.len() {
            return Err(ProtoError::Malformed("it ends within a field"));
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    /// The next field: its number and contents.
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtoError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(ProtoError::Malformed("an unknown wire type")),
        };
        match tag >> 3 {
            0 => Err(ProtoError::Malformed("a field has the number 0")),
            number => Ok(Some((number, wire))),
        }
    }
}

/// Reads `runtime.Unknown`.
pub(super) fn envelope(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let mut envelope = Envelope::default();
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => envelope.api_version = wire.text()?,
                        2 => envelope.kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = wire.bytes()?,
            3 if !wire.bytes()?.is_empty() => {
                return Err(ProtoError::Malformed("it has a content encoding, which is not known"));
            }
            _ => {}
        }
    }
    Ok(envelope)
}

/// How deep a message is nested, and the memory that is left for the tree.
#[derive(Clone, Copy)]
struct Place<'a> {
    depth: usize,
    room: &'a Room,
}

impl Place<'_> {
    fn below(self) -> Self {
        Place { depth: self.depth + 1, ..self }
    }

    fn text(self, wire: Wire<'_>) -> Result<String, ProtoError> {
        let text = wire.text()?;
        fits(self.room.text(&text))?;
        Ok(text)
    }
}

fn fits(had_room: bool) -> Result<(), ProtoError> {
    if had_room { Ok(()) } else { Err(ProtoError::Malformed(TOO_MUCH)) }
}

/// Reads the message of a struct.
pub(super) fn message(bytes: &[u8], ty: TypeId) -> Result<Map<String, Value>, ProtoError> {
    fields(bytes, ty, Place { depth: 0, room: &Room::default() })
}

fn fields(bytes: &[u8], ty: TypeId, place: Place<'_>) -> Result<Map<String, Value>, ProtoError> {
    let mut found = Map::new();
    part(bytes, ty, 0, place, &mut found)?;
    Ok(found)
}

/// Reads the fields of a struct that stand in one of its messages: its own (0) or an embedded one.
fn part(
    bytes: &[u8],
    ty: TypeId,
    via: u16,
    place: Place<'_>,
    found: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    if place.depth > DEEPEST {
        return Err(ProtoError::Malformed("it is nested too deeply"));
    }
    let fields = ty.facts().fields;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        if let Some(field) = fields.iter().find(|field| field.via == via && field.proto == number) {
            put(field, wire, place, found)?;
            continue;
        }
        let inner = via.saturating_mul(64).saturating_add(number);
        let embedded = fields.iter().any(|field| field.via == inner || field.via / 64 == inner);
        if embedded && inner < 64 * 64 {
            part(wire.bytes()?, ty, inner, place.below(), found)?;
        }
        // Other fields are of a newer version.
    }
    Ok(())
}

fn put(
    field: &Field,
    wire: Wire<'_>,
    place: Place<'_>,
    found: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    match field.kind {
        Kind::List(element) => {
            fits(found.contains_key(field.json) || place.room.entry(found.len(), field.json))?;
            let list = found.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = list {
                elements(*element, wire, place, items)?;
            }
        }
        Kind::Map(value) => {
            let (key, value) = entry(*value, wire, place)?;
            fits(found.contains_key(field.json) || place.room.entry(found.len(), field.json))?;
            let map = found.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = map {
                fits(place.room.entry(entries.len(), &key))?;
                entries.insert(key, value);
            }
        }
        kind => {
            fits(place.room.entry(found.len(), field.json))?;
            found.insert(field.json.to_owned(), value(kind, wire, place)?);
        }
    }
    Ok(())
}

/// One element of a list, or several numbers that are packed.
fn elements(kind: Kind, wire: Wire<'_>, place: Place<'_>, items: &mut Vec<Value>) -> Result<(), ProtoError> {
    let packable = matches!(kind, Kind::Int32 | Kind::Int64 | Kind::Bool);
    match wire {
        Wire::Bytes(bytes) if packable => {
            let mut reader = Reader(bytes);
            while !reader.0.is_empty() {
                let number = reader.varint()?;
                fits(place.room.item(kind))?;
                items.push(value(kind, Wire::Varint(number), place)?);
            }
        }
        wire => {
            fits(place.room.item(kind))?;
            items.push(value(kind, wire, place)?);
        }
    }
    Ok(())
}

/// An entry of a map: key and value in a message of their own; a list stands in one message more.
fn entry(kind: Kind, wire: Wire<'_>, place: Place<'_>) -> Result<(String, Value), ProtoError> {
    let mut key = String::new();
    let mut held = None;
    let mut reader = Reader(wire.bytes()?);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = wire.text()?,
            2 if is_list(kind) => held = Some(wrapped_list(kind, wire, place)?),
            2 => held = Some(value(kind, wire, place)?),
            _ => {}
        }
    }
    Ok((key, held.unwrap_or_else(|| crate::decode::zero(kind))))
}

fn wrapped_list(kind: Kind, wire: Wire<'_>, place: Place<'_>) -> Result<Value, ProtoError> {
    let mut items = Vec::new();
    let mut reader = Reader(wire.bytes()?);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Kind::List(element)) = (number, kind) {
            elements(*element, wire, place, &mut items)?;
        }
    }
    Ok(Value::Array(items))
}

fn value(kind: Kind, wire: Wire<'_>, place: Place<'_>) -> Result<Value, ProtoError> {
    Ok(match kind {
        Kind::Bool => Value::Bool(wire.varint()? != 0),
        // Negative numbers are written with 64 bits.
        Kind::Int32 => Value::from(wire.varint()? as i32),
        Kind::Int64 => Value::from(wire.varint()? as i64),
        Kind::Float => match wire {
            Wire::Fixed64(bits) => Value::from(f64::from_bits(bits)),
            _ => return Err(ProtoError::Malformed("a field has the wrong wire type")),
        },
        Kind::String => Value::from(place.text(wire)?),
        Kind::Bytes => Value::from(STANDARD.encode(wire.bytes()?)),
        Kind::Quantity => quantity(wire.bytes()?)?,
        Kind::IntOrString => int_or_string(wire.bytes()?)?,
        Kind::Time | Kind::MicroTime => timestamp(wire.bytes()?, kind)?,
        Kind::Fields | Kind::Raw | Kind::Any => raw(wire.bytes()?, place.room)?,
        Kind::Struct(ty) => Value::Object(fields(wire.bytes()?, ty, place.below())?),
        Kind::List(_) | Kind::Map(_) => return Err(ProtoError::Malformed("a list of lists")),
    })
}

fn quantity(bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut text = String::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            text = wire.text()?;
        }
    }
    Ok(Value::from(if text.is_empty() { "0".to_owned() } else { text }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number_value, mut text) = (false, 0i32, String::new());
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => is_text = wire.varint()? == 1,
            2 => number_value = wire.varint()? as i32,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number_value) })
}

/// An empty message is the zero time, which JSON has as null.
fn timestamp(bytes: &[u8], kind: Kind) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.varint()? as i64,
            2 => nanos = wire.varint()? as i32,
            _ => {}
        }
    }
    let found =
        Timestamp::new(seconds, nanos).map_err(|_| ProtoError::Malformed("a time is out of range"))?;
    Ok(Value::from(if kind == Kind::Time { time::seconds(found) } else { time::micros(found) }))
}

/// JSON within protobuf.
fn raw(bytes: &[u8], room: &Room) -> Result<Value, ProtoError> {
    let mut json: &[u8] = b"";
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            json = wire.bytes()?;
        }
    }
    if json.is_empty() {
        return Ok(Value::Null);
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = untyped_within(&mut reader, room)?.value;
    reader.end()?;
    Ok(value)
}
