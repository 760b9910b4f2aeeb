//! Bodies of three MiB whose lists and maps are as long as fits, and the largest that are not refused for it: none may cost
//! more memory than is allowed, or hang.
//!
//! A few places are looked at; with `MINIK_FUZZ_LARGE=all` every list and map of every recorded object.

#![allow(clippy::unwrap_used)]

use minik_fuzz::request::Server;
use minik_fuzz::{MOST_BYTES, most_held, recorded};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// As large as a body may be.
const BODY_BYTES: usize = 3 << 20;
/// Nothing may take nearly as long as a request has; the machine may be busy.
const MOST_TIME: Duration = Duration::from_secs(30);
/// What is looked at for each change: kinds' paths by their end, and places in their objects.
const FEW: [(&str, &str); 7] = [
    ("/pods", "/spec/containers"),
    ("/deployments", "/spec/template/spec/containers"),
    ("/pods", "/metadata/labels"),
    ("/certificatesigningrequests", "/spec/usages"),
    ("/services", "/spec/ports"),
    ("/clusterroles", "/rules"),
    ("/configmaps", "/metadata/ownerReferences"),
];

/// How a list or map is filled.
#[derive(Debug, Clone, Copy)]
enum Filled {
    /// With empty values.
    Empty,
    /// With the value that stands there, under a name of its own each time.
    Named,
}

/// The places of lists and maps in a tree.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(at.to_owned());
            fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            found.push(at.to_owned());
            if let Some(first) = items.first() {
                places(first, &format!("{at}/0"), found);
            }
        }
        _ => {}
    }
}

/// The object with so much at a place that it is so large; `None` where nothing stands.
fn large(object: &Value, place: &str, filled: Filled, most_bytes: usize) -> Option<String> {
    let mut object = object.clone();
    object["metadata"]["name"] = "large".into();
    if place == "/metadata/ownerReferences" {
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "a"}]);
    }
    let held = object.pointer_mut(place)?;
    let element = match &*held {
        Value::Array(items) => items.first().cloned()?,
        Value::Object(fields) => fields.values().next().cloned()?,
        _ => return None,
    };
    let is_list = held.is_array();
    *held = "HERE".into();
    let text = object.to_string();
    let mut filling = String::new();
    for number in 0.. {
        let one = match filled {
            Filled::Empty if element.is_object() => "{}".to_owned(),
            Filled::Empty if element.is_array() => "[]".to_owned(),
            Filled::Empty => "\"\"".to_owned(),
            Filled::Named => named(&element, number).to_string(),
        };
        let one = if is_list { one } else { format!("\"k{number}\":{one}") };
        if text.len() + filling.len() + one.len() + 3 > most_bytes {
            break;
        }
        let comma = if filling.is_empty() { "" } else { "," };
        filling = filling + comma + &one;
    }
    let filling = if is_list { format!("[{filling}]") } else { format!("{{{filling}}}") };
    Some(text.replace("\"HERE\"", &filling))
}

fn named(element: &Value, number: usize) -> Value {
    let mut element = element.clone();
    match &mut element {
        Value::Object(fields) => {
            for name in ["name", "uid", "key", "ip"] {
                if fields.contains_key(name) {
                    fields.insert(name.into(), format!("n{number}").into());
                }
            }
        }
        Value::String(text) => *text = format!("{text}{number}"),
        _ => {}
    }
    element
}

/// What a request came to.
struct Cost {
    /// It in words.
    line: String,
    /// It is wrong.
    is_wrong: bool,
    /// It was refused for the number of its values.
    is_refused: bool,
}

fn check(server: &mut Server, title: &str, (method, uri, kind): (&str, &str, &str), body: String) -> Cost {
    let length = body.len();
    let body = bytes::Bytes::from(body);
    let (began, mut answer) = (Instant::now(), None);
    let held = most_held(|| answer = server.ask(method, uri, kind, "", body));
    let took = began.elapsed();
    let answer = answer.unwrap();
    let line =
        format!("{title}: {length} bytes, {}, {} KiB, {} ms", answer.code, held >> 10, took.as_millis());
    println!("{line}");
    Cost {
        line,
        is_wrong: held > MOST_BYTES || took > MOST_TIME || answer.code == 500,
        is_refused: String::from_utf8_lossy(&answer.body).contains("too many values"),
    }
}

