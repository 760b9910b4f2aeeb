//! Deployments and ReplicaSets: the recorded rollouts of stock, and what their owners do with Pods.

use crate::{Running, Server};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const SETS: &str = "/apis/apps/v1/replicasets";
const PODS: &str = "/api/v1/pods";

fn image(object: &Value) -> String {
    object.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn path_of(pod: &Value) -> String {
    format!("/api/v1/namespaces/s/pods/{}", pod["metadata"]["name"].as_str().unwrap())
}

/// Makes Pods Ready one after another, but for those of the image `bad`, and ends those that are being deleted.
fn kubelet(server: Server) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let changed = server.changed();
            let pods = server.list(PODS);
            let leaves = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
            let starts = |pod: &&Value| pod["status"]["phase"].is_null() && image(pod) != "bad";
            if let Some(pod) = pods.iter().find(leaves) {
                server.delete(&path_of(pod), json!({"gracePeriodSeconds": 0}));
            } else if let Some(pod) = pods.iter().find(starts) {
                let since = format!("{:.0}", crate::fake::START + server.elapsed());
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
                server.patch(&path_of(pod), json!({"status": {"phase": "Running", "conditions": ready}}));
            } else {
                changed.await;
                continue;
            }
            // As a script does: what follows from one Pod is done before the next.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Leaves out what is not compared: words and times.
fn state(server: &Server) -> Value {
    let path = "/apis/apps/v1/namespaces/s/deployments/d";
    let deployment = server.get(path).unwrap();
    let mut status = deployment["status"].clone();
    if let Some(conditions) = status.get_mut("conditions") {
        let mut short: Vec<Value> = conditions
            .as_array()
            .unwrap()
            .iter()
            .map(|one| json!([one["type"], one["status"], one["reason"]]))
            .collect();
        short.sort_by_key(Value::to_string);
        *conditions = short.into();
    }
    let mut sets: Vec<Value> = server.list(SETS).iter().map(set_state).collect();
    sets.sort_by_key(revision);
    let events = server.list("/api/v1/events");
    let events: BTreeSet<[String; 3]> = events
        .iter()
        .filter(|event| event["involvedObject"]["kind"] != "Pod")
        .map(|event| {
            [&event["involvedObject"]["kind"], &event["type"], &event["reason"]]
                .map(|text| text.as_str().unwrap().to_owned())
        })
        .collect();
    json!({
        "generation": deployment["metadata"]["generation"],
        "annotations": deployment["metadata"]["annotations"],
        "status": status,
        "replicasets": sets,
        "events": events,
    })
}

fn revision(set: &Value) -> i64 {
    set["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap().parse().unwrap()
}

fn set_state(set: &Value) -> Value {
    let labels: Vec<&String> = set["metadata"]["labels"].as_object().unwrap().keys().collect();
    json!({
        "image": image(&set["spec"]["template"]),
        "replicas": set["spec"]["replicas"],
        "annotations": set["metadata"]["annotations"],
        "status": set["status"],
        "labels": labels,
        "templateAnnotations": set["spec"]["template"]["metadata"]["annotations"],
    })
}

/// What the server would have defaulted.
fn defaulted(mut deployment: Value) -> Value {
    deployment["metadata"]["namespace"] = "s".into();
    let spec = deployment["spec"].as_object_mut().unwrap();
    spec.entry("progressDeadlineSeconds").or_insert(600.into());
    spec.entry("revisionHistoryLimit").or_insert(10.into());
    deployment
}

async fn check(case: &Value, differences: &mut Vec<String>) {
    let running = Running::start(&[("", "v1", "events", "Event", true)]);
    let server = &running.server;
    let kubelet = kubelet(server.clone());
    server.put(DEPLOYMENTS, defaulted(case["deployment"].clone()));
    for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        if step.get("patch").is_some() {
            server.patch("/apis/apps/v1/namespaces/s/deployments/d", step["patch"].clone());
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let (mut wanted, got) = (step["state"].clone(), state(server));
        wanted["replicasets"].as_array_mut().unwrap().sort_by_key(revision);
        if wanted != got {
            let mut different = Map::new();
            for (key, value) in wanted.as_object().unwrap() {
                if got[key] != *value {
                    different.insert(key.clone(), json!({"wanted": value, "got": got[key]}));
                }
            }
            differences.push(format!("{} step {at}: {:#}", case["name"], Value::Object(different)));
        }
    }
    kubelet.abort();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rollouts_end_where_stock_ends_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/deployments.jsonl");
    let cases = std::fs::read_to_string(path).unwrap();
    let mut differences = Vec::new();
    for case in cases.lines() {
        check(&serde_json::from_str(case).unwrap(), &mut differences).await;
    }
    assert!(cases.lines().count() > 15);
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
