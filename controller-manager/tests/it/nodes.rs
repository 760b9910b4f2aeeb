//! Nodes that live, fall silent and go, and what becomes of their Pods.

use crate::{Running, Server};
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

fn node(name: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn pod(name: &str, node: &str, tolerated: i64) -> Value {
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": tolerated});
    json!({"metadata": {"name": name, "namespace": "s"}, "spec": {"nodeName": node, "tolerations": [
            tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Keys and effects of a node's taints.
fn taints(server: &Server, name: &str) -> Vec<String> {
    let node = server.get(&format!("{NODES}/{name}")).unwrap();
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints
        .iter()
        .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
        .collect()
}

/// Renews the Lease of a node every ten seconds.
fn keep_alive(server: Server, name: &'static str) -> tokio::task::JoinHandle<()> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    server.put(LEASES, json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {}}));
    tokio::spawn(async move {
        for round in 0.. {
            server.patch(&path, json!({"spec": {"renewTime": format!("{round}")}}));
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_node_that_becomes_ready_may_be_used() {
    let running = Running::start(&[]);
    running.server.put(NODES, node("n", "False"));
    running
        .server
        .patch("/api/v1/nodes/n", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    running.server.until("it is free of taints", |server| taints(server, "n").is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_silent_node_are_evicted_while_others_live() {
    let running = Running::start(&[]);
    let server = &running.server;
    let alive = keep_alive(server.clone(), "well");
    server.put(NODES, node("well", "True"));
    server.put(NODES, node("silent", "True"));
    server.put(PODS, pod("stays", "well", 0));
    server.put(PODS, pod("goes", "silent", 300));
    let started = tokio::time::Instant::now();
    let unready = |server: &Server| {
        server.get("/api/v1/namespaces/s/pods/goes").unwrap()["status"]["conditions"][0]["status"] == "False"
    };
    server.until("its Pod is unready", unready).await;
    let waited = started.elapsed().as_secs();
    assert!((50..60).contains(&waited), "{waited} s");
    let unreachable =
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
    server.until("it is tainted", |server| taints(server, "silent") == unreachable).await;
    let condition = server.get("/api/v1/nodes/silent").unwrap()["status"]["conditions"][0].clone();
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("Unknown"), &json!("NodeStatusUnknown"))
    );
    server.until("its Pod is deleted", |server| server.get("/api/v1/namespaces/s/pods/goes").is_none()).await;
    let waited = started.elapsed().as_secs();
    assert!((350..370).contains(&waited), "{waited} s");
    assert!(server.get("/api/v1/namespaces/s/pods/stays").is_some() && taints(server, "well").is_empty());
    alive.abort();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_the_only_node_are_not_evicted() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(NODES, node("n", "True"));
    server.put(PODS, pod("p", "n", 10));
    server
        .until("it is tainted", |server| taints(server, "n") == ["node.kubernetes.io/unreachable:NoSchedule"])
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert!(server.get("/api/v1/namespaces/s/pods/p").is_some());
    assert_eq!(taints(server, "n"), ["node.kubernetes.io/unreachable:NoSchedule"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_is_gone_are_deleted_after_a_while() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(NODES, node("n", "True"));
    server.put(NODES, node("m", "True"));
    server.put(PODS, pod("lost", "m", 300));
    server.put(PODS, pod("kept", "n", 300));
    server.put(PODS, json!({"metadata": {"name": "unbound", "namespace": "s"}, "spec": {"terminationGracePeriodSeconds": 30}}));
    server.delete("/api/v1/namespaces/s/pods/unbound", json!({}));
    server
        .until("the Pod without a node is gone", |server| {
            server.get("/api/v1/namespaces/s/pods/unbound").is_none()
        })
        .await;
    let started = tokio::time::Instant::now();
    server.delete("/api/v1/nodes/m", json!({}));
    server.until("its Pod is gone", |server| server.get("/api/v1/namespaces/s/pods/lost").is_none()).await;
    assert!((40..65).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(server.get("/api/v1/namespaces/s/pods/kept").is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn roles_are_made_of_others() {
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let running = Running::start(&[]);
    let server = &running.server;
    let rule = |resource: &str| json!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]);
    let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]});
    server.put(ROLES, json!({"metadata": {"name": "view"}, "aggregationRule": selector, "rules": null}));
    server.put(
        ROLES,
        json!({"metadata": {"name": "part", "labels": {"to-view": "true"}}, "rules": rule("pods")}),
    );
    let rules = |server: &Server| server.get(&format!("{ROLES}/view")).unwrap()["rules"].clone();
    server.until("it is filled in", |server| rules(server) == rule("pods")).await;
    server.patch(&format!("{ROLES}/part"), json!({"rules": rule("nodes")}));
    server.until("it follows", |server| rules(server) == rule("nodes")).await;
    running.stop().await;
}
