//! The decisions that a stock v1.37 scheduler took in recorded random worlds: ours must be the same.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use minik_component::SeededChance;
use minik_placement::{Labels, Node, Pod};
use minik_scheduler::cluster::Cluster;
use minik_scheduler::decide::{Decision, choices, decide};
use minik_scheduler::default_profile;
use serde_json::{Value, json};
use std::sync::Arc;

fn node(world: &Value) -> Node {
    let mut taints = world["taints"].as_array().cloned().unwrap_or_default();
    if world["unschedulable"] == json!(true) {
        taints.push(json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
    }
    let object = json!({
        "metadata": {"name": world["name"], "labels": world["labels"]},
        "spec": {"taints": taints, "unschedulable": world["unschedulable"].as_bool().unwrap_or(false)},
        "status": {"allocatable": world["allocatable"]},
    });
    serde_json::from_value(object).unwrap()
}

fn pod(world: &Value) -> Arc<Pod> {
    let mut object = world.clone();
    object["metadata"]["uid"] = object["metadata"]["name"].clone();
    Arc::new(serde_json::from_value(object).unwrap())
}

fn cluster(world: &Value) -> Cluster {
    let mut cluster = Cluster::default();
    world["nodes"].as_array().unwrap().iter().for_each(|one| drop(cluster.set_node(Arc::new(node(one)))));
    world["pods"].as_array().unwrap().iter().for_each(|one| drop(cluster.place(pod(one))));
    for name in ["s0", "s1"] {
        cluster.namespaces_mut().set(name.into(), Labels::from([("team".into(), name.into())]));
    }
    cluster
}

/// What is wrong with our decision, if anything.
fn differs(world: &Value) -> Option<String> {
    let (cluster, pod, profile) = (cluster(world), pod(&world["incoming"]), default_profile());
    let decision = decide(&profile, &cluster, &pod, &mut 0, &SeededChance::new(1));
    match (decision, world.get("chosen"), world.get("unschedulable")) {
        (Decision::Place { node, .. }, Some(chosen), _) => {
            let (best, chosen) = (choices(&profile, &cluster, &pod), chosen.as_array().unwrap());
            let ours = |name: &Value| best.iter().any(|one| name == &json!(one));
            let fine = chosen.iter().all(ours) && best.contains(&node);
            (!fine).then(|| format!("chose among {best:?}, stock took {chosen:?}"))
        }
        (Decision::Wait(diagnosis), _, Some(message)) => {
            let ours = diagnosis.message();
            (message != &json!(ours)).then(|| format!("said {ours}\n  stock said {message}"))
        }
        (decision, ..) => Some(format!("decided {decision:?}, stock the opposite")),
    }
}

#[test]
fn decisions_are_those_of_stock() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/scheduling.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let results: Vec<_> = text.lines().map(|line| differs(&serde_json::from_str(line).unwrap())).collect();
    let wrong: Vec<_> =
        results.iter().enumerate().filter_map(|(at, wrong)| Some((at + 1, wrong.as_ref()?))).collect();
    println!("{} of {} worlds decided as stock decided", results.len() - wrong.len(), results.len());
    wrong.iter().take(20).for_each(|(line, wrong)| println!("line {line}: {wrong}"));
    assert!(wrong.is_empty(), "{} worlds differ", wrong.len());
}
