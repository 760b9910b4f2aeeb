//! JSON patch, <https://www.rfc-editor.org/rfc/rfc6902>, with what the API's clients have come to rely on: negative
//! indices count from the end, `replace` of an absent field sets it, and a `test` for null holds for what is absent.

use super::{Findings, MOST_COPIED_BYTES, MOST_MOVED_VALUES, MOST_OPERATIONS, PatchError};
use crate::decode::{DEEPEST_KEPT, Room};
use serde_json::{Map, Value};

/// One operation. What is missing or malformed in it is told when its turn comes.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    op: String,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

pub(super) fn parse(
    body: Value,
    findings: Findings,
    found: &mut Vec<String>,
) -> Result<Vec<Operation>, PatchError> {
    let malformed = || PatchError::Malformed("a JSON patch must be a list of operations".to_owned());
    let items = match body {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        _ => return Err(malformed()),
    };
    let mut operations = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let mut fields = match item {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => return Err(malformed()),
        };
        if findings == Findings::Wanted {
            for name in ["op", "path", "from"] {
                if fields.get(name).is_some_and(|value| !value.is_string() && !value.is_null()) {
                    return Err(PatchError::Malformed(format!("[{at}].{name} must be a string")));
                }
            }
            let known = |name: &str| matches!(name, "op" | "path" | "from" | "value");
            let unknown = fields.keys().filter(|name| !known(name));
            found.extend(unknown.map(|name| format!("unknown field \"[{at}].{name}\"")));
        }
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        operations.push(Operation {
            op: text("op").unwrap_or_else(|| "unknown".to_owned()),
            path: text("path"),
            from: text("from"),
            value: fields.remove("value").unwrap_or_default(),
        });
    }
    found.iter_mut().for_each(|finding| *finding = format!("json patch {finding}"));
    if operations.len() > MOST_OPERATIONS {
        return Err(PatchError::TooMany(operations.len()));
    }
    Ok(operations)
}

pub(super) fn apply(operations: &[Operation], mut object: Value) -> Result<Value, PatchError> {
    let mut work = Work::default();
    for operation in operations {
        let path = operation.path.as_deref();
        step(operation, &mut object, &mut work).map_err(|problem| {
            PatchError::Inapplicable(format!("{} {}: {problem}", operation.op, path.unwrap_or_default()))
        })?;
    }
    Ok(object)
}

/// What a patch has cost by now.
#[derive(Default)]
struct Work {
    copied_bytes: usize,
    copies: Room,
    moved_values: usize,
}

impl Work {
    /// Elements of a list make room for another or close up, or values are looked at.
    fn moves(&mut self, values: usize) -> Result<(), String> {
        self.moved_values += values;
        if self.moved_values > MOST_MOVED_VALUES {
            return Err(format!("the patch moves more than {MOST_MOVED_VALUES} values"));
        }
        Ok(())
    }

    /// A value is copied within the object.
    fn copies(&mut self, value: &Value) -> Result<(), String> {
        self.copied_bytes += value.to_string().len();
        if self.copied_bytes > MOST_COPIED_BYTES || !self.copies.value(value) {
            return Err(format!("the patch copies more than {MOST_COPIED_BYTES} bytes or too many values"));
        }
        Ok(())
    }

    /// A value is put where a pointer says: copies of copies would else nest without end.
    fn nests(&mut self, pointer: &str, value: &Value) -> Result<(), String> {
        let mut values = 0;
        let depth = pointer.bytes().filter(|byte| *byte == b'/').count() + depth(value, &mut values);
        self.moves(values)?;
        if depth > DEEPEST_KEPT { Err("the value is nested too deeply there".to_owned()) } else { Ok(()) }
    }
}

/// How deeply lists and objects are nested; counts the values on the way.
fn depth(value: &Value, values: &mut usize) -> usize {
    *values += 1;
    match value {
        Value::Array(items) => 1 + items.iter().map(|item| depth(item, values)).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(|value| depth(value, values)).max().unwrap_or(0),
        _ => 0,
    }
}

