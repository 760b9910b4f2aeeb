//! Requests that make no sense are refused in stock's words, and the server goes on.

use crate::client::Client;
use serde_json::json;

const PLACE: &str = "/api/v1/namespaces/n/configmaps";

async fn cluster() -> Client {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    client
}

async fn check(client: &Client, request: &str, kind: &str, body: impl Into<bytes::Bytes>, want: (u16, &str)) {
    let (method, uri) = request.split_once(' ').unwrap();
    let answer = client.send(method, uri, kind, body).await;
    let text = String::from_utf8_lossy(&answer.body);
    let reason = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
    assert_eq!(
        (answer.code, reason["reason"].as_str().unwrap_or_default()),
        want,
        "{request} {kind}: {text}"
    );
    assert_eq!(client.send("GET", "/readyz/ping", "", "").await.code, 200);
}

const JSON: &str = "application/json";

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused() {
    let client = cluster().await;
    let post = format!("POST {PLACE}");
    for body in [
        "",
        "{",
        "[]",
        "1",
        "\"x\"",
        "{\"metadata\": 1}",
        "{\"data\": {\"k\": 1}}",
        "{\"kind\": \"Pod\"}",
        "{\"apiVersion\": \"v2\"}",
        "\u{0}",
        "{\"metadata\": {\"name\": \"a\"}} x",
    ] {
        check(&client, &post, JSON, body.to_owned(), (400, "BadRequest")).await;
    }
    check(&client, &post, "application/yaml", "a: [", (400, "BadRequest")).await;
    check(&client, &post, "application/yaml", "a: &a [*a]", (400, "BadRequest")).await;
    check(&client, &post, JSON, vec![0xff, 0xfe], (400, "BadRequest")).await;
    check(&client, &post, "application/vnd.kubernetes.protobuf", "k8s\0\u{1}\u{2}", (400, "BadRequest"))
        .await;
    check(&client, &post, "text/plain", "{}", (415, "UnsupportedMediaType")).await;
    check(&client, &post, JSON, "{}", (422, "Invalid")).await;
    let deep = format!("{{\"metadata\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check(&client, &post, JSON, deep, (400, "BadRequest")).await;
    let deep = format!("data: {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    check(&client, &post, "application/yaml", deep, (400, "BadRequest")).await;
    let huge =
        format!("{{\"metadata\": {{\"name\": \"a\"}}, \"data\": {{\"k\": \"{}\"}}}}", "x".repeat(4 << 20));
    check(&client, &post, JSON, huge, (413, "RequestEntityTooLarge")).await;
    client.end().await;
}

#[tokio::test]
async fn paths_methods_and_options_that_do_not_exist_are_refused() {
    let client = cluster().await;
    for (request, want) in [
        (format!("GET {PLACE}/none"), (404, "NotFound")),
        ("GET /api/v1/namespaces/n/nothings".to_owned(), (404, "NotFound")),
        ("GET /api/v1/things".to_owned(), (404, "NotFound")),
        (format!("GET {PLACE}/a/status"), (404, "NotFound")),
        ("GET /api/v1/configmaps/a".to_owned(), (404, "NotFound")),
        ("GET /api/v1/namespaces/n/nodes".to_owned(), (404, "NotFound")),
        ("POST /api/v1/configmaps".to_owned(), (405, "MethodNotAllowed")),
        ("DELETE /api/v1/configmaps".to_owned(), (405, "MethodNotAllowed")),
        (format!("POST {PLACE}/a"), (405, "MethodNotAllowed")),
        (format!("PUT {PLACE}"), (405, "MethodNotAllowed")),
        (format!("PATCH {PLACE}/a"), (415, "UnsupportedMediaType")),
        (format!("POST {PLACE}?dryRun=Some"), (422, "Invalid")),
        (format!("POST {PLACE}?fieldValidation=strict"), (422, "Invalid")),
        (format!("GET {PLACE}?labelSelector=%3D%3D"), (400, "BadRequest")),
        (format!("GET {PLACE}?continue=x"), (400, "BadRequest")),
        (format!("GET {PLACE}?limit=x"), (400, "BadRequest")),
        (format!("DELETE {PLACE}/a?propagationPolicy=Some"), (422, "Invalid")),
    ] {
        check(&client, &request, "", "", want).await;
    }
    let strict = json!({"metadata": {"name": "a"}, "dat": {}}).to_string();
    check(&client, &format!("POST {PLACE}?fieldValidation=Strict"), JSON, strict, (400, "BadRequest")).await;
    client.end().await;
}
