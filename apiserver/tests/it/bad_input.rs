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

/// Small bodies that would be large once they are read, and questions that are dear to answer.
#[tokio::test]
async fn bombs_do_not_go_off() {
    let client = cluster().await;
    let post = format!("POST {PLACE}");
    // Each line names the one before ten times: a billion of them.
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for line in 1..10 {
        let before = vec![format!("*a{}", line - 1); 10].join(",");
        laughs += &format!("a{line}: &a{line} [{before}]\n");
    }
    laughs += "metadata: {name: laughs}\ndata: *a9\n";
    check(&client, &post, "application/yaml", laughs.clone(), (400, "BadRequest")).await;
    let patch = format!("PATCH {PLACE}/none?fieldManager=m&force=true");
    check(&client, &patch, "application/apply-patch+yaml", laughs, (400, "BadRequest")).await;
    let merged = format!("a: &a {{{}}}\nmetadata: {{<<: *a, name: x}}\n", "k: v, ".repeat(10));
    let answer = client.send("POST", PLACE, "application/yaml", merged).await;
    assert!(answer.code < 500, "{}", answer.code);
    // As large as can be, and then read, listed and changed.
    let large = |name: &str, bytes: usize| {
        json!({"metadata": {"name": name}, "data": {"k": "x".repeat(bytes)}}).to_string()
    };
    let answer = client.send("POST", PLACE, JSON, large("most", 1_000_000)).await;
    assert_eq!(answer.code, 201, "{}", String::from_utf8_lossy(&answer.body));
    check(&client, &post, JSON, large("more", (3 << 20) - 200), (422, "Invalid")).await;
    let wide = (0..200_000).map(|number| format!("\"k{number}\":\"\"")).collect::<Vec<_>>().join(",");
    let wide = format!("{{\"metadata\":{{\"name\":\"wide\"}},\"data\":{{{wide}}}}}");
    let answer = client.send("POST", PLACE, JSON, wide).await;
    assert!(matches!(answer.code, 201 | 413 | 422), "{}", answer.code);
    let operations = "{\"op\":\"test\",\"path\":\"/data/k\",\"value\":\"\"},".repeat(20_000);
    let operations = format!("[{}]", operations.trim_end_matches(','));
    let patch = format!("PATCH {PLACE}/most");
    check(&client, &patch, "application/json-patch+json", operations, (413, "RequestEntityTooLarge")).await;
    // A copy in each operation doubles what is there.
    let copies: Vec<String> = (0..60)
        .map(|number| format!("{{\"op\":\"copy\",\"from\":\"/data\",\"path\":\"/data/c{number}\"}}"))
        .collect();
    let answer = client
        .send(
            "PATCH",
            &format!("{PLACE}/most"),
            "application/json-patch+json",
            format!("[{}]", copies.join(",")),
        )
        .await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
    // Selectors.
    let values = (0..8_000).map(|number| format!("v{number}")).collect::<Vec<_>>().join(",");
    let terms = (0..5_000).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
    for selector in [format!("a+in+({values})"), terms] {
        let answer = client.send("GET", &format!("{PLACE}?labelSelector={selector}"), "", "").await;
        assert!(matches!(answer.code, 200 | 400), "{}", answer.code);
    }
    client.end().await;
}
