//! `deployments.jsonl`: what the running controllers make of a Deployment and of each change of it.

use crate::{all_agree, recorded};
use minik_sim::{Parts, Sim};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const EVENTS: &str = "/api/v1/namespaces/default/events";
/// Without a change for so long, nothing more comes; longer than the recorded deadlines and waits for readiness.
const QUIET: Duration = Duration::from_secs(20);
/// Between two looks for Pods that are to be made ready.
const LOOK: Duration = Duration::from_millis(50);

/// Makes Pods ready as soon as they are there, but for those of the image `bad`.
async fn nurse(sim: &Sim) -> anyhow::Result<()> {
    loop {
        for pod in sim.list(PODS).await? {
            let waits = pod["status"]["phase"] == "Pending" && pod["metadata"]["deletionTimestamp"].is_null();
            if waits && pod["spec"]["containers"][0]["image"] != "bad" {
                let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
                let since = sim.api().now().to_string();
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
                // One that is gone meanwhile needs nothing.
                sim.set_status(&path, &json!({"phase": "Running", "conditions": ready})).await.ok();
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The revision's number and its like, without what is of the moment.
fn annotations(object: &Value) -> Value {
    object["metadata"]["annotations"].clone()
}

fn status(object: &Value) -> Value {
    let mut status = object["status"].clone();
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.sort_by_key(|one| one["type"].to_string());
        for one in conditions {
            *one = json!([one["type"], one["status"], one["reason"]]);
        }
    }
    if let Some(status) = status.as_object_mut() {
        status.retain(|_, value| !value.is_null());
    }
    status
}

fn replica_set(set: &Value) -> Value {
    let labels: BTreeSet<&String> =
        set["metadata"]["labels"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    json!({
        "image": set["spec"]["template"]["spec"]["containers"][0]["image"],
        "replicas": set["spec"]["replicas"],
        "annotations": annotations(set),
        "status": status(set),
        "labels": labels,
        "templateAnnotations": set["spec"]["template"]["metadata"]["annotations"],
    })
}

/// The state as the recording has it.
async fn state(sim: &Sim) -> anyhow::Result<Value> {
    let deployment: Value = sim.find(&format!("{DEPLOYMENTS}/d")).await?.unwrap_or_default();
    let mut sets: Vec<Value> = sim.list(REPLICA_SETS).await?.iter().map(replica_set).collect();
    sets.sort_by_key(Value::to_string);
    let told = |event: &Value| {
        [&event["involvedObject"]["kind"], &event["type"], &event["reason"]]
            .map(|one| one.as_str().unwrap_or_default().to_owned())
    };
    let events: BTreeSet<[String; 3]> = sim.list(EVENTS).await?.iter().map(told).collect();
    Ok(json!({
        "generation": deployment["metadata"]["generation"],
        "annotations": annotations(&deployment),
        "status": status(&deployment),
        "replicasets": sets,
        "events": events,
    }))
}

/// The recorded state in the same order.
fn stock(state: &Value) -> Value {
    let mut state = state.clone();
    state["replicasets"].as_array_mut().into_iter().flatten().for_each(|set| {
        if let Some(conditions) = set["status"].get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.sort_by_key(|one| one[0].to_string());
        }
    });
    if let Some(sets) = state["replicasets"].as_array_mut() {
        sets.sort_by_key(Value::to_string);
    }
    state
}

async fn live(sim: &Sim, world: &Value) -> anyhow::Result<Option<String>> {
    sim.account().await?;
    sim.create(DEPLOYMENTS, &world["deployment"]).await?;
    for (number, step) in world["steps"].as_array().into_iter().flatten().enumerate() {
        if let Some(patch) = step.get("patch").filter(|patch| !patch.is_null()) {
            sim.patch(&format!("{DEPLOYMENTS}/d"), patch).await?;
        }
        sim.settled(&["pods", "deployments", "replicasets"], QUIET).await?;
        let (ours, stock) = (state(sim).await?, stock(&step["state"]));
        if ours != stock {
            return Ok(Some(format!("{} step {number}:\n  ours  {ours}\n  stock {stock}", world["name"])));
        }
    }
    Ok(None)
}

#[test]
fn deployments_go_as_those_of_stock() {
    let parts = Parts { controllers: true, ..Parts::default() };
    let results = recorded("deployments.jsonl").into_iter().enumerate().map(|(seed, world)| {
        let result = Sim::run(seed as u64, parts.clone(), async |sim: &Sim| {
            // Cancel-safe: the nurse never ends by itself but by an error.
            tokio::select! {
                result = live(sim, &world) => result,
                ended = nurse(sim) => ended.map(|()| None),
            }
        });
        result.unwrap_or_else(|error| Some(format!("{error:#}")))
    });
    all_agree("Deployments", results.collect());
}
