//! Recorded behaviour of a stock cluster, held against the simulated one. Its time is paused (`start_paused`):
//! sleeping lets everybody come to rest.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod deployments;
mod endpoints;
mod scheduling;
mod service_ranges;

use minik_sim::{Parts, Sim};
use serde_json::Value;

/// The lines of a recording.
fn recorded(file: &str) -> Vec<Value> {
    let path = format!("{}/../../../shared/upstream-1.37/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Holds recorded worlds against clusters that see so many of them, one after the other: each is prepared once, and
/// `differs` says what is wrong with a world, if anything.
fn worlds(
    file: &str,
    parts: &Parts,
    (size, prepare): (usize, impl AsyncFn(&Sim) -> anyhow::Result<()> + Sync),
    differs: impl AsyncFn(&Sim, &Value) -> anyhow::Result<Option<String>> + Sync,
) {
    let recorded = recorded(file);
    let some = recorded.chunks(size).enumerate().flat_map(|(seed, worlds)| {
        let results = Sim::run(seed as u64, parts.clone(), async |sim: &Sim| {
            prepare(sim).await?;
            let mut results = Vec::new();
            for world in worlds {
                results.push(differs(sim, world).await?);
            }
            Ok(results)
        });
        results.unwrap()
    });
    all_agree("worlds", some.collect());
}

/// Prints how many agree, and fails when one does not.
fn all_agree(what: &str, results: Vec<Option<String>>) {
    let wrong: Vec<_> =
        results.iter().enumerate().filter_map(|(at, wrong)| Some((at + 1, wrong.as_ref()?))).collect();
    println!("{} of {} {what} as stock", results.len() - wrong.len(), results.len());
    wrong.iter().take(20).for_each(|(line, wrong)| println!("line {line}: {wrong}"));
    assert!(wrong.is_empty(), "{} {what} differ", wrong.len());
}

/// Leaves out of an object what differs from run to run.
fn plain(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    metadata.retain(|name, _| ["name", "labels", "annotations", "ownerReferences"].contains(&name.as_str()));
    if let Some(name) =
        metadata.get_mut("name").filter(|name| name.as_str().is_some_and(|name| name.starts_with("svc-")))
    {
        *name = "svc-RAND".into();
    }
    for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        owner.as_object_mut().into_iter().for_each(|owner| drop(owner.remove("uid")));
    }
    let times = "endpoints.kubernetes.io/last-change-trigger-time";
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(times);
    }
    if metadata.get("annotations").is_some_and(|annotations| annotations == &serde_json::json!({})) {
        metadata.remove("annotations");
    }
}
