//! What the fact tables say of a place in an object, as server-side apply sees it.

use super::path::{PathElement, Scalar, Set};
use crate::facts::{Field, Kind, ListType, TypeId};
use serde_json::Value;

/// How a place is owned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Schema {
    /// A scalar of this sort.
    Scalar(Sort),
    /// A struct, field by field or as one.
    Struct(TypeId, bool),
    /// A map, key by key or as one.
    Map(Kind, bool),
    /// A list.
    List(Kind, ListType, &'static [&'static str]),
    /// Anything: maps are owned key by key, lists as one.
    Untyped,
}

/// Sorts of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Number,
    Text,
    Truth,
    Any,
}

impl Schema {
    /// Of an object.
    pub fn of_type(ty: TypeId) -> Schema {
        Schema::Struct(ty, ty.facts().atomic)
    }

    /// Of a value that no field describes further.
    pub fn of_kind(kind: Kind) -> Schema {
        match kind {
            Kind::Bool => Schema::Scalar(Sort::Truth),
            Kind::Int32 | Kind::Int64 | Kind::Float => Schema::Scalar(Sort::Number),
            Kind::String | Kind::Bytes => Schema::Scalar(Sort::Text),
            Kind::Quantity | Kind::IntOrString | Kind::Time | Kind::MicroTime => Schema::Scalar(Sort::Any),
            Kind::Fields | Kind::Raw | Kind::Any => Schema::Untyped,
            Kind::Struct(ty) => Schema::of_type(ty),
            Kind::List(element) => Schema::List(*element, ListType::Atomic, &[]),
            Kind::Map(value) => Schema::Map(*value, false),
        }
    }

    /// Of a field.
    pub fn of_field(field: &Field) -> Schema {
        match Schema::of_kind(field.kind) {
            Schema::Struct(ty, atomic) => Schema::Struct(ty, field.atomic() || (atomic && !field.granular())),
            Schema::Map(value, atomic) => Schema::Map(value, atomic || field.atomic()),
            Schema::List(element, ..) => Schema::List(element, field.list_type, field.map_keys),
            other => other,
        }
    }

    /// Whether this is a list or map that is owned as one.
    pub fn is_atomic(self) -> bool {
        matches!(self, Schema::Struct(_, true) | Schema::Map(_, true) | Schema::List(_, ListType::Atomic, _))
    }

    /// Of the field or key with this name; `None` when a struct has no such field.
    pub fn member(self, name: &str) -> Option<Schema> {
        match self {
            Schema::Struct(ty, _) => ty.field(name).map(Schema::of_field),
            Schema::Map(value, _) => Some(Schema::of_kind(value)),
            Schema::Untyped => Some(Schema::Untyped),
            Schema::Scalar(_) | Schema::List(..) => None,
        }
    }

    /// Whether a struct has a field of this name.
    pub fn names(self, name: &str) -> bool {
        matches!(self, Schema::Struct(ty, _) if ty.field(name).is_some())
    }

    /// Of an element of a list.
    pub fn element(self) -> Schema {
        match self {
            Schema::List(element, ..) => Schema::of_kind(element),
            _ => Schema::Untyped,
        }
    }

    /// How an element of an associative list is found again.
    ///
    /// # Errors
    /// A sentence when the element bears no key.
    pub fn element_key(self, item: &Value) -> Result<PathElement, String> {
        match self {
            Schema::List(_, ListType::Set, _) => Scalar::new(item)
                .filter(|_| !item.is_null())
                .map(PathElement::Value)
                .ok_or_else(|| "a set holds scalars only".to_owned()),
            Schema::List(element, ListType::Map, names) => {
                let fields =
                    item.as_object().ok_or_else(|| "a list with keys holds objects only".to_owned())?;
                let mut keys = Vec::with_capacity(names.len());
                for name in names {
                    let value = match fields.get(*name) {
                        Some(value) => Some(value.clone()),
                        None => default_of(element, name),
                    };
                    if let Some(scalar) = value.as_ref().and_then(Scalar::new) {
                        keys.push(((*name).to_owned(), scalar));
                    }
                }
                if keys.is_empty() {
                    return Err(format!("the element has none of the key fields {names:?}"));
                }
                keys.sort();
                Ok(PathElement::Key(keys))
            }
            _ => Err("the list is owned as one".to_owned()),
        }
    }
}

fn default_of(element: Kind, name: &str) -> Option<Value> {
    let Kind::Struct(ty) = element else { return None };
    let text = ty.field(name)?.default;
    serde_json::from_str(text).ok()
}

/// The set with every field of a struct on the way to a member made a member too.
pub(super) fn with_named_fields(set: &Set, schema: Schema) -> Set {
    let mut all = Set::default();
    for (element, member, below) in set.steps() {
        let (named, next) = match element {
            PathElement::Field(name) => (schema.names(name), schema.member(name)),
            PathElement::Key(_) => (false, Some(schema.element())),
            _ => (false, None),
        };
        let below = with_named_fields(below, next.unwrap_or(Schema::Untyped));
        let on_the_way = named && !below.is_empty();
        all.put(element.clone(), member || on_the_way, below);
    }
    all
}
