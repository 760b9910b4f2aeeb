//! Random objects of a type, from a seed: mostly of the right form, mostly without meaning.

use minik_apimachinery::facts::{Field, Kind, TypeId};
use serde_json::{Map, Value, json};

/// A small generator of chance; the same seed gives the same objects.
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

const TEXTS: [&str; 9] = ["", "a", "b", "ok", "Bad Value!", "x.example.com/y", "10.0.0.1", "/path", "a-b"];
const KEYS: [&str; 4] = ["a", "b", "x.example.com/y", "bad key!"];
const QUANTITIES: [&str; 6] = ["0", "1", "100m", "1Gi", "1500u", "-1"];

/// An object of a type. Fields deeper than `depth` are left out.
pub fn object(ty: TypeId, chance: &mut Chance, depth: usize) -> Value {
    let mut fields = Map::new();
    for field in ty.facts().fields {
        let deep = matches!(field.kind, Kind::Struct(_) | Kind::List(_) | Kind::Map(_));
        if (deep && depth == 0) || chance.below(100) >= 35 {
            continue;
        }
        fields.insert(field.json.to_owned(), value(field.kind, Some(field), chance, depth));
    }
    Value::Object(fields)
}

fn value(kind: Kind, field: Option<&Field>, chance: &mut Chance, depth: usize) -> Value {
    let enums = field.map_or(&[][..], |field| field.enums);
    match kind {
        Kind::Bool => json!(chance.below(2) == 1),
        Kind::Int32 | Kind::Int64 => json!([0, 1, 2, 80, -1, 70_000][chance.below(6) as usize]),
        Kind::Float => json!(1.5),
        Kind::String if !enums.is_empty() && chance.below(4) > 0 => json!(chance.one(enums)),
        Kind::String => json!(chance.one(&TEXTS)),
        Kind::Bytes => json!(chance.one(&["", "AAEC"])),
        Kind::Quantity => json!(chance.one(&QUANTITIES)),
        Kind::IntOrString => match chance.below(3) {
            0 => json!("http"),
            1 => json!("5%"),
            _ => json!(chance.below(100)),
        },
        Kind::Time => json!("2026-01-01T00:00:00Z"),
        Kind::MicroTime => json!("2026-01-01T00:00:00.000001Z"),
        Kind::Fields => json!({"f:a": {}}),
        Kind::Raw | Kind::Any => json!({"a": [1, {"b": "c"}]}),
        Kind::Struct(ty) => object(ty, chance, depth.saturating_sub(1)),
        Kind::List(element) => {
            (0..chance.below(3)).map(|_| value(*element, field, chance, depth.saturating_sub(1))).collect()
        }
        Kind::Map(held) => {
            let mut entries = Map::new();
            for _ in 0..chance.below(3) {
                let key = chance.one(&KEYS).to_owned();
                entries.insert(key, value(*held, field, chance, depth.saturating_sub(1)));
            }
            Value::Object(entries)
        }
    }
}
