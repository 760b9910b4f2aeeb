//! The walks over one or two trees along their schema: checking, the set of fields, comparing, merging, removing.

use super::path::{PathElement, Set};
use super::schema::{Schema, Sort};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Deepest nesting that is walked; what is stored came through decoders that allow less.
const DEEPEST: usize = 256;

/// Checks that an applied tree has the shape of its schema and no repeated keys; every problem is a sentence that begins with its path.
pub(super) fn check(value: &Value, schema: Schema) -> Vec<String> {
    let mut problems = Vec::new();
    Checker { problems: &mut problems }.walk(value, schema, &mut Vec::new());
    problems
}

struct Checker<'a> {
    problems: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn problem(&mut self, at: &[PathElement], what: &str) {
        self.problems.push(format!("{}: {what}", super::path_text(at)));
    }

    fn walk(&mut self, value: &Value, schema: Schema, at: &mut Vec<PathElement>) {
        if at.len() > DEEPEST {
            return self.problem(&[], "it is nested too deeply");
        }
        match (schema, value) {
            (_, Value::Null) | (Schema::Untyped, _) => {}
            (Schema::Scalar(sort), value) => self.scalar(sort, value, at),
            (Schema::Struct(..) | Schema::Map(..), Value::Object(fields)) => {
                for (name, value) in fields {
                    at.push(PathElement::Field(name.clone()));
                    match schema.member(name) {
                        Some(schema) => self.walk(value, schema, at),
                        None => self.problem(at, "field not declared in schema"),
                    }
                    at.pop();
                }
            }
            (Schema::List(..), Value::Array(items)) => self.list(items, schema, at),
            (Schema::List(..), other) => self.problem(at, &format!("expected a list, got {other}")),
            (_, other) => self.problem(at, &format!("expected a map, got {other}")),
        }
    }

    fn scalar(&mut self, sort: Sort, value: &Value, at: &[PathElement]) {
        let (fits, wanted) = match sort {
            Sort::Number => (value.is_number(), "a number"),
            Sort::Text => (value.is_string(), "a string"),
            Sort::Truth => (value.is_boolean(), "a boolean"),
            Sort::Any => (!value.is_object() && !value.is_array(), "a scalar"),
        };
        if !fits {
            self.problem(at, &format!("expected {wanted}, got {value}"));
        }
    }

    fn list(&mut self, items: &[Value], schema: Schema, at: &mut Vec<PathElement>) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let element = if schema.is_atomic() {
                PathElement::Index(index as i64)
            } else {
                match schema.element_key(item) {
                    Ok(key) => key,
                    Err(problem) => return self.problem(at, &format!("element {index}: {problem}")),
                }
            };
            if !seen.insert(element.clone()) {
                self.problem(at, &format!("duplicate entries for key {element}"));
            }
            at.push(element);
            self.walk(item, schema.element(), at);
            at.pop();
        }
    }
}

/// The fields that a tree sets.
pub(super) fn field_set(value: &Value, schema: Schema) -> Set {
    let mut set = Set::default();
    fields_of(value, schema, &mut Vec::new(), &mut set);
    set
}

fn fields_of(value: &Value, schema: Schema, at: &mut Vec<PathElement>, set: &mut Set) {
    if schema.is_atomic() {
        set.insert(at);
        return;
    }
    match (schema, value) {
        (Schema::Struct(..) | Schema::Map(..) | Schema::Untyped, Value::Object(fields)) => {
            for (name, value) in fields {
                let Some(next) = schema.member(name) else { continue };
                at.push(PathElement::Field(name.clone()));
                fields_of(value, next, at, set);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !schema.names(name) {
                    set.insert(at);
                }
                at.pop();
            }
        }
        (Schema::List(..), Value::Array(items)) => {
            for (element, items) in by_key_or_none(items, schema) {
                at.push(element);
                // Of repeated elements only their presence counts.
                if let [item] = items[..] {
                    fields_of(item, schema.element(), at, set);
                }
                set.insert(at);
                at.pop();
            }
        }
        (Schema::Struct(..) | Schema::Map(..) | Schema::List(..), _) => {}
        (Schema::Scalar(_) | Schema::Untyped, _) => set.insert(at),
    }
}

/// What stands for elements that bear no key: what pruning leaves of an element may be one.
const NO_KEY: PathElement = PathElement::Key(Vec::new());

fn by_key_or_none(items: &[Value], schema: Schema) -> BTreeMap<PathElement, Vec<&Value>> {
    let mut found = by_key(items, schema);
    let keyless: Vec<&Value> = items.iter().filter(|item| schema.element_key(item).is_err()).collect();
    if !keyless.is_empty() {
        found.insert(NO_KEY, keyless);
    }
    found
}

