//! `scheduling.jsonl` over the wire: nodes and Pods are posted, the running scheduler decides.

use crate::worlds;
use minik_sim::{Parts, Sim};
use serde_json::{Value, json};
use std::time::Duration;

/// Long enough for everybody to hear of everything: time stands still while anybody works.
const MOMENT: Duration = Duration::from_millis(1);
/// Tries of a world where chance decides.
const TRIES: usize = 24;
/// Worlds that one cluster sees, one after the other.
const WORLDS: usize = 75;
const NAMESPACES: &str = "/api/v1/namespaces";

fn items<'a>(world: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    world[name].as_array().unwrap().iter()
}

async fn add_node(sim: &Sim, node: &Value) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node["name"], "labels": node["labels"]},
        "spec": {"taints": node["taints"], "unschedulable": node["unschedulable"].as_bool().unwrap_or(false)},
    });
    sim.create("/api/v1/nodes", &object).await?;
    let allocatable = &node["allocatable"];
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"capacity": allocatable, "allocatable": allocatable, "conditions": ready});
    let path = format!("/api/v1/nodes/{}", node["name"].as_str().unwrap());
    sim.set_status(&path, &status).await?;
    // A new node bears the taint of one that is not ready; nobody is there to take it away.
    let mut taints = node["taints"].as_array().cloned().unwrap_or_default();
    if object["spec"]["unschedulable"] == true {
        taints.push(json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
    }
    let taints = json!([{"op": "add", "path": "/spec/taints", "value": taints}]);
    let kind = minik_client::call::PatchKind::Json;
    minik_client::call::patch::<Value>(sim.admin(), &path, kind, &taints).await?;
    Ok(())
}

async fn add_pod(sim: &Sim, pod: &Value) -> anyhow::Result<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
    let created = sim.create(&format!("{NAMESPACES}/{namespace}/pods"), pod).await?;
    Ok(format!("{NAMESPACES}/{namespace}/pods/{}", created["metadata"]["name"].as_str().unwrap()))
}

/// What every world stands on.
async fn prepare(sim: &Sim) -> anyhow::Result<()> {
    for name in ["s0", "s1", "default"] {
        let labels = if name == "default" { json!({}) } else { json!({"team": name}) };
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        if name != "default" {
            sim.create(NAMESPACES, &namespace).await?;
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        sim.create(&format!("{NAMESPACES}/{name}/serviceaccounts"), &account).await?;
    }
    Ok(())
}

/// The incoming Pod once the scheduler has said something about it.
async fn decide(sim: &Sim, world: &Value) -> anyhow::Result<(Value, Value)> {
    for node in items(world, "nodes") {
        add_node(sim, node).await?;
    }
    for pod in items(world, "pods") {
        add_pod(sim, pod).await?;
    }
    // Time moves on once everybody knows all this.
    tokio::time::sleep(MOMENT).await;
    let path = add_pod(sim, &world["incoming"]).await?;
    let (mut pod, mut said) = (Value::Null, Value::Null);
    sim.until("the scheduler decides", async |sim: &Sim| {
        pod = sim.find(&path).await?.unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        said = conditions.into_iter().find(|one| one["type"] == "PodScheduled").unwrap_or_default();
        Ok(!said.is_null())
    })
    .await?;
    for collection in ["namespaces/s0/pods", "namespaces/s1/pods", "namespaces/default/pods", "nodes"] {
        sim.delete(&format!("/api/v1/{collection}"), &json!({"gracePeriodSeconds": 0})).await?;
    }
    tokio::time::sleep(MOMENT).await;
    Ok((pod["spec"]["nodeName"].clone(), said["message"].clone()))
}

/// What is wrong with our decision, if anything. Where several nodes are best, chance decides for us and for stock: we
/// must be able to take each node that stock took.
async fn differs(sim: &Sim, world: &Value) -> anyhow::Result<Option<String>> {
    let Some(chosen) = world["chosen"].as_array() else {
        let (node, message) = decide(sim, world).await?;
        let same = node.is_null() && message == world["unschedulable"];
        return Ok(
            (!same).then(|| format!("chose {node}, said {message}\n  stock {}", world["unschedulable"]))
        );
    };
    let mut missing: Vec<&Value> = chosen.iter().collect();
    let mut ours = Vec::new();
    for _ in 0..TRIES {
        let (node, message) = decide(sim, world).await?;
        if node.is_null() {
            return Ok(Some(format!("said {message}, stock chose {chosen:?}")));
        }
        missing.retain(|one| **one != node);
        let known = chosen.contains(&node);
        ours.push(node);
        if missing.is_empty() || (known && ours.len() == 1) {
            return Ok(None);
        }
    }
    Ok(Some(format!("chose {ours:?}, stock {chosen:?}")))
}

#[test]
fn worlds_are_decided_as_stock_decided() {
    let parts = Parts { scheduler: true, ..Parts::default() };
    worlds("scheduling.jsonl", &parts, (WORLDS, prepare), differs);
}
