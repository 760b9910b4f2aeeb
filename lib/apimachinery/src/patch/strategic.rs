//! Strategic merge patch:
//! <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>.
//!
//! A merge patch that knows the type: lists with a merge key are merged element by element. Directives say more:
//! - `$patch: replace|delete` in an object replaces or empties it; in a list's element, it replaces the list or deletes
//!   the elements with the same key;
//! - `$retainKeys` lists the fields of an object that stay;
//! - `$deleteFromPrimitiveList/NAME` lists what to take from a list of scalars;
//! - `$setElementOrder/NAME` lists in which order elements shall stand.

use super::PatchError;
use crate::facts::{Field, Kind, TypeId};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Fields = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

pub(super) fn apply(object: Value, patch: Fields, ty: TypeId) -> Result<Value> {
    match object {
        Value::Object(fields) => merge_object(fields, patch, Kind::Struct(ty)).map(Value::Object),
        _ => Err(unmergeable("only an object can be patched")),
    }
}

fn unmergeable(problem: impl Into<String>) -> PatchError {
    PatchError::Unmergeable(problem.into())
}

/// What the type says of a field: the kind below it and how it is merged.
struct Merging {
    kind: Kind,
    strategy: &'static str,
    key: &'static str,
}

fn merging(holder: Kind, name: &str) -> Result<Merging> {
    let field: &Field = match holder {
        Kind::Struct(ty) => ty.field(name),
        _ => None,
    }
    .ok_or_else(|| unmergeable(format!("nothing is known of how to merge {name:?}")))?;
    let strategy = field.patch_strategy.split(',').find(|one| *one != "retainKeys").unwrap_or_default();
    Ok(Merging { kind: field.kind, strategy, key: field.merge_key })
}

/// The same for a list, with the kind of its elements.
fn list_merging(holder: Kind, name: &str) -> Result<Merging> {
    let merging = merging(holder, name)?;
    match merging.kind {
        Kind::List(Kind::List(_)) => Err(unmergeable(format!("{name:?} is a list of lists"))),
        Kind::List(element) => Ok(Merging { kind: *element, ..merging }),
        _ => Err(unmergeable(format!("{name:?} is no list"))),
    }
}

fn merge_object(mut object: Fields, mut patch: Fields, kind: Kind) -> Result<Fields> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Fields::new()),
            _ => Err(unmergeable(format!("there is no directive {DIRECTIVE}: {directive}"))),
        };
    }
    retain_keys(&mut object, &mut patch)?;
    order_lists(&mut object, &mut patch, kind)?;
    for (name, value) in patch {
        match name.strip_prefix(DELETE_FROM) {
            Some(rest) => {
                let name = rest.strip_prefix('/').ok_or_else(|| malformed(DELETE_FROM))?;
                delete_from(&mut object, name, value, kind)?;
            }
            None => merge_field(&mut object, name, value, kind)?,
        }
    }
    Ok(object)
}

fn malformed(directive: &str) -> PatchError {
    PatchError::Malformed(format!("the directive {directive} is malformed"))
}

fn merge_field(object: &mut Fields, name: String, value: Value, kind: Kind) -> Result<()> {
    let merged = match (object.remove(&name), value) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(old)), Value::Object(new)) => {
            let how = merging(kind, &name)?;
            if how.strategy == "replace" {
                Some(Value::Object(new))
            } else {
                Some(Value::Object(merge_object(old, new, how.kind)?))
            }
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let how = list_merging(kind, &name)?;
            Some(Value::Array(if how.strategy == "merge" { merge_list(old, new, &how)? } else { new }))
        }
        (_, new) => without_directives(without_nulls(new)),
    };
    if let Some(value) = merged {
        object.insert(name, value);
    }
    Ok(())
}

