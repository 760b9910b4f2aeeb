//! Creates, updates, patches and deletes, beyond what was recorded.

use crate::client::Client;
use minik_apiserver::Audit;
use minik_storage::{Memory, Storage};
use serde_json::{Value, json};
use std::sync::Arc;

const PLACE: &str = "/api/v1/namespaces/n/configmaps";

async fn cluster() -> Client {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    let accounts = "/api/v1/namespaces/n/serviceaccounts";
    client.must("POST", accounts, &json!({"metadata": {"name": "default"}})).await;
    client
}

async fn code(client: &Client, method: &str, uri: &str, body: &Value) -> (u16, Option<String>) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.send(method, uri, "application/json", text).await;
    (answer.code, answer.json()["reason"].as_str().map(str::to_owned))
}

fn refused(code: u16, reason: &str) -> (u16, Option<String>) {
    (code, Some(reason.to_owned()))
}

#[tokio::test]
async fn a_stale_write_is_refused() {
    let client = cluster().await;
    let first = client.must("POST", PLACE, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).await;
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let uri = format!("{PLACE}/a");
    client.must("PUT", &uri, &second).await;
    assert_eq!(code(&client, "PUT", &uri, &second).await, refused(409, "Conflict"));
    assert_eq!(
        code(&client, "POST", PLACE, &json!({"metadata": {"name": "a"}})).await,
        refused(409, "AlreadyExists")
    );
    client.end().await;
}

/// A write that changes nothing is no write.
#[tokio::test]
async fn the_same_again_keeps_its_revision() {
    let client = cluster().await;
    let first = client.must("POST", PLACE, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).await;
    let again = client.must("PUT", &format!("{PLACE}/a"), &first).await;
    assert_eq!(again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    client.end().await;
}

#[tokio::test]
async fn names_are_generated() {
    let client = cluster().await;
    let made = client.must("POST", PLACE, &json!({"metadata": {"generateName": "web-"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    client.end().await;
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_gone() {
    let client = cluster().await;
    let uri = format!("{PLACE}/a");
    let body = json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}});
    client.must("POST", PLACE, &body).await;
    let marked = client.must("DELETE", &uri, &Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let patch = json!({"metadata": {"finalizers": null}}).to_string();
    assert_eq!(client.send("PATCH", &uri, "application/merge-patch+json", patch).await.code, 200);
    assert_eq!(code(&client, "GET", &uri, &Value::Null).await, refused(404, "NotFound"));
    client.end().await;
}

#[tokio::test]
async fn a_policy_adds_its_finalizer() {
    let client = cluster().await;
    for (name, policy, finalizer) in [("f", "Foreground", "foregroundDeletion"), ("o", "Orphan", "orphan")] {
        client.must("POST", PLACE, &json!({"metadata": {"name": name}})).await;
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        let marked = client.must("DELETE", &format!("{PLACE}/{name}"), &options).await;
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]), "{marked}");
    }
    client.end().await;
}

#[tokio::test]
async fn a_pod_ends_gracefully_once_it_has_a_node() {
    let client = cluster().await;
    let place = "/api/v1/namespaces/n/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    client.must("POST", place, &pod).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "x"}});
    client.must("POST", &format!("{place}/p/binding"), &binding).await;
    assert_eq!(
        code(&client, "POST", &format!("{place}/p/binding"), &binding).await,
        refused(409, "Conflict")
    );
    let bound = client.must("GET", &format!("{place}/p"), &Value::Null).await;
    assert_eq!(
        (bound["spec"]["nodeName"].as_str(), &bound["status"]["conditions"][0]["status"]),
        (Some("x"), &json!("True"))
    );
    let marked = client.must("DELETE", &format!("{place}/p"), &Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let sooner = client.must("DELETE", &format!("{place}/p?gracePeriodSeconds=5"), &Value::Null).await;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    client.must("DELETE", &format!("{place}/p?gracePeriodSeconds=0"), &Value::Null).await;
    assert_eq!(code(&client, "GET", &format!("{place}/p"), &Value::Null).await, refused(404, "NotFound"));
    client.end().await;
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer() {
    let client = cluster().await;
    let marked = client.must("DELETE", "/api/v1/namespaces/n", &Value::Null).await;
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert_eq!(
        code(&client, "POST", PLACE, &json!({"metadata": {"name": "a"}})).await,
        refused(403, "Forbidden")
    );
    let mut done = marked;
    done["spec"] = json!({});
    client.must("PUT", "/api/v1/namespaces/n/finalize", &done).await;
    assert_eq!(code(&client, "GET", "/api/v1/namespaces/n", &Value::Null).await, refused(404, "NotFound"));
    client.end().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let client = cluster().await;
    for (name, label) in [("a", "x"), ("b", "y")] {
        client.must("POST", PLACE, &json!({"metadata": {"name": name, "labels": {"l": label}}})).await;
    }
    let gone = client.must("DELETE", &format!("{PLACE}?labelSelector=l%3Dx"), &Value::Null).await;
    assert_eq!(gone["items"][0]["metadata"]["name"], "a");
    let left = client.must("GET", PLACE, &Value::Null).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    client.end().await;
}

#[tokio::test]
async fn a_service_is_given_what_is_free() {
    let client = cluster().await;
    let place = "/api/v1/namespaces/n/services";
    let service = |name: &str, port: Value| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}});
    let one = client.must("POST", place, &service("a", Value::Null)).await;
    let port = one["spec"]["ports"][0]["nodePort"].clone();
    assert!(
        (30000..32768).contains(&port.as_u64().unwrap())
            && one["spec"]["clusterIP"].as_str().unwrap().starts_with("10.97.")
    );
    assert_eq!(code(&client, "POST", place, &service("b", port.clone())).await, refused(422, "Invalid"));
    client.must("DELETE", &format!("{place}/a"), &Value::Null).await;
    client.must("POST", place, &service("b", port)).await;
    client.end().await;
}

#[tokio::test]
async fn what_one_server_made_another_knows_before_it_refuses() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let one = Client::over(storage.clone(), Audit::default(), 1).await;
    let two = Client::over(storage, Audit::default(), 2).await;
    for round in 0..20 {
        let (name, maps) = (format!("n{round}"), format!("/api/v1/namespaces/n{round}/configmaps"));
        one.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        // At once: nothing has told the other server of it.
        two.must("POST", &maps, &json!({"metadata": {"name": "a"}})).await;
    }
    let nowhere = json!({"metadata": {"name": "a"}});
    assert_eq!(
        code(&two, "POST", "/api/v1/namespaces/none/configmaps", &nowhere).await,
        refused(404, "NotFound")
    );
    one.end().await;
    two.end().await;
}
