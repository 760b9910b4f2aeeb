//! The audit log: a line a request, with what may be told.

use crate::client::Client;
use minik_apiserver::{Audit, AuditLevel};
use serde_json::{Value, json};

#[tokio::test]
async fn a_request_is_told_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let client = Client::audited(Audit::open(&path, AuditLevel::RequestResponse).unwrap()).await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    client
        .must(
            "POST",
            "/api/v1/namespaces/n/configmaps",
            &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}),
        )
        .await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}});
    client.must("POST", "/api/v1/namespaces/n/secrets", &secret).await;
    assert_eq!(client.send("GET", "/api/v1/namespaces/n/secrets/none", "", "").await.code, 404);
    let acting = http::Request::get("/api/v1/namespaces/n/pods").header("impersonate-user", "jane");
    assert_eq!(client.ask(acting.body(Default::default()).unwrap()).await.code, 403);
    client.end().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |line: &Value| {
        let reference = &line["objectRef"];
        format!(
            "{} {}/{} {}",
            line["verb"], reference["resource"], reference["name"], line["responseStatus"]["code"]
        )
    };
    let seen: Vec<String> = lines.iter().map(|line| told(line).replace('"', "")).collect();
    assert_eq!(
        seen,
        [
            "create namespaces/null 201",
            "create configmaps/null 201",
            "create secrets/null 201",
            "get secrets/none 404",
            "list pods/null 403"
        ]
    );
    assert_eq!(lines[1]["requestObject"]["data"]["k"], "v");
    assert_eq!(lines[1]["responseObject"]["metadata"]["namespace"], "n");
    assert_eq!(lines[1]["user"]["username"], "admin");
    assert_eq!(
        (&lines[4]["user"]["username"], &lines[4]["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("jane"))
    );
    assert_eq!(lines[1].get("impersonatedUser"), None);
    assert!(
        lines[1]["auditID"].is_string() && !text.contains("hidden") && !text.contains("aGlkZGVu"),
        "{text}"
    );
}