fn delete_from(object: &mut Fields, name: &str, value: Value, kind: Kind) -> Result<()> {
    match (object.get_mut(name), value) {
        (_, Value::Null) => {
            object.remove(name);
        }
        (Some(Value::Array(old)), Value::Array(doomed)) => {
            list_merging(kind, name)?;
            if old.is_empty() && doomed.is_empty() {
                return Ok(());
            }
            if element_kind(&[old, &doomed])? == Element::Object {
                return Err(unmergeable(format!("{DELETE_FROM}/{name}: the elements are objects")));
            }
            let doomed: BTreeSet<String> = doomed.iter().map(Value::to_string).collect();
            old.retain(|item| !doomed.contains(&item.to_string()));
        }
        _ => {}
    }
    Ok(())
}

fn retain_keys(object: &mut Fields, patch: &mut Fields) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(malformed(RETAIN_KEYS)) };
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (name, value) in patch.iter() {
        let directive = name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !directive && !keys.contains(name.as_str()) {
            return Err(malformed(RETAIN_KEYS));
        }
    }
    object.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// Merges and orders the lists that have a `$setElementOrder`, and takes both from the patch.
fn order_lists(object: &mut Fields, patch: &mut Fields, kind: Kind) -> Result<()> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(unmergeable(format!("{directive} must be a list")));
        };
        let name = directive.strip_prefix(ELEMENT_ORDER).and_then(|rest| rest.strip_prefix('/'));
        let name = name.ok_or_else(|| malformed(ELEMENT_ORDER))?;
        let old = as_list(object.get(name), name)?;
        let new = as_list(patch.get(name), name)?;
        let how = list_merging(kind, name)?;
        check_order(new.as_deref().unwrap_or_default(), &order, how.key)?;
        let merged = match (&old, &new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(new)) => new.iter().cloned().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if how.strategy == "merge" => merge_list(old.clone(), new.clone(), &how)?,
            (Some(_), Some(new)) => new.clone(),
        };
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        element_kind(&[&old, &new])?;
        let ordered = in_order(merged, &order, &old, how.key)?;
        object.insert(name.to_owned(), Value::Array(ordered));
        patch.remove(name);
    }
    Ok(())
}

fn as_list(value: Option<&Value>, name: &str) -> Result<Option<Vec<Value>>> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(_) => Err(unmergeable(format!("{ELEMENT_ORDER}/{name}: the field holds no list"))),
    }
}

/// What the patch sets must stand in the wanted order too, all of it.
fn check_order(items: &[Value], order: &[Value], key: &str) -> Result<()> {
    if order.is_empty() || items.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in items {
        if !key.is_empty() && !item.is_object() {
            return Err(unmergeable("an element of a list with a merge key must be an object"));
        }
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        let mine = identity(item, key)?;
        let mut met = false;
        for other in wanted.by_ref() {
            if identity(other, key)? == mine {
                met = true;
                break;
            }
        }
        if !met {
            return Err(unmergeable(format!("the order of the patched list is not that of {ELEMENT_ORDER}")));
        }
    }
    Ok(())
}

/// What tells an element from others: the value of its merge key, or a scalar itself.
fn identity<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    if key.is_empty() {
        return Ok(item);
    }
    item.get(key).ok_or_else(|| unmergeable(format!("an element has no merge key {key:?}: {item}")))
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, how: &Merging) -> Result<Vec<Value>> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    if element_kind(&[&old, &new])? == Element::Scalar {
        let mut merged = old.clone();
        merged.extend(new.iter().cloned());
        return in_order(deduplicated(merged), &new, &old, how.key);
    }
    if how.key.is_empty() {
        return Err(unmergeable("a list of objects without merge key cannot be merged"));
    }
    let (old, new) = special_elements(old, new, how.key)?;
    let mut merged = old.clone();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (at, item) in merged.iter().enumerate() {
        if let Some(theirs) = item.get(how.key) {
            places.entry(theirs.to_string()).or_insert(at);
        }
    }
    for item in &new {
        let mine = identity(item, how.key)?.to_string();
        // A directive within an element may have taken its key away.
        let there = |at: &usize| merged[*at].get(how.key).map(Value::to_string).as_deref() == Some(&*mine);
        match places.get(&mine).copied().filter(there) {
            Some(at) => {
                if let (Value::Object(old), Value::Object(new)) = (merged[at].take(), item.clone()) {
                    merged[at] = Value::Object(merge_object(old, new, how.kind)?);
                }
            }
            None => {
                places.insert(mine, merged.len());
                merged.push(item.clone());
            }
        }
    }
    // An element emptied by a directive has no key left.
    merged.iter().try_for_each(|item| identity(item, how.key).map(drop))?;
    in_order(merged, &new, &old, how.key)
}

