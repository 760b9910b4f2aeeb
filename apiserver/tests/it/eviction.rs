//! Evictions under disruption budgets.

use crate::client::{Answer, Client};
use minik_apiserver::Audit;
use minik_storage::{Memory, Storage};
use serde_json::{Value, json};
use std::sync::Arc;

const PODS: &str = "/api/v1/namespaces/n/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/n/poddisruptionbudgets";

async fn cluster(storage: Arc<dyn Storage>) -> Client {
    let client = Client::over(storage, Audit::default(), 1).await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    let account = json!({"metadata": {"name": "default"}});
    client.must("POST", "/api/v1/namespaces/n/serviceaccounts", &account).await;
    client
}

/// A Pod on a node in a phase, ready or not.
async fn pod(client: &Client, name: &str, phase: &str, ready: bool) {
    let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    client.must("POST", PODS, &pod).await;
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    let path = format!("{PODS}/{name}/status");
    let kind = "application/merge-patch+json";
    assert_eq!(client.send("PATCH", &path, kind, status.to_string()).await.code, 200);
}

/// A budget for all Pods of the app, as its controller left it.
async fn budget(client: &Client, name: &str, allowed: i64, healthy: i64, more: Value) {
    let mut spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.must("POST", BUDGETS, &json!({"metadata": {"name": name}, "spec": spec})).await;
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": 1, "expectedPods": 3}});
    let path = format!("{BUDGETS}/{name}/status");
    let answer = client.send("PATCH", &path, "application/merge-patch+json", status.to_string()).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
}

async fn evict(client: &Client, name: &str, query: &str) -> Answer {
    let body =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "n"}});
    client.send("POST", &format!("{PODS}/{name}/eviction{query}"), "application/json", body.to_string()).await
}

async fn is_going(client: &Client, name: &str) -> bool {
    let pod = client.must("GET", &format!("{PODS}/{name}"), &Value::Null).await;
    pod["metadata"]["deletionTimestamp"].is_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_evictions_at_once_a_budget_of_one_allows_one() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let one = cluster(storage.clone()).await;
    for name in ["a", "b", "c"] {
        pod(&one, name, "Running", true).await;
    }
    budget(&one, "b", 1, 2, json!({})).await;
    assert_eq!(evict(&one, "a", "?dryRun=All").await.code, 201);
    assert!(!is_going(&one, "a").await, "it was only tried");
    let two = Client::over(storage, Audit::default(), 2).await;
    let (left, right) = tokio::join!(evict(&one, "a", ""), evict(&two, "b", ""));
    let (refused, gone) = if left.code == 201 { (&right, "a") } else { (&left, "b") };
    assert_eq!((left.code.min(right.code), refused.code), (201, 429), "{} {}", left.json(), right.json());
    let status = refused.json();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(refused.headers.get("retry-after"), None);
    one.api.world().fresh().await.unwrap();
    assert!(is_going(&one, gone).await && !is_going(&one, if gone == "a" { "b" } else { "a" }).await);
    let pod = one.must("GET", &format!("{PODS}/{gone}"), &Value::Null).await;
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|one| one["type"] == "DisruptionTarget" && one["status"] == "True"),
        "{pod}"
    );
    let spent = one.must("GET", &format!("{BUDGETS}/b"), &Value::Null).await;
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"][gone].is_string(), "{spent}");
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn what_a_budget_does_not_guard_goes() {
    let client = cluster(Arc::new(Memory::new())).await;
    for (name, phase, ready) in
        [("starting", "Pending", false), ("done", "Succeeded", false), ("sick", "Running", false)]
    {
        pod(&client, name, phase, ready).await;
    }
    budget(&client, "b", 0, 0, json!({})).await;
    assert_eq!(evict(&client, "starting", "").await.code, 201);
    assert_eq!(evict(&client, "done", "").await.code, 201);
    assert_eq!(evict(&client, "sick", "").await.code, 429);
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}).to_string();
    let path = format!("{BUDGETS}/b");
    assert_eq!(client.send("PATCH", &path, "application/merge-patch+json", always).await.code, 200);
    // The controller has not seen that change, and need not.
    assert_eq!(evict(&client, "sick", "").await.code, 201);
    assert!(is_going(&client, "sick").await);
    client.end().await;
}

#[tokio::test]
async fn what_cannot_be_decided_is_refused() {
    let client = cluster(Arc::new(Memory::new())).await;
    pod(&client, "a", "Running", true).await;
    budget(&client, "b", 1, 2, json!({})).await;
    let changed = json!({"spec": {"minAvailable": 2}}).to_string();
    client.send("PATCH", &format!("{BUDGETS}/b"), "application/merge-patch+json", changed).await;
    let behind = evict(&client, "a", "").await;
    assert_eq!((behind.code, behind.headers["retry-after"].to_str().unwrap()), (429, "10"));
    budget(&client, "c", 1, 2, json!({})).await;
    assert_eq!(evict(&client, "a", "").await.code, 500);
    let other = json!({"metadata": {"name": "other"}}).to_string();
    assert_eq!(client.send("POST", &format!("{PODS}/a/eviction"), "application/json", other).await.code, 400);
    assert_eq!(evict(&client, "none", "").await.code, 404);
    assert!(!is_going(&client, "a").await);
    client.end().await;
}