/// Whether every element of an associative list bears a key, so that the tree can be compared.
pub(super) fn has_keys(value: &Value, schema: Schema) -> bool {
    if schema.is_atomic() {
        return true;
    }
    match (schema, value) {
        (Schema::Struct(..) | Schema::Map(..), Value::Object(fields)) => {
            fields.iter().all(|(name, value)| schema.member(name).is_none_or(|next| has_keys(value, next)))
        }
        (Schema::List(..), Value::Array(items)) => {
            items.iter().all(|item| schema.element_key(item).is_ok() && has_keys(item, schema.element()))
        }
        _ => true,
    }
}

fn by_key(items: &[Value], schema: Schema) -> BTreeMap<PathElement, Vec<&Value>> {
    let mut found: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Ok(key) = schema.element_key(item) {
            found.entry(key).or_default().push(item);
        }
    }
    found
}

/// What became of the fields of one tree in another.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    /// The added and the modified.
    pub fn written(mut self) -> Set {
        self.added.add(&self.modified);
        self.added
    }

    pub fn map(self, change: impl Fn(Set) -> Set) -> Comparison {
        Comparison {
            added: change(self.added),
            modified: change(self.modified),
            removed: change(self.removed),
        }
    }

    /// Takes from a set what was written or removed.
    pub fn take_from(&self, set: &mut Set) {
        [&self.added, &self.modified, &self.removed].into_iter().for_each(|touched| set.subtract(touched));
    }
}

/// Compares two trees of one schema.
pub(super) fn compare(old: &Value, new: &Value, schema: Schema) -> Comparison {
    let mut comparison = Comparison::default();
    if old != new {
        compare_at(Some(old), Some(new), schema, &mut Vec::new(), &mut comparison);
    }
    comparison
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// Compares what is known to differ.
fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Schema,
    at: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let container = |value: Option<&Value>| value.is_none_or(|value| !scalar(value));
    let leaf = schema.is_atomic()
        || matches!(schema, Schema::Scalar(_))
        || (is_empty(old) && is_empty(new))
        || (schema == Schema::Untyped && !untyped_maps(old, new))
        || !(container(old) && container(new));
    if !leaf {
        if matches!(schema, Schema::List(..)) {
            compare_lists(list(old), list(new), schema, at, out);
        } else {
            compare_maps(map(old), map(new), schema, at, out);
        }
    }
    match (old, new) {
        (None, _) => out.added.insert(at),
        (_, None) => out.removed.insert(at),
        (Some(old), Some(new)) if leaf && !equal(old, new) => out.modified.insert(at),
        _ => {}
    }
}

fn scalar(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Object(_) | Value::Array(_))
}

fn untyped_maps(old: Option<&Value>, new: Option<&Value>) -> bool {
    let fits = |value: Option<&Value>| matches!(value, None | Some(Value::Null | Value::Object(_)));
    fits(old) && fits(new)
}

/// Equality that does not tell 1 from 1.0.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn compare_maps(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    schema: Schema,
    at: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let olds = old.into_iter().flat_map(Map::keys);
    let news =
        new.into_iter().flat_map(Map::keys).filter(|name| !old.is_some_and(|old| old.contains_key(*name)));
    for name in olds.chain(news) {
        let (before, after) = (old.and_then(|old| old.get(name)), new.and_then(|new| new.get(name)));
        if before == after {
            continue;
        }
        let Some(next) = schema.member(name) else { continue };
        at.push(PathElement::Field(name.clone()));
        compare_at(before, after, next, at, out);
        at.pop();
    }
}

fn compare_lists(
    old: &[Value],
    new: &[Value],
    schema: Schema,
    at: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let (olds, news) = (by_key(old, schema), by_key(new, schema));
    let keys = olds.keys().chain(news.keys().filter(|key| !olds.contains_key(*key)));
    for key in keys {
        let none = Vec::new();
        let (before, after) = (olds.get(key).unwrap_or(&none), news.get(key).unwrap_or(&none));
        at.push(key.clone());
        let next = schema.element();
        match (&before[..], &after[..]) {
            ([], []) => {}
            ([] | [_], [] | [_]) if before == after => {}
            ([] | [_], [] | [_]) => {
                compare_at(before.first().copied(), after.first().copied(), next, at, out);
            }
            ([_, _, ..], [_, _, ..]) => {
                let same = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| equal(a, b));
                if !same {
                    out.modified.insert(at);
                }
            }
            ([_, _, ..], after) => {
                compare_at(None, after.first().copied(), next, at, out);
                out.removed.insert(at);
            }
            (before, _) => {
                compare_at(before.first().copied(), None, next, at, out);
                out.added.insert(at);
            }
        }
        at.pop();
    }
}

/// The live tree with the applied one laid over it.
pub(super) fn merge(live: &Value, applied: &Value, schema: Schema) -> Value {
    merge_at(Some(live), Some(applied), schema).unwrap_or(Value::Null)
}

