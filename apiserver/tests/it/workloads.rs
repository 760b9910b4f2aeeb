//! Workloads and their Scale, beyond what was recorded.

use crate::client::Client;
use serde_json::{Value, json};

const PLACE: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn cluster() -> Client {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
    client
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
        "template": {"metadata": {"labels": {"app": "a", "b": "c"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// Manager, operation, version, subresource and fields of each entry; who wrote when is left out.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let one = |entry: &Value| {
        let words = ["manager", "operation", "apiVersion", "subresource"].map(|name| text(entry, name));
        let number = entry["fieldsV1"]["f:spec"].get("f:replicas").is_some();
        format!("{}{}", words.join(" "), if number { " owns the number" } else { "" })
    };
    entries.iter().map(one).collect()
}

async fn send(client: &Client, method: &str, uri: &str, kind: &str, body: &Value) -> (u16, Value) {
    let answer = client.send(method, uri, kind, body.to_string()).await;
    (answer.code, answer.json())
}

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test]
async fn a_scale_is_read_and_written() {
    let client = cluster().await;
    let made = client.must("POST", &format!("{PLACE}?fieldManager=maker"), &deployment()).await;
    let uri = format!("{PLACE}/a/scale");
    let scale = client.must("GET", &uri, &Value::Null).await;
    assert_eq!(
        scale,
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "a", "namespace": "default",
            "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"],
            "creationTimestamp": made["metadata"]["creationTimestamp"]},
            "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "app=a,b"}})
    );
    let (code, scaled) = send(
        &client,
        "PATCH",
        &format!("{uri}?fieldManager=scaler"),
        MERGE,
        &json!({"spec": {"replicas": 5}}),
    )
    .await;
    assert_eq!((code, &scaled["kind"], &scaled["spec"]), (200, &json!("Scale"), &json!({"replicas": 5})));
    let now = client.must("GET", &format!("{PLACE}/a"), &Value::Null).await;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
    assert_eq!(owners(&now), ["scaler Update apps/v1 scale owns the number", "maker Update apps/v1 -"]);
    // What was read before is too old now, and so is another object of the name.
    let (code, _) = send(&client, "PUT", &uri, "application/json", &scale).await;
    assert_eq!(code, 409);
    let mut other = scaled.clone();
    other["metadata"]["uid"] = "other".into();
    assert_eq!(send(&client, "PUT", &uri, "application/json", &other).await.0, 409);
    let mut wrong = scaled.clone();
    wrong["spec"]["replicas"] = (-1).into();
    let (code, status) = send(&client, "PUT", &uri, "application/json", &wrong).await;
    assert_eq!(
        (code, &status["details"]["kind"], &status["details"]["causes"][0]["field"]),
        (422, &json!("Scale"), &json!("spec.replicas"))
    );
    let mut unknown = scaled;
    unknown["spec"]["x"] = 1.into();
    let (code, _) =
        send(&client, "PUT", &format!("{uri}?fieldValidation=Strict"), "application/json", &unknown).await;
    assert_eq!(code, 400);
    assert_eq!(send(&client, "PUT", &uri, "application/json", &deployment()).await.0, 400);
    let missing =
        send(&client, "PATCH", &format!("{PLACE}/b/scale"), MERGE, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(missing.0, 404);
    client.end().await;
}

#[tokio::test]
async fn a_scale_is_applied() {
    let client = cluster().await;
    let (code, _) =
        send(&client, "PATCH", &format!("{PLACE}/a?fieldManager=one"), APPLY, &deployment()).await;
    assert_eq!(code, 201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": 3}});
    let uri = format!("{PLACE}/a/scale?fieldManager=two");
    let (code, status) = send(&client, "PATCH", &uri, APPLY, &scale).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (409, &json!(".spec.replicas")));
    let (code, answer) = send(&client, "PATCH", &format!("{uri}&force=true"), APPLY, &scale).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(3)), "{answer}");
    let now = client.must("GET", &format!("{PLACE}/a"), &Value::Null).await;
    assert_eq!(owners(&now), ["two Apply apps/v1 scale owns the number", "one Apply apps/v1 -"]);
    // Who gives the number up leaves it to the other.
    let mut rest = deployment();
    rest["spec"].as_object_mut().unwrap().remove("replicas");
    let (code, now) = send(&client, "PATCH", &format!("{PLACE}/a?fieldManager=one"), APPLY, &rest).await;
    assert_eq!((code, &now["spec"]["replicas"]), (200, &json!(3)));
    client.end().await;
}

#[tokio::test]
async fn a_scale_has_a_table() {
    let client = cluster().await;
    client.must("POST", PLACE, &deployment()).await;
    let request = http::Request::builder()
        .uri(format!("{PLACE}/a/scale"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(http_body_util::Full::default())
        .unwrap();
    let table = client.ask(request).await.json();
    assert_eq!(table["columnDefinitions"][1]["name"], "Desired");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!(2), json!(0)]);
    client.end().await;
}

/// Who sends an empty list of managed fields has them forgotten; who sends none does not.
#[tokio::test]
async fn ownership_is_forgotten_on_demand() {
    let client = cluster().await;
    client.must("POST", PLACE, &deployment()).await;
    let uri = format!("{PLACE}/a");
    let now = client.must("PUT", &uri, &deployment()).await;
    assert!(!owners(&now).is_empty());
    let mut body = deployment();
    body["metadata"]["managedFields"] = json!([]);
    body["spec"]["template"]["metadata"]["managedFields"] = json!([]);
    let now = client.must("PUT", &uri, &body).await;
    assert_eq!(now["metadata"].get("managedFields"), None);
    assert_eq!(now["spec"]["template"]["metadata"], deployment()["spec"]["template"]["metadata"]);
    client.end().await;
}

/// A controller writes annotations through the status, but no labels and no specification.
#[tokio::test]
async fn a_status_takes_annotations() {
    let client = cluster().await;
    let mut body = client.must("POST", PLACE, &deployment()).await;
    body["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "1"});
    body["metadata"]["labels"] = json!({"no": "label"});
    body["status"] = json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1});
    body.as_object_mut().unwrap().remove("spec");
    let now = client.must("PUT", &format!("{PLACE}/a/status"), &body).await;
    assert_eq!(now["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(now["metadata"].get("labels"), None);
    assert_eq!((&now["spec"]["replicas"], &now["status"]["readyReplicas"]), (&json!(2), &json!(1)));
    assert_eq!(now["metadata"]["generation"], 1);
    body["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    body["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "collisionCount": -1});
    let (code, status) = send(&client, "PUT", &format!("{PLACE}/a/status"), "application/json", &body).await;
    let causes = status["details"]["causes"].as_array().unwrap().clone();
    let mut fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    let wanted = [
        "status.availableReplicas",
        "status.availableReplicas",
        "status.collisionCount",
        "status.readyReplicas",
    ];
    assert_eq!((code, fields.as_slice()), (422, &wanted[..]));
    client.end().await;
}
