//! The decisions that a stock v1.37 scheduler took in recorded random worlds: ours must be the same.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use minik_component::{Chance, SeededChance};
use minik_placement::{Judge, Labels, Node, Pod, World};
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

fn recorded() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/scheduling.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where the judge of `lib/placement`, which explanations use, disagrees with the decision.
fn judged_otherwise(world: &Value) -> Option<String> {
    let (cluster, pod) = (cluster(world), pod(&world["incoming"]));
    let nominated: Vec<Arc<Pod>> =
        cluster.nodes().iter().flat_map(|node| cluster.nominated_to(&node.node.name)).cloned().collect();
    let judged = World { nodes: cluster.nodes(), namespaces: cluster.namespaces(), nominated: &nominated };
    let judgement = Judge::new(&pod, judged).judge();
    match decide(&default_profile(), &cluster, &pod, &mut 0, &SeededChance::new(1)) {
        Decision::Place { node, feasible, .. } => {
            let fine = judgement.fitting().count() == feasible && judgement.fitting().any(|one| *one == node);
            (!fine).then(|| format!("placed on {node} of {feasible}, judged {judgement:?}"))
        }
        Decision::Wait(mut diagnosis) => {
            diagnosis.preemption = None;
            let (decided, judged) = (diagnosis.message(), judgement.message(cluster.nodes().len()));
            let fine = decided == judged && judgement.fitting().next().is_none();
            (!fine).then(|| format!("decided {decided}\n  judged {judged}"))
        }
    }
}

/// Worlds mixed from the recorded ones: nodes of one, Pods of another, the incoming Pod of a third.
#[test]
fn the_judge_says_what_the_scheduler_decides() {
    let (worlds, chance) = (recorded(), SeededChance::new(7));
    let any = || &worlds[chance.below(worlds.len() as u64) as usize];
    let mixed: Vec<Value> = (0..2000)
        .map(|_| json!({"nodes": any()["nodes"], "pods": any()["pods"], "incoming": any()["incoming"]}))
        .collect();
    let wrong: Vec<String> = worlds.iter().chain(&mixed).filter_map(judged_otherwise).collect();
    wrong.iter().take(10).for_each(|one| println!("{one}"));
    assert!(wrong.is_empty(), "{} of {} differ", wrong.len(), worlds.len() + mixed.len());
}

#[test]
fn decisions_are_those_of_stock() {
    let results: Vec<_> = recorded().iter().map(differs).collect();
    let wrong: Vec<_> =
        results.iter().enumerate().filter_map(|(at, wrong)| Some((at + 1, wrong.as_ref()?))).collect();
    println!("{} of {} worlds decided as stock decided", results.len() - wrong.len(), results.len());
    wrong.iter().take(20).for_each(|(line, wrong)| println!("line {line}: {wrong}"));
    assert!(wrong.is_empty(), "{} worlds differ", wrong.len());
}
