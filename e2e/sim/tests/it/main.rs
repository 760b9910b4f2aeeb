//! Recorded behaviour of a stock cluster, held against the simulated one.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod scheduling;

use serde_json::Value;

/// The lines of a recording.
fn recorded(file: &str) -> Vec<Value> {
    let path = format!("{}/../../../shared/upstream-1.37/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Prints how many agree, and fails when one does not.
fn all_agree(what: &str, results: Vec<Option<String>>) {
    let wrong: Vec<_> =
        results.iter().enumerate().filter_map(|(at, wrong)| Some((at + 1, wrong.as_ref()?))).collect();
    println!("{} of {} {what} as stock", results.len() - wrong.len(), results.len());
    wrong.iter().take(20).for_each(|(line, wrong)| println!("line {line}: {wrong}"));
    assert!(wrong.is_empty(), "{} {what} differ", wrong.len());
}
