//! The recorded Tables of a stock cluster: columns, and the row of each sample.

#![allow(clippy::unwrap_used)]

use minik_registry::find;
use minik_testkit::cases::Sample;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.37")
}

/// Objects as created, by apiVersion, plural and name.
fn created() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(recorded().join("cases")).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|file| {
            let sample = Sample::read(&file).unwrap();
            let plural = sample.path.rsplit('/').next().unwrap();
            let object = sample.created;
            let key = format!(
                "{} {plural} {}",
                object["apiVersion"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap()
            );
            (key, object)
        })
        .collect()
}

/// Ages differ from run to run; what stands for an address stands in both.
fn ageless(cells: &[Value]) -> Vec<Value> {
    let is_age = |text: &str| {
        let digits = text.trim_end_matches(['s', 'm', 'h', 'd', 'y']);
        digits.len() < text.len() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_time = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
    let blank = |cell: &Value| match cell.as_str() {
        Some(text) if is_age(text) || is_time(text) => json!("AGE"),
        _ => cell.clone(),
    };
    cells.iter().map(blank).collect()
}

#[test]
fn tables_are_those_of_stock() {
    let tables: Value =
        serde_json::from_slice(&std::fs::read(recorded().join("tables.json")).unwrap()).unwrap();
    let objects = created();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (key, table) in tables.as_object().unwrap() {
        let (api_version, plural) = key.split_once(' ').unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(strategy) = find(group, version, plural) else { continue };
        seen += 1;
        let columns: Vec<Value> = strategy
            .columns()
            .iter()
            .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "priority": c.priority}))
            .collect();
        if json!(columns) != table["columns"] {
            wrong.push(format!("{key}:\n  mine  {}\n  stock {}", json!(columns), table["columns"]));
            continue;
        }
        let row = table["row"].as_array().unwrap();
        let at = strategy.columns().iter().position(|c| c.format == "name").unwrap();
        let name = row[at].as_str().unwrap();
        let Some((_, object)) = objects.iter().find(|(known, _)| *known == format!("{key} {name}")) else {
            wrong.push(format!("{key}: no object {name}"));
            continue;
        };
        let text = object.to_string().replace("\"NOW\"", "\"2026-11-23T08:42:55Z\"");
        let mut object: Value = serde_json::from_str(&text).unwrap();
        object["metadata"]["creationTimestamp"] = "2026-11-23T08:42:55Z".into();
        strategy.served_to_stored(version, &mut object);
        let mine = strategy.cells(&object, "2026-11-23T08:42:56Z".parse().unwrap());
        if ageless(&mine) != ageless(row) {
            wrong.push(format!("{key}:\n  mine  {}\n  stock {}", json!(mine), json!(row)));
        }
    }
    assert!(seen >= 16, "{seen}");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}
