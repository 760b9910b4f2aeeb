//! Get and list: pages, revisions, selectors, forms.

use crate::client::Client;
use serde_json::{Value, json};

const PLACE: &str = "/api/v1/namespaces/n/configmaps";

async fn cluster() -> Client {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    client
}

async fn add(client: &Client, name: &str, label: &str) -> Value {
    client.must("POST", PLACE, &json!({"metadata": {"name": name, "labels": {"l": label}}})).await
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn list(client: &Client, query: &str) -> Value {
    client.must("GET", &format!("{PLACE}?{query}"), &Value::Null).await
}

/// Pages of one list are of one moment, whatever is written between them.
#[tokio::test]
async fn pages_are_of_one_moment() {
    let client = cluster().await;
    for name in ["a", "b", "c", "d", "e"] {
        add(&client, name, "x").await;
    }
    let first = list(&client, "limit=2").await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a".into(), "b".into()], &json!(3))
    );
    add(&client, "bb", "x").await;
    client.must("DELETE", &format!("{PLACE}/d"), &Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = list(&client, &format!("limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = list(&client, &format!("limit=2&continue={token}")).await;
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"]["continue"], Value::Null);
    assert_eq!(names(&list(&client, "").await), ["a", "b", "bb", "c", "e"]);
    client.end().await;
}

#[tokio::test]
async fn a_list_is_of_the_revision_that_is_asked_for() {
    let client = cluster().await;
    let first = add(&client, "a", "x").await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    add(&client, "b", "x").await;
    assert_eq!(names(&list(&client, "").await), ["a", "b"]);
    let query = format!("resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(names(&list(&client, &query).await), ["a"]);
    let query = format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&list(&client, &query).await), ["a", "b"]);
    let refused = client.send("GET", &format!("{PLACE}?resourceVersionMatch=Exact"), "", "").await;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (422, Some("Invalid")));
    client.end().await;
}

#[tokio::test]
async fn selectors_narrow_a_list() {
    let client = cluster().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        add(&client, name, label).await;
    }
    assert_eq!(names(&list(&client, "labelSelector=l%3Dx").await), ["a", "c"]);
    assert_eq!(names(&list(&client, "labelSelector=l%20notin%20(x)").await), ["b"]);
    assert_eq!(names(&list(&client, "fieldSelector=metadata.name%3Db").await), ["b"]);
    assert_eq!(names(&list(&client, "fieldSelector=metadata.name!%3Db").await), ["a", "c"]);
    let refused = client.send("GET", &format!("{PLACE}?fieldSelector=data.x%3D1"), "", "").await;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (400, Some("BadRequest")));
    client.end().await;
}

#[tokio::test]
async fn an_object_can_be_had_in_other_forms() {
    let client = cluster().await;
    add(&client, "a", "x").await;
    let get = |accept: &'static str| {
        let request = http::Request::builder().uri(format!("{PLACE}/a")).header("accept", accept);
        client.ask(request.body(http_body_util::Full::default()).unwrap())
    };
    let yaml = get("application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: ConfigMap"), "{:?}", yaml.body);
    let protobuf = get("application/vnd.kubernetes.protobuf").await;
    assert!(protobuf.body.starts_with(b"k8s\0"));
    let partial = get("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.json();
    assert_eq!((partial["kind"].as_str(), partial.get("data")), (Some("PartialObjectMetadata"), None));
    let table = get("application/json;as=Table;g=meta.k8s.io;v=v1").await.json();
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(get("text/html").await.code, 406);
    client.end().await;
}

/// A list that is sent in pieces is whole.
#[tokio::test]
async fn a_long_list_is_whole() {
    let client = cluster().await;
    for number in 0..40 {
        let data = json!({"k": "x".repeat(5000)});
        let body = json!({"metadata": {"name": format!("c{number:02}")}, "data": data});
        client.must("POST", PLACE, &body).await;
    }
    let all = names(&list(&client, "").await);
    assert_eq!((all.len(), all[39].as_str()), (40, "c39"));
    client.end().await;
}
