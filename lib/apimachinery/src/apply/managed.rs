//! `metadata.managedFields`: reading, writing, and keeping it small.

use super::path::Set;
use crate::time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Most entries of plain writers; the oldest beyond it are put together.
const MOST_UPDATERS: usize = 10;
/// The manager that stands for the writers that were put together.
const ANCIENT: &str = "ancient-changes";

/// How a manager wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells one entry from another. An applier is the same whatever version it applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
}

impl Manager {
    pub fn new(name: &str, operation: Operation, api_version: &str, subresource: &str) -> Manager {
        let name = if name.is_empty() { "unknown" } else { name };
        let api_version = match operation {
            Operation::Apply => "",
            Operation::Update => api_version,
        };
        Manager {
            name: name.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub api_version: String,
    pub set: Set,
    /// As it stands in the entry.
    pub time: Option<String>,
}

/// All entries.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managed(pub BTreeMap<Manager, Owned>);

impl Managed {
    /// Reads a list of entries; `None` when one is malformed.
    pub fn parse(entries: Option<&Value>) -> Option<Managed> {
        let mut managed = Managed::default();
        for entry in entries.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("fieldsType") != "FieldsV1" {
                return None;
            }
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let set = match entry.get("fieldsV1") {
                None | Some(Value::Null) => Set::default(),
                Some(fields) => Set::parse(fields)?,
            };
            let manager = Manager::new(text("manager"), operation, text("apiVersion"), text("subresource"));
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            managed.0.insert(manager, Owned { api_version: text("apiVersion").to_owned(), set, time });
        }
        Some(managed)
    }

    /// Of an object that is stored; what cannot be read counts as none.
    pub fn of(object: &Value) -> Managed {
        Managed::parse(object.pointer("/metadata/managedFields")).unwrap_or_default()
    }

    /// Writes the entries into an object.
    pub fn write(&self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        let mut entries: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        let age = |owned: &Owned| seconds(owned.time.as_deref());
        entries.sort_by(|(a, mine), (b, theirs)| {
            (a.operation, age(mine), &a.name, &mine.api_version, &a.subresource).cmp(&(
                b.operation,
                age(theirs),
                &b.name,
                &theirs.api_version,
                &b.subresource,
            ))
        });
        let entries = entries.into_iter().map(|(manager, owned)| entry(manager, owned)).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }

    /// Puts the oldest plain writers together when there are too many, version by version.
    pub fn cap(&mut self) {
        let age = |owned: &Owned| seconds(owned.time.as_deref());
        let mut updaters: Vec<Manager> =
            self.0.keys().filter(|manager| manager.operation == Operation::Update).cloned().collect();
        let mut left = updaters.len();
        updaters.sort_by_key(|manager| (self.0.get(manager).map(age), manager.clone()));
        let mut first_of: BTreeMap<String, Manager> = BTreeMap::new();
        for manager in updaters {
            if left <= MOST_UPDATERS {
                break;
            }
            let version = manager.api_version.clone();
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, manager);
                continue;
            };
            let bucket = Manager::new(ANCIENT, Operation::Update, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            if let Some(owned) = self.0.remove(&manager) {
                left -= 1;
                let merged = self.0.entry(bucket).or_insert_with(|| Owned {
                    api_version: version,
                    set: Set::default(),
                    time: None,
                });
                merged.set.add(&owned.set);
                merged.time = owned.time;
            }
        }
    }
}

fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|time| time::parse(time).ok().flatten()).map_or(0, Timestamp::as_second)
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut fields = Map::new();
    fields.insert("manager".into(), manager.name.clone().into());
    fields.insert("operation".into(), manager.operation.name().into());
    fields.insert("apiVersion".into(), owned.api_version.clone().into());
    if let Some(time) = &owned.time {
        fields.insert("time".into(), time.clone().into());
    }
    fields.insert("fieldsType".into(), "FieldsV1".into());
    fields.insert("fieldsV1".into(), owned.set.encode());
    if !manager.subresource.is_empty() {
        fields.insert("subresource".into(), manager.subresource.clone().into());
    }
    Value::Object(fields)
}

/// Whether a writer asks for all ownership to be forgotten: an empty list, or one entry with nothing in it.
pub(super) fn is_reset(entries: Option<&Value>) -> bool {
    match entries.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([entry]) => *entry == json!({}),
        _ => false,
    }
}
