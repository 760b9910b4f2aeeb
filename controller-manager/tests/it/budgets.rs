//! Budgets of disruption whose Pods belong to Deployments, ReplicaSets and nobody.

use crate::{Running, Server};
use serde_json::{Value, json};

const PDBS: &str = "/apis/policy/v1/poddisruptionbudgets";
const PODS: &str = "/api/v1/pods";

fn pod(name: &str, owner: Option<&str>) -> Value {
    let owners: Vec<Value> = owner
        .iter()
        .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": uid, "controller": true}))
        .collect();
    json!({"metadata": {"name": name, "namespace": "s", "labels": {"a": "b"}, "ownerReferences": owners},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn budget(name: &str, spec: Value) -> Value {
    let mut budget =
        json!({"metadata": {"name": name, "namespace": "s", "labels": {"kept": "yes"}}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
    budget
}

/// Allowed, healthy, desired, expected.
fn numbers(server: &Server, name: &str) -> Value {
    let budget = server.get(&format!("/apis/policy/v1/namespaces/s/poddisruptionbudgets/{name}")).unwrap();
    let status = &budget["status"];
    json!([
        status["disruptionsAllowed"],
        status["currentHealthy"],
        status["desiredHealthy"],
        status["expectedPods"]
    ])
}

#[tokio::test(start_paused = true)]
async fn budgets_follow_their_pods() {
    let running = Running::start(&[]);
    let server = &running.server;
    for name in ["p", "q", "r"] {
        server.put(PODS, pod(name, None));
    }
    server.put(PDBS, budget("least", json!({"minAvailable": 2})));
    let until = async |wanted: Value| {
        server.until(&format!("the numbers are {wanted}"), |server| numbers(server, "least") == wanted).await;
    };
    until(json!([1, 3, 2, 3])).await;
    server.patch(
        "/api/v1/namespaces/s/pods/p",
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
    );
    until(json!([0, 2, 2, 3])).await;
    server.delete("/api/v1/namespaces/s/pods/p", json!({"gracePeriodSeconds": 0}));
    until(json!([0, 2, 2, 2])).await;
    server.put(PODS, pod("t", None));
    until(json!([1, 3, 2, 3])).await;
    // An eviction counts until its Pod is gone, or two minutes are over.
    let path = "/apis/policy/v1/namespaces/s/poddisruptionbudgets/least";
    server.patch(path, json!({"status": {"disruptedPods": {"q": "2027-01-15T08:00:00Z"}}}));
    until(json!([0, 2, 2, 3])).await;
    until(json!([1, 3, 2, 3])).await;
    let budget = server.get(path).unwrap();
    assert_eq!(budget["metadata"]["labels"]["kept"], "yes");
    assert_eq!(budget["status"]["conditions"][0]["reason"], "SufficientPods");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shares_are_of_what_the_owner_asks_for() {
    let running = Running::start(&[]);
    let server = &running.server;
    let never = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}}});
    let set = server.put(
        "/apis/apps/v1/replicasets",
        json!({"metadata": {"name": "set", "namespace": "s"}, "spec": {"replicas": 2, "selector": never, "template": template}}),
    );
    for name in ["p", "q"] {
        server.put(PODS, pod(name, Some(&set)));
    }
    server.put(PDBS, budget("share", json!({"maxUnavailable": "50%"})));
    server.until("half may go", |server| numbers(server, "share") == json!([1, 2, 1, 2])).await;
    let mut odd = pod("odd", Some("nobody"));
    odd["metadata"]["ownerReferences"][0]["kind"] = "Odd".into();
    server.put(PODS, odd);
    let failed = |server: &Server| {
        let path = "/apis/policy/v1/namespaces/s/poddisruptionbudgets/share";
        server.get(path).unwrap()["status"]["conditions"][0]["reason"] == "SyncFailed"
    };
    server.until("an unknown owner allows nothing", failed).await;
    assert_eq!(numbers(server, "share")[0], 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_to_be_disrupted_and_was_not_is_told() {
    let running = Running::start(&[]);
    let server = &running.server;
    let target = |reason: &str| {
        json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason,
            "lastTransitionTime": "2027-01-15T08:00:00Z"}]}})
    };
    for (name, reason) in [("evicted", "EvictionByEvictionAPI"), ("killed", "TerminationByKubelet")] {
        server.put(PODS, pod(name, None));
        server.patch(&format!("/api/v1/namespaces/s/pods/{name}"), target(reason));
    }
    let status = |server: &Server, name: &str| {
        let pod = server.get(&format!("/api/v1/namespaces/s/pods/{name}")).unwrap();
        pod["status"]["conditions"][1]["status"].clone()
    };
    let began = tokio::time::Instant::now();
    server.until("it is taken back", |server| status(server, "evicted") == "False").await;
    assert_eq!(began.elapsed().as_secs(), 120);
    assert_eq!(status(server, "killed"), "True", "the kubelet takes its time");
    running.stop().await;
}
