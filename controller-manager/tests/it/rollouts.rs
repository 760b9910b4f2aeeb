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

fn template(version: &str) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": version}]}})
}

fn set(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name, "namespace": "s"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"a": "b"}}, "template": template("v1")}})
}

fn deployment() -> Value {
    defaulted(json!({"metadata": {"name": "d"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"a": "b"}}, "template": template("v1")}}))
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/s/deployments/d";

/// Names of the Pods that a ReplicaSet controls.
fn owned(server: &Server, set: &str) -> Vec<String> {
    let pods = server.list(PODS);
    let mine = |pod: &&Value| pod["metadata"]["ownerReferences"][0]["name"] == set;
    pods.iter().filter(mine).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn reason(server: &Server, kind: &str) -> Option<Value> {
    let deployment = server.get(DEPLOYMENT).unwrap();
    let conditions = deployment["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == kind).map(|one| one["reason"].clone())
}

#[tokio::test(start_paused = true)]
async fn pods_are_adopted_and_released_by_their_labels() {
    let running = Running::start(&[]);
    let server = &running.server;
    let stray = |name: &str, label: &str| json!({"metadata": {"name": name, "namespace": "s", "labels": {"a": label}}, "spec": {}});
    server.put(PODS, stray("fits", "b"));
    server.put(PODS, stray("stranger", "c"));
    server.put(SETS, set("one", 3));
    server.until("three are its own", |server| owned(server, "one").len() == 3).await;
    assert!(owned(server, "one").contains(&"fits".to_owned()) && server.list(PODS).len() == 4);
    server.patch("/api/v1/namespaces/s/pods/fits", json!({"metadata": {"labels": {"a": "x"}}}));
    let replaced =
        |server: &Server| !owned(server, "one").contains(&"fits".into()) && server.list(PODS).len() == 5;
    server.until("what fits no longer is released and replaced", replaced).await;
    server.delete("/apis/apps/v1/namespaces/s/replicasets/one", json!({"propagationPolicy": "Orphan"}));
    server.until("its Pods are nobody's", |server| owned(server, "one").is_empty()).await;
    server.put(SETS, set("two", 1));
    let adopted = |server: &Server| owned(server, "two").len() == 1 && server.list(PODS).len() == 3;
    server.until("another adopts them and deletes the surplus", adopted).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_created_is_told_and_tried_again_sparingly() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.refuse(PODS);
    server.put(DEPLOYMENTS, deployment());
    let fails = |server: &Server| reason(server, "ReplicaFailure") == Some("FailedCreate".into());
    server.until("the Deployment tells", fails).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let is_try = |write: &&String| write.starts_with("POST") && write.ends_with("/pods");
    let tries = server.writes().iter().filter(is_try).count();
    assert!((5..40).contains(&tries), "{tries} tries");
    server.refuse("");
    server.until("it recovers", |server| server.list(PODS).len() == 3 && !fails(server)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_that_cannot_be_created_is_told() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.refuse(SETS);
    server.put(DEPLOYMENTS, deployment());
    let told = |server: &Server| reason(server, "Progressing") == Some("ReplicaSetCreateError".into());
    server.until("it tells", told).await;
    server.refuse("");
    server.until("it recovers", |server| server.list(PODS).len() == 3 && !told(server)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_makes_another() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(DEPLOYMENTS, deployment());
    server.until("it has its Pods", |server| server.list(PODS).len() == 3).await;
    let name = server.list(SETS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    server.delete(DEPLOYMENT, json!({}));
    let empty = |server: &Server| server.list(SETS).is_empty() && server.list(PODS).is_empty();
    server.until("all is collected", empty).await;
    let mut stranger = set(&name, 0);
    stranger["spec"]["template"] = template("other");
    server.put(SETS, stranger);
    server.put(DEPLOYMENTS, deployment());
    server.until("it has Pods", |server| server.list(PODS).len() == 3).await;
    assert_eq!(server.get(DEPLOYMENT).unwrap()["status"]["collisionCount"], 1);
    assert!(owned(server, &name).is_empty());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deployments_that_share_labels_are_told_so() {
    let running = Running::start(&[("", "v1", "events", "Event", true)]);
    let server = &running.server;
    server.put(DEPLOYMENTS, deployment());
    server.until("the first has its Pods", |server| server.list(PODS).len() == 3).await;
    let mut second = deployment();
    second["metadata"]["name"] = "e".into();
    server.put(DEPLOYMENTS, second);
    let told = |server: &Server| {
        let events = server.list("/api/v1/events");
        let about = events.iter().filter(|event| event["reason"] == "SelectorOverlap");
        about.map(|event| event["involvedObject"]["name"].clone()).collect::<Vec<_>>()
    };
    server.until("the second is told", |server| told(server) == ["e"]).await;
    server.until("each has its own Pods", |server| server.list(PODS).len() == 6).await;
    assert_eq!(told(server), ["e"], "once, and not of the first");
    running.stop().await;
}