fn step(operation: &Operation, object: &mut Value, work: &mut Work) -> Result<(), String> {
    let path = || operation.path.as_deref().ok_or("the operation has no path");
    let from = || operation.from.as_deref().ok_or("the operation has no from");
    match operation.op.as_str() {
        "add" => {
            work.nests(path()?, &operation.value)?;
            let (holder, key) = find(object, path()?)?;
            add(holder, key, operation.value.clone(), work)
        }
        "remove" => {
            let (holder, key) = find(object, path()?)?;
            remove(holder, key, work).map(drop)
        }
        "replace" => replace(object, path()?, &operation.value, work),
        "move" => {
            let (holder, key) = find(object, from()?)?;
            let value = remove(holder, key, work)?;
            work.nests(path()?, &value)?;
            let (holder, key) = find(object, path()?)?;
            add(holder, key, value, work)
        }
        "copy" => {
            let (holder, key) = find(object, from()?)?;
            let value = get(holder, &key)?.cloned().unwrap_or_default();
            work.copies(&value)?;
            work.nests(path()?, &value)?;
            let (holder, key) = find(object, path()?)?;
            add(holder, key, value, work)
        }
        "test" => test(object, path()?, &operation.value),
        other => Err(format!("there is no operation {other:?}")),
    }
}

/// The object or list that holds what a pointer names, and the last name in the pointer.
fn find<'a>(object: &'a mut Value, pointer: &str) -> Result<(&'a mut Value, String), String> {
    let missing = || format!("there is nothing at {pointer:?}");
    let mut steps = pointer.split('/').skip(1).map(unescape);
    let mut key = steps.next().ok_or_else(missing)?;
    let mut holder = object;
    for next in steps {
        holder = get_mut(holder, &key).ok_or_else(missing)?;
        key = next;
    }
    if holder.is_object() || holder.is_array() { Ok((holder, key)) } else { Err(missing()) }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn get_mut<'a>(holder: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match holder {
        Value::Object(fields) => fields.get_mut(key),
        Value::Array(items) => {
            let at = index(key, items.len()).ok()?;
            items.get_mut(at)
        }
        _ => None,
    }
}

fn get<'a>(holder: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match holder {
        Value::Array(items) => {
            let at = index(key, items.len())?;
            items.get(at).map(Some).ok_or_else(|| beyond(key))
        }
        other => Ok(other.get(key)),
    }
}

/// An index as written; a negative one counts from the end of `len`.
fn index(key: &str, len: usize) -> Result<usize, String> {
    let at: i64 = key.parse().map_err(|_| format!("{key:?} is no index"))?;
    let at = if at < 0 { at + len as i64 } else { at };
    usize::try_from(at).map_err(|_| beyond(key))
}

fn beyond(key: &str) -> String {
    format!("the list has no index {key}")
}

fn add(holder: &mut Value, key: String, value: Value, work: &mut Work) -> Result<(), String> {
    match holder {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&key, items.len() + 1)?;
            if at > items.len() {
                return Err(beyond(&key));
            }
            work.moves(items.len() - at)?;
            items.insert(at, value);
        }
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        _ => return Err("only objects and lists hold values".to_owned()),
    }
    Ok(())
}

fn remove(holder: &mut Value, key: String, work: &mut Work) -> Result<Value, String> {
    match holder {
        Value::Array(items) => {
            let at = index(&key, items.len())?;
            if at >= items.len() {
                return Err(beyond(&key));
            }
            work.moves(items.len() - at)?;
            Ok(items.remove(at))
        }
        Value::Object(fields) => fields.remove(&key).ok_or_else(|| format!("there is no {key:?} to remove")),
        _ => Err("only objects and lists hold values".to_owned()),
    }
}

fn replace(object: &mut Value, pointer: &str, value: &Value, work: &mut Work) -> Result<(), String> {
    if pointer.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("the whole can only be replaced by an object or a list".to_owned());
        }
        *object = value.clone();
        return Ok(());
    }
    work.nests(pointer, value)?;
    let (holder, key) = find(object, pointer)?;
    get(holder, &key)?;
    match get_mut(holder, &key) {
        Some(old) => *old = value.clone(),
        None => add(holder, key, value.clone(), work)?,
    }
    Ok(())
}

fn test(object: &mut Value, pointer: &str, value: &Value) -> Result<(), String> {
    let same = if pointer.is_empty() {
        object == value
    } else {
        let (holder, key) = find(object, pointer)?;
        get(holder, &key)?.unwrap_or(&Value::Null) == value
    };
    if same { Ok(()) } else { Err("the value is another".to_owned()) }
}