#[test]
fn no_body_costs_too_much() {
    let all = std::env::var("MINIK_FUZZ_LARGE").is_ok_and(|which| which == "all");
    let mut server = Server::start();
    let mut problems = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (path, object) in recorded() {
        if !all && !seen.insert(path.clone()) {
            continue;
        }
        let mut found = vec!["/metadata/ownerReferences".to_owned()];
        places(&object, "", &mut found);
        found.retain(|place| all || FEW.iter().any(|(kind, few)| path.ends_with(kind) && place == few));
        for place in found {
            for filled in [Filled::Empty, Filled::Named] {
                let mut most_bytes = BODY_BYTES;
                while let Some(body) = large(&object, &place, filled, most_bytes) {
                    let title = format!("{path}{place} {filled:?}");
                    let cost = check(&mut server, &title, ("POST", &path, "application/json"), body);
                    if cost.is_wrong {
                        problems.push(cost.line);
                    }
                    if !cost.is_refused {
                        break;
                    }
                    most_bytes = if all { most_bytes * 2 / 3 } else { most_bytes / 3 };
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Bodies that are no objects, or whose work would be larger than they are.
#[test]
fn no_patch_costs_too_much() {
    let mut server = Server::start();
    let maps = "/api/v1/namespaces/oracle/configmaps/sample";
    let pod = "/api/v1/namespaces/oracle/pods/sample";
    let json_patch = "application/json-patch+json";
    let strategic = "application/strategic-merge-patch+json";
    let list = |one: &str, times: usize| format!("[{}]", vec![one; times].join(","));
    let shifts: Vec<String> =
        std::iter::once(format!(r#"{{"op":"add","path":"/x","value":{}}}"#, list("0", 1_000_000)))
            .chain((0..9_999).map(|_| r#"{"op":"add","path":"/x/0","value":1}"#.to_owned()))
            .collect();
    // Each copy puts what is there into itself and so doubles its depth.
    let mut nests = vec![r#"{"op":"add","path":"/x","value":{}}"#.to_owned()];
    nests.extend(
        (0..18).map(|power| format!(r#"{{"op":"copy","from":"/x","path":"/x{}"}}"#, "/a".repeat(1 << power))),
    );
    let owners: Vec<String> = (0..60_000).map(|n| format!(r#"{{"uid":"u{n}","name":"n"}}"#)).collect();
    let tolerations: Vec<String> = (0..60_000).map(|n| format!(r#"{{"name":"c{n}","image":"i"}}"#)).collect();
    let long_name = "n".repeat(1 << 20);
    let duplicates = format!(r#"{{"{long_name}":{{{}}}}}"#, vec![r#""a":1"#; 200].join(","));
    let deep = format!(r#"[{{"op":"add","path":"/x{}","value":1}}]"#, "/a".repeat(1_000_000));
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: sample}}\nx: [{}]\n",
        vec!["{a: }"; 80_000].join(",")
    );
    let bomb = format!(
        "a: &a [{}]\nb: &b [{}]\nc: &c [{}]\nd: [{}]\n",
        "x,".repeat(99),
        "*a,".repeat(99),
        "*b,".repeat(99),
        "*c,".repeat(99)
    );
    let apply = "application/apply-patch+yaml";
    let mut problems = Vec::new();
    for (title, uri, kind, body) in [
        ("empty lists", maps, json_patch, list("[]", 1_000_000)),
        ("empty operations", maps, json_patch, list("{}", 1_000_000)),
        ("elements moved", maps, json_patch, format!("[{}]", shifts.join(","))),
        ("copies of copies", maps, json_patch, format!("[{}]", nests.join(","))),
        ("a deep path", maps, json_patch, deep),
        ("long names", maps, "application/merge-patch+json", duplicates.clone()),
        (
            "owners",
            maps,
            strategic,
            format!(r#"{{"metadata":{{"ownerReferences":[{}]}}}}"#, owners.join(",")),
        ),
        ("containers", pod, strategic, format!(r#"{{"spec":{{"containers":[{}]}}}}"#, tolerations.join(","))),
        (
            "empty containers",
            pod,
            strategic,
            format!(r#"{{"spec":{{"containers":{}}}}}"#, list("{}", 1_000_000)),
        ),
        ("empty values", maps, apply, yaml),
        ("aliases", maps, apply, bomb),
        ("duplicate names", maps, apply, duplicates),
    ] {
        let uri = format!("{uri}?fieldManager=a&force={}", kind == apply);
        let cost = check(&mut server, title, ("PATCH", &uri, kind), body);
        if cost.is_wrong {
            problems.push(cost.line);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