fn merge_at(live: Option<&Value>, applied: Option<&Value>, schema: Schema) -> Option<Value> {
    let leaf = schema.is_atomic()
        || matches!(schema, Schema::Scalar(_))
        || (is_empty(live) && is_empty(applied))
        || (schema == Schema::Untyped && !untyped_maps(live, applied));
    if leaf {
        return applied.or(live).cloned();
    }
    if matches!(schema, Schema::List(..)) {
        let items = merge_lists(list(live), list(applied), schema);
        return (!items.is_empty()).then_some(Value::Array(items));
    }
    let (live, applied) = (map(live), map(applied));
    let olds = live.into_iter().flat_map(Map::keys);
    let news = applied
        .into_iter()
        .flat_map(Map::keys)
        .filter(|name| !live.is_some_and(|live| live.contains_key(*name)));
    let mut fields = Map::new();
    for name in olds.chain(news) {
        let Some(next) = schema.member(name) else { continue };
        let value = merge_at(
            live.and_then(|live| live.get(name)),
            applied.and_then(|applied| applied.get(name)),
            next,
        );
        if let Some(value) = value {
            fields.insert(name.clone(), value);
        }
    }
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// Merges associative lists. The applied order holds among its elements; the live ones that it does not name keep
/// their place among those that both have.
fn merge_lists(live: &[Value], applied: &[Value], schema: Schema) -> Vec<Value> {
    let keyed = |items: &'_ [Value]| -> Vec<(PathElement, usize)> {
        let keys = items.iter().enumerate();
        keys.filter_map(|(at, item)| Some((schema.element_key(item).ok()?, at))).collect()
    };
    let (lefts, rights) = (keyed(live), keyed(applied));
    let ours = by_key(live, schema);
    let theirs = by_key(applied, schema);
    let one = |items: Option<&Vec<&'_ Value>>| -> Option<Value> {
        // A repeated live element is not merged with the new value.
        items.filter(|items| items.len() == 1).map(|items| items[0].clone())
    };
    let mut shared = rights.iter().map(|(key, _)| key).filter(|key| ours.contains_key(*key)).peekable();
    let mut merged = std::collections::BTreeSet::new();
    let mut out = Vec::with_capacity(lefts.len().max(rights.len()));
    let (mut l, mut r) = (0, 0);
    while l < lefts.len() || r < rights.len() {
        if let (Some((left, _)), Some((right, _))) = (lefts.get(l), rights.get(r)) {
            if left == right {
                merged.insert(left);
                out.extend(merge_at(
                    one(ours.get(left)).as_ref(),
                    one(theirs.get(left)).as_ref(),
                    schema.element(),
                ));
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if theirs.contains_key(left) && shared.peek().is_some_and(|next| *next != left) {
                // Both have it, but it is not the turn of it.
                l += 1;
                continue;
            }
        }
        if let Some((left, at)) = lefts.get(l) {
            if !theirs.contains_key(left) {
                out.extend(merge_at(live.get(*at), None, schema.element()));
                l += 1;
                continue;
            }
            if merged.contains(left) {
                l += 1;
            }
        }
        if let Some((right, _)) = rights.get(r) {
            merged.insert(right);
            out.extend(merge_at(
                one(ours.get(right)).as_ref(),
                one(theirs.get(right)).as_ref(),
                schema.element(),
            ));
            r += 1;
            if shared.peek() == Some(&right) {
                shared.next();
            }
        }
    }
    out
}

/// The tree without the items of a set.
pub(super) fn remove(value: &Value, set: &Set, schema: Schema) -> Value {
    match (schema, value) {
        (Schema::Scalar(_), _) => value.clone(),
        (Schema::Untyped, Value::Object(_)) => remove_fields(value, set, schema),
        (Schema::Untyped, _) => value.clone(),
        _ if schema.is_atomic() => Value::Null,
        (Schema::List(..), Value::Array(items)) => {
            let mut kept = Vec::new();
            for item in items {
                let key = schema.element_key(item).unwrap_or(NO_KEY);
                if set.has(&key) {
                    continue;
                }
                kept.push(match set.below(&key) {
                    Some(below) => remove(item, below, schema.element()),
                    None => item.clone(),
                });
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Schema::Struct(..) | Schema::Map(..), Value::Object(_)) => remove_fields(value, set, schema),
        _ => Value::Null,
    }
}

fn remove_fields(value: &Value, set: &Set, schema: Schema) -> Value {
    let mut kept = Map::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let element = PathElement::Field(name.clone());
        if set.has(&element) {
            continue;
        }
        let value = match set.below(&element) {
            Some(below) => remove(value, below, schema.member(name).unwrap_or(Schema::Untyped)),
            None => value.clone(),
        };
        kept.insert(name.clone(), value);
    }
    if kept.is_empty() { Value::Null } else { Value::Object(kept) }
}