/// Obeys the elements that are directives; gives the list that is left and the elements to merge into it.
fn special_elements(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::new();
    let mut replace = false;
    let mut doomed = BTreeSet::new();
    for item in new {
        match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("delete") => {
                doomed.insert(identity(&item, key)?.to_string());
            }
            Some("replace") => replace = true,
            Some(_) => return Err(unmergeable(format!("there is no such {DIRECTIVE} in a list: {item}"))),
        }
    }
    old.retain(|other| !other.get(key).is_some_and(|theirs| doomed.contains(&theirs.to_string())));
    Ok(if replace { (plain, Vec::new()) } else { (old, plain) })
}

#[derive(PartialEq, Clone, Copy)]
enum Element {
    Object,
    Scalar,
}

/// Whether elements are objects or scalars; they must all be of one type.
fn element_kind(lists: &[&[Value]]) -> Result<Element> {
    let type_of = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(number) if number.is_f64() => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    };
    let mut items = lists.iter().copied().flatten();
    let first = items.next().map(type_of).ok_or_else(|| unmergeable("the lists are empty"))?;
    match first {
        0 => return Err(unmergeable("an element is null")),
        5 => return Err(PatchError::Inapplicable("lists of lists are not supported".to_owned())),
        _ => {}
    }
    if items.any(|item| type_of(item) != first) {
        return Err(unmergeable("the elements of a list must be of one type"));
    }
    Ok(if first == 6 { Element::Object } else { Element::Scalar })
}

/// Drops what is there twice; the last element takes the place of each one dropped, as stock has it.
fn deduplicated(mut items: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut at = 0;
    while at < items.len() {
        if seen.insert(items[at].to_string()) {
            at += 1;
        } else {
            items.swap_remove(at);
        }
    }
    items
}

/// Orders a merged list: what `order` names in that order, the rest in the order of `old`, interleaved so that what
/// stood before something still does where both orders allow.
fn in_order(merged: Vec<Value>, order: &[Value], old: &[Value], key: &str) -> Result<Vec<Value>> {
    let (wanted, before) = (ranks(order, key)?, ranks(old, key)?);
    let rank = |ranks: &BTreeMap<String, usize>, item: &Value| -> Option<usize> {
        identity(item, key).ok().and_then(|id| ranks.get(&id.to_string()).copied())
    };
    let (mut named, mut rest): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| rank(&wanted, item).is_some());
    named.sort_by_cached_key(|item| rank(&wanted, item));
    rest.sort_by_cached_key(|item| rank(&before, item));
    let mut ordered = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    while let (Some(left), Some(right)) = (rest.peek(), named.peek()) {
        let earlier =
            matches!((rank(&before, left), rank(&before, right)), (Some(left), Some(right)) if left < right);
        ordered.extend(if earlier { rest.next() } else { named.next() });
    }
    ordered.extend(named);
    ordered.extend(rest);
    Ok(ordered)
}

fn ranks(items: &[Value], key: &str) -> Result<BTreeMap<String, usize>> {
    let mut ranks = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        ranks.entry(identity(item, key)?.to_string()).or_insert(at);
    }
    Ok(ranks)
}

/// Takes away every null field: it would remove what is not there.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(|value| *value = without_nulls(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_nulls(item.take())),
        _ => {}
    }
    value
}

/// What is left of a value when the objects that are directives are taken out.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let kept =
                fields.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}
