//! Answers and recordings, with what differs from run to run put under its name.

use crate::client::Answer;
use minik_testkit::cases::{Change, Outcome};
use serde_json::Value;

/// What an answer says, compared with the object as it was before.
pub fn outcome(answer: &Answer, before: &Value) -> Outcome {
    let mut outcome = Outcome { code: answer.code.into(), warnings: answer.warnings(), ..Outcome::default() };
    let body = answer.json();
    if answer.code < 300 {
        outcome.change = Change::between(before, &body);
        return outcome;
    }
    outcome.reason = body["reason"].as_str().unwrap_or_default().to_owned();
    let causes = body["details"]["causes"].as_array().into_iter().flatten();
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    outcome.causes = causes.map(|cause| (text(cause, "reason"), text(cause, "field"))).collect();
    // A cause without a field is the words of an internal error, which the recording leaves out.
    outcome.causes.retain(|(reason, field)| !reason.is_empty() || !field.is_empty());
    outcome.causes.sort();
    outcome
}

/// Whether two outcomes are the same, names of chance aside.
pub fn same(expected: &Outcome, actual: &Outcome) -> bool {
    let rest =
        |outcome: &Outcome| Outcome { change: Change::default(), causes: Vec::new(), ..outcome.clone() };
    if rest(expected) != rest(actual) || !same_causes(expected, actual) {
        return false;
    }
    // What the recording names by chance and what we have there are both left out.
    let (mut want, mut got) = (expected.change.clone(), actual.change.clone());
    let named: Vec<String> =
        want.set.iter().filter(|(_, value)| is_name(value)).map(|(path, _)| path.clone()).collect();
    for path in named {
        if got.set.remove(&path).is_none() {
            return false;
        }
        want.set.remove(&path);
    }
    // A value of chance stands under its name in the object that the recording compared with.
    got.set.retain(|path, value| want.set.contains_key(path) || !of_chance(path, value));
    want == got
}

fn same_causes(expected: &Outcome, actual: &Outcome) -> bool {
    let fields = |outcome: &Outcome| -> Vec<(String, String)> {
        outcome
            .causes
            .iter()
            .filter(|(reason, field)| !reason.is_empty() || !field.is_empty())
            .cloned()
            .collect()
    };
    fields(expected) == fields(actual)
}

const NAMES: [&str; 4] = ["UID", "NOW", "CLUSTERIP", "NODEPORT"];

fn is_name(value: &Value) -> bool {
    value.as_str().is_some_and(|text| NAMES.contains(&text) || text.contains("RAND"))
}

/// Whether a value at a path is one of chance.
fn of_chance(path: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.starts_with("kube-api-access-")
                || text.starts_with("gen-")
                || ((path.contains("clusterIP")) && text.starts_with("10.97."))
                || (path.contains("lastTransitionTime") && text.starts_with("20"))
        }
        Value::Number(number) => {
            path.contains("odePort") && number.as_u64().is_some_and(|port| (30000..32768).contains(&port))
        }
        _ => false,
    }
}

/// A tree with names in place of what is of chance.
pub fn without_names(value: &Value) -> Value {
    fn walk(value: &Value, path: &str) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| walk(item, path)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), walk(value, &format!("{path}.{name}"))))
                .collect(),
            Value::String(text) if text.starts_with("20") && text.ends_with('Z') => "TIME".into(),
            Value::String(text) if path.contains("lusterIP") && text.starts_with("10.") => "CLUSTERIP".into(),
            Value::String(text) if text.starts_with("kube-api-access-") => "kube-api-access-RAND".into(),
            Value::String(text) if text.starts_with("10.97.") => "CLUSTERIP".into(),
            Value::Number(_) if path.contains("odePort") => "NODEPORT".into(),
            other => other.clone(),
        }
    }
    walk(value, "")
}
