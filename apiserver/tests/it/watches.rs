//! Watches: what they begin with, what they tell, how they end.

use crate::client::Client;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

const PLACE: &str = "/api/v1/namespaces/n/configmaps";

async fn cluster() -> Client {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    client
}

/// A watch whose events are read one by one.
struct Watch {
    body: minik_apiserver::Body,
    text: String,
}

impl Watch {
    async fn open(client: &Client, query: &str) -> Watch {
        let answer = client.open("GET", &format!("{PLACE}?watch=1&{query}")).await;
        assert_eq!(answer.status(), 200);
        Watch { body: answer.into_body(), text: String::new() }
    }

    /// The next event as its type and the object's name, `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event: Value = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some((event["type"].as_str().unwrap().to_owned(), event["object"].clone()));
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await;
            let frame = frame.expect("an event comes within 20 s")?.expect("the stream does not break");
            if let Ok(data) = frame.into_data() {
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
    }

    async fn named(&mut self) -> (String, String) {
        let (kind, object) = self.next().await.expect("there is another event");
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn put(client: &Client, name: &str, label: &str) -> Value {
    let body = json!({"metadata": {"name": name, "labels": {"l": label}}});
    let there = client.send("GET", &format!("{PLACE}/{name}"), "", "").await.code == 200;
    match there {
        true => client.must("PUT", &format!("{PLACE}/{name}"), &body).await,
        false => client.must("POST", PLACE, &body).await,
    }
}

#[tokio::test]
async fn a_watch_tells_what_there_is_and_what_happens() {
    let client = cluster().await;
    put(&client, "a", "x").await;
    let mut watch = Watch::open(&client, "").await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    put(&client, "b", "x").await;
    put(&client, "b", "y").await;
    client.must("DELETE", &format!("{PLACE}/b"), &Value::Null).await;
    let mut seen = vec![watch.named().await, watch.named().await];
    let (kind, gone) = watch.next().await.unwrap();
    seen.push(pair(&kind, gone["metadata"]["name"].as_str().unwrap()));
    assert_eq!(seen, [pair("ADDED", "b"), pair("MODIFIED", "b"), pair("DELETED", "b")]);
    assert_eq!(gone["metadata"]["labels"]["l"], "y");
    client.end().await;
}

#[tokio::test]
async fn a_watch_resumes_behind_a_revision() {
    let client = cluster().await;
    let first = put(&client, "a", "x").await;
    put(&client, "b", "x").await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = Watch::open(&client, &format!("resourceVersion={revision}")).await;
    assert_eq!(watch.named().await, pair("ADDED", "b"));
    client.end().await;
}

#[tokio::test]
async fn objects_come_into_a_selector_and_go_out_of_it() {
    let client = cluster().await;
    let mut watch = Watch::open(&client, "labelSelector=l%3Dx").await;
    for label in ["y", "x", "x2"] {
        put(&client, "a", label).await;
    }
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    assert_eq!(watch.named().await, pair("DELETED", "a"));
    client.end().await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let client = cluster().await;
    put(&client, "a", "x").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::open(&client, query).await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    let (kind, object) = watch.next().await.unwrap();
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = client.send("GET", &format!("{PLACE}?watch=1&sendInitialEvents=true"), "", "").await;
    assert_eq!(refused.code, 422);
    client.end().await;
}

#[tokio::test]
async fn a_watch_ends_after_its_time() {
    let client = cluster().await;
    let mut watch = Watch::open(&client, "timeoutSeconds=1").await;
    assert_eq!(watch.next().await, None);
    client.end().await;
}

/// What is more than one piece of a watch comes whole and in order.
#[tokio::test]
async fn a_long_beginning_comes_in_order() {
    let client = cluster().await;
    for number in 0..40 {
        let data = json!({"k": "x".repeat(5000)});
        client
            .must("POST", PLACE, &json!({"metadata": {"name": format!("c{number:02}")}, "data": data}))
            .await;
    }
    let mut watch = Watch::open(&client, "").await;
    for number in 0..40 {
        assert_eq!(watch.named().await, pair("ADDED", &format!("c{number:02}")));
    }
    for number in 0..40 {
        client.must("DELETE", &format!("{PLACE}/c{number:02}"), &Value::Null).await;
    }
    for number in 0..40 {
        assert_eq!(watch.named().await, pair("DELETED", &format!("c{number:02}")));
    }
    client.end().await;
}
