//! The recorded sequences of server-side apply, step by step: who owns what afterwards, and which fields conflict.
//!
//! The live object of each step is the recorded one, so that only applying is tested and not defaults, admission and
//! validation; a step that stock's validation refused is passed over unless it conflicted first.

#![allow(clippy::unwrap_used)]

use minik_apimachinery::apply::{ApplyError, FieldFilter, OneVersion, Writer, keep_times_if_unchanged};
use minik_apimachinery::{decode, facts};
use serde_json::{Value, json};
use std::path::PathBuf;

fn recordings() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/upstream-1.37"))
}

/// Numbers and quantities that stand under a name in the recordings.
fn concrete(value: &Value) -> Value {
    match value {
        Value::String(text) if text == "NODEPORT" => 31234.into(),
        Value::String(text) if text == "NOW" => "2026-01-01T00:00:00Z".into(),
        Value::Array(items) => items.iter().map(concrete).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), concrete(value))).collect(),
        other => other.clone(),
    }
}

/// Puts a leaf of the recording in its place.
fn put(at: &mut Value, path: &[Value], value: Value) {
    let Some((step, rest)) = path.split_first() else {
        *at = value;
        return;
    };
    match step {
        Value::String(name) => {
            if !at.is_object() {
                *at = json!({});
            }
            put(at.as_object_mut().unwrap().entry(name.clone()).or_insert(Value::Null), rest, value);
        }
        index => {
            let index = index.as_u64().unwrap() as usize;
            if !at.is_array() {
                *at = json!([]);
            }
            let items = at.as_array_mut().unwrap();
            while items.len() <= index {
                items.push(Value::Null);
            }
            put(&mut items[index], rest, value);
        }
    }
}

/// Takes a leaf away, and the containers that it leaves empty.
fn take(at: &mut Value, path: &[Value]) {
    let Some((step, rest)) = path.split_first() else { return };
    match (step, at) {
        (Value::String(name), Value::Object(fields)) => {
            if let Some(below) = fields.get_mut(name) {
                take(below, rest);
                if rest.is_empty() || *below == json!({}) || *below == json!([]) {
                    fields.remove(name);
                }
            }
        }
        (index, Value::Array(items)) => {
            let index = index.as_u64().unwrap() as usize;
            if let Some(below) = items.get_mut(index) {
                take(below, rest);
                if rest.is_empty() || *below == json!({}) || *below == json!([]) {
                    items.truncate(index);
                }
            }
        }
        _ => {}
    }
}

struct World {
    api_version: String,
    ty: facts::TypeId,
    live: Option<Value>,
    second: i64,
}

fn parameter<'a>(query: &'a str, name: &str) -> &'a str {
    let pairs = query.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next().unwrap_or_default()
}

fn timeless(object: &Value) -> Vec<Value> {
    let mut entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    for entry in &mut entries {
        entry.as_object_mut().unwrap().remove("time");
        entry.as_object_mut().unwrap().remove("fieldsType");
    }
    let key = |entry: &Value| format!("{} {}", entry["manager"], entry["operation"]);
    entries.sort_by_key(key);
    entries
}

impl World {
    fn writer<'a>(&'a self, manager: &'a str) -> Writer<'a> {
        Writer {
            ty: self.ty,
            api_version: &self.api_version,
            subresource: "",
            manager,
            now: jiff::Timestamp::from_second(1_700_000_000 + self.second).unwrap(),
            filter: FieldFilter::Exclude(&[&["status"]]),
            versions: &OneVersion,
        }
    }

    /// What stock has after an accepted step, without managed fields.
    fn recorded(&self, step: &Value) -> Value {
        let mut object = self.live.clone().unwrap_or_else(|| json!({"metadata": {}}));
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        for path in step["unset"].as_array().unwrap().iter().rev() {
            take(&mut object, path.as_array().unwrap());
        }
        for pair in step["set"].as_array().unwrap() {
            put(&mut object, pair[0].as_array().unwrap(), concrete(&pair[1]));
        }
        decode::normalize(object, self.ty).unwrap().value
    }

    /// Runs a step; what differs from the recording, if anything.
    fn step(&mut self, step: &Value) -> Option<String> {
        self.second += 1;
        let code = step["code"].as_u64().unwrap();
        let query = step["query"].as_str().unwrap();
        let manager = parameter(query, "fieldManager").to_owned();
        if code == 422 {
            return None;
        }
        let expected = (code < 300).then(|| self.recorded(step));
        let written = if step["type"] == "application/apply-patch+yaml" {
            let force = parameter(query, "force") == "true";
            match self.writer(&manager).apply(self.live.as_ref(), &concrete(&step["body"]), force) {
                Ok(object) => object,
                Err(error) => return refusal(step, &error),
            }
        } else {
            let mut object = expected.clone().unwrap();
            self.writer(&manager).update(self.live.as_ref(), &mut object);
            object
        };
        let Some(mut stored) = expected else { return Some(format!("accepted: {step}")) };
        stored["metadata"]["managedFields"] = written["metadata"]["managedFields"].clone();
        if stored["metadata"]["managedFields"].is_null() {
            stored["metadata"].as_object_mut().unwrap().remove("managedFields");
        }
        if let Some(live) = &self.live {
            keep_times_if_unchanged(&mut stored, live);
        }
        let mine = timeless(&stored);
        let mut stock = step["managedFields"].as_array().cloned().unwrap_or_default();
        // Stock's own controller wrote meanwhile.
        stock.retain(|entry| entry["manager"] != "api-priority-and-fairness-config-consumer-v1");
        self.live = Some(stored);
        (mine != stock)
            .then(|| format!("{}:\n   mine  {}\n   stock {}", step["query"], json!(mine), json!(stock)))
    }
}

fn refusal(step: &Value, error: &ApplyError) -> Option<String> {
    let mine = match error {
        ApplyError::BadRequest(_) => json!([400]),
        ApplyError::Failed(_) => json!([500]),
        ApplyError::Conflict { causes, .. } => {
            let mut fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
            fields.sort_unstable();
            json!([409, fields])
        }
    };
    let mut fields: Vec<&str> =
        step["causes"].as_array().into_iter().flatten().map(|cause| cause[1].as_str().unwrap()).collect();
    fields.sort_unstable();
    let stock = match step["code"].as_u64().unwrap() {
        409 => json!([409, fields]),
        code => json!([code]),
    };
    (mine != stock)
        .then(|| format!("{} {}: mine {mine} ({error}) stock {stock}", step["query"], step["body"]))
}

#[test]
fn recorded_sequences_give_the_same_owners_and_conflicts() {
    let (mut total, mut failures) = (0, Vec::new());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(recordings().join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let cases = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // Stock compares raw parts byte by byte; the recording's client wrote blanks into those of a DeviceClass.
        if name.starts_with("resource.k8s.io_v1.DeviceClass.") {
            continue;
        }
        for case in cases.filter(|case| case["op"] == "apply") {
            let body = &case["steps"][0]["body"];
            let api_version = body["apiVersion"].as_str().unwrap().to_owned();
            let ty = facts::kind(&api_version, body["kind"].as_str().unwrap()).unwrap();
            let mut world = World { api_version, ty, live: None, second: 0 };
            for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                total += 1;
                if let Some(problem) = world.step(step) {
                    failures.push(format!("{name} step {at} {problem}"));
                }
            }
        }
    }
    println!("apply: {} passed of {total}", total - failures.len());
    assert!(total > 600, "only {total} recorded steps were found");
    assert!(failures.is_empty(), "{} of {total}:\n{}", failures.len(), failures.join("\n"));
}
