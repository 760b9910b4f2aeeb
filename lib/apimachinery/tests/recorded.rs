//! What a stock apiserver stored and answered is already in the form of its types: decoding must not change it.

#![allow(clippy::unwrap_used)]

use minik_apimachinery::{decode, facts};
use serde_json::Value;
use std::path::PathBuf;

fn recordings() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/upstream-1.37"))
}

fn check(object: &Value, place: &str, failures: &mut Vec<String>) {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let Some(ty) = facts::kind(text("apiVersion"), text("kind")) else {
        failures.push(format!("{place}: unknown kind {} {}", text("apiVersion"), text("kind")));
        return;
    };
    match decode::decode(object.to_string().as_bytes(), ty) {
        Err(error) => failures.push(format!("{place}: {error}")),
        Ok(decoded) if decoded.value != *object => {
            failures.push(format!("{place}:\n  was {object}\n  is  {}", decoded.value));
        }
        Ok(decoded) if !decoded.findings.is_empty() => {
            failures.push(format!("{place}: {:?}", decoded.findings))
        }
        Ok(_) => {}
    }
}

#[test]
fn objects_as_created_are_unchanged() {
    let mut failures = Vec::new();
    let mut total = 0;
    for entry in std::fs::read_dir(recordings().join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let mut object = first["created"].clone();
        stand_ins(&mut object);
        total += 1;
        check(&object, &path.file_name().unwrap().to_string_lossy(), &mut failures);
    }
    assert!(
        total > 60 && failures.is_empty(),
        "{} of {total} changed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Times and node ports stand under a name in the recordings.
fn stand_ins(value: &mut Value) {
    match value {
        Value::String(text) if text == "NODEPORT" => *value = 31234.into(),
        Value::String(text) if text == "NOW" => *text = "2026-01-01T00:00:00Z".into(),
        Value::Array(items) => items.iter_mut().for_each(stand_ins),
        Value::Object(fields) => fields.values_mut().for_each(stand_ins),
        _ => {}
    }
}

/// Cases that fail before anything but the type matters: 400 for a value of the wrong type.
#[test]
fn values_of_the_wrong_type_are_refused_where_stock_refuses_them() {
    let (mut total, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(recordings().join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let base = lines.next().unwrap()["created"].clone();
        // The unions in a CRD's schema (a truth or a schema) are told apart when CRDs are served.
        if base["kind"] == "CustomResourceDefinition" {
            continue;
        }
        let version = |name: &str| base[name].as_str().unwrap_or_default().to_owned();
        let ty = facts::kind(&version("apiVersion"), &version("kind")).unwrap();
        for case in lines.filter(|case| case["op"] == "create" && case["strict"] != true) {
            let mut object = base.clone();
            stand_ins(&mut object);
            set(&mut object, &case);
            let at = case["at"].as_array().map(|at| at.as_slice()).unwrap_or_default();
            // A changed version, kind or namespace is another question than the types of fields.
            if at.first().is_some_and(|first| first == "apiVersion" || first == "kind")
                || *at == ["metadata", "namespace"]
            {
                continue;
            }
            let refused = decode::decode(object.to_string().as_bytes(), ty).is_err();
            // Other 400s come from behind the decoder; what was accepted or judged invalid must decode.
            if case["code"] != 400 {
                total += 1;
                if refused {
                    failures.push(format!("{}: {case}", path.file_name().unwrap().to_string_lossy()));
                }
            } else if is_type_error(&case) {
                total += 1;
                if !refused {
                    failures
                        .push(format!("{}: accepted {case}", path.file_name().unwrap().to_string_lossy()));
                }
            }
        }
    }
    println!("decode: {} passed of {total}", total - failures.len());
    assert!(
        failures.is_empty(),
        "{} of {total}:\n{}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
}

fn is_type_error(case: &Value) -> bool {
    case["reason"] == "BadRequest" && case["causes"].is_null()
}

fn set(object: &mut Value, case: &Value) {
    let mut at = object;
    let path: Vec<Value> = case["at"].as_array().unwrap().clone();
    for (depth, step) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        match step {
            Value::String(name) if name == "+" => {
                if let Some(list) = at.as_array_mut() {
                    list.push(case["value"].clone());
                }
                return;
            }
            Value::String(name) => {
                if last && case["remove"] == true {
                    if let Some(fields) = at.as_object_mut() {
                        fields.remove(name);
                    }
                    return;
                }
                if !at.is_object() {
                    *at = Value::Object(Default::default());
                }
                at = at.as_object_mut().unwrap().entry(name.clone()).or_insert(Value::Null);
            }
            Value::Number(index) => {
                let index = index.as_u64().unwrap() as usize;
                if last && case["remove"] == true {
                    at.as_array_mut().unwrap().remove(index);
                    return;
                }
                at = &mut at[index];
            }
            _ => panic!("a path of names and numbers: {case}"),
        }
    }
    *at = case["value"].clone();
}

/// What strategies, allocators and admission add to a new object, not defaults.
const ADDED_LATER: [&str; 24] = [
    "/metadata/namespace",
    "/metadata/generation",
    "/metadata/finalizers",
    "/spec/finalizers",
    "/spec/clusterIP",
    "/spec/clusterIPs",
    "/spec/ipFamilies",
    "/spec/ipFamilyPolicy",
    "/spec/ports/0/nodePort",
    "/spec/priority",
    "/spec/preemptionPolicy",
    "/spec/serviceAccount",
    "/spec/serviceAccountName",
    "/spec/tolerations",
    "/spec/volumes",
    "/spec/taints",
    "/spec/containers/0/volumeMounts",
    "/status/conditions",
    "/status/phase",
    "/status/qosClass",
    "/status/lastPhaseTransitionTime",
    "/data/s",
    "/stringData",
    "/status",
];

/// Samples of the core groups, decoded and defaulted, are what was created but for what is added later.
#[test]
fn defaults_give_what_stock_gives() {
    let samples: Vec<Value> =
        serde_json::from_slice(&std::fs::read(recordings().join("samples.json")).unwrap()).unwrap();
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(recordings().join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let sample = &samples[first["sample"].as_u64().unwrap() as usize];
        let sample = sample.get("object").unwrap_or(sample).clone();
        let (version, kind) = (sample["apiVersion"].as_str().unwrap(), sample["kind"].as_str().unwrap());
        let ty = facts::kind(version, kind).unwrap();
        let mut object = decode::normalize(sample.clone(), ty).unwrap().value;
        minik_apimachinery::defaults::apply(ty, &mut object);
        let mut differences = Vec::new();
        compare(&object, &first["created"], String::new(), &mut differences);
        // The defaults of these groups are here; the others' come with their kinds.
        if ![
            "v1",
            "rbac.authorization.k8s.io/v1",
            "scheduling.k8s.io/v1",
            "discovery.k8s.io/v1",
            "events.k8s.io/v1",
            "coordination.k8s.io/v1",
        ]
        .contains(&version)
        {
            continue;
        }
        differences.retain(|line| !ADDED_LATER.contains(&line.split(':').next().unwrap()));
        failures.extend(
            differences.iter().map(|line| format!("{}: {line}", path.file_name().unwrap().to_string_lossy())),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compare(mine: &Value, stock: &Value, path: String, out: &mut Vec<String>) {
    match (mine, stock) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                compare(
                    a.get(name).unwrap_or(&Value::Null),
                    b.get(name).unwrap_or(&Value::Null),
                    format!("{path}/{name}"),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(a, b, format!("{path}/{at}"), out);
            }
        }
        _ if mine == stock => {}
        _ => out.push(format!("{path}: mine {mine} stock {stock}")),
    }
}
