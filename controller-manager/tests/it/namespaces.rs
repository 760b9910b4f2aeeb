//! Namespaces: what each has, and how they go.

use crate::Running;
use serde_json::json;

fn namespace(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

const NAMESPACES: &str = "/api/v1/namespaces";

#[tokio::test(start_paused = true)]
async fn a_namespace_gets_an_account_and_the_ca_and_gets_them_back() {
    let running = Running::start(&[]);
    let (account, map) =
        ("/api/v1/namespaces/a/serviceaccounts/default", "/api/v1/namespaces/a/configmaps/kube-root-ca.crt");
    running.server.put(NAMESPACES, namespace("a"));
    let both = |server: &crate::Server| server.get(account).is_some() && server.get(map).is_some();
    running.server.until("both are made", both).await;
    assert_eq!(running.server.get(map).unwrap()["data"], json!({"ca.crt": "CA"}));
    running.server.delete(account, json!({}));
    running.server.delete(map, json!({}));
    running.server.until("both are made again", both).await;
    running.server.patch(map, json!({"data": {"ca.crt": "wrong"}}));
    running
        .server
        .until("it is put right", |server| server.get(map).unwrap()["data"]["ca.crt"] == "CA")
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_all_it_holds_pods_first() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(NAMESPACES, namespace("a"));
    server.put("/api/v1/pods", json!({"metadata": {"name": "p", "namespace": "a", "finalizers": ["x/y"]}}));
    server.put("/api/v1/secrets", json!({"metadata": {"name": "s", "namespace": "a"}}));
    server.put("/api/v1/secrets", json!({"metadata": {"name": "s", "namespace": "b"}}));
    server.delete("/api/v1/namespaces/a", json!({}));
    let remaining = |server: &crate::Server| {
        let conditions = server.get("/api/v1/namespaces/a").unwrap()["status"]["conditions"].clone();
        conditions.as_array().is_some_and(|all| {
            all.iter().any(|one| one["type"] == "NamespaceFinalizersRemaining" && one["status"] == "True")
        })
    };
    server.until("the conditions tell", remaining).await;
    assert!(server.get("/api/v1/namespaces/a/secrets/s").is_some(), "Pods go first");
    server.patch("/api/v1/namespaces/a/pods/p", json!({"metadata": {"finalizers": null}}));
    server.until("it is gone", |server| server.get("/api/v1/namespaces/a").is_none()).await;
    assert!(server.get("/api/v1/namespaces/a/secrets/s").is_none());
    assert!(server.get("/api/v1/namespaces/b/secrets/s").is_some(), "others are left alone");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_controller_acts_as_its_own_account() {
    let running = Running::start_as(crate::Server::new(&[]), true);
    let server = &running.server;
    server.put(NAMESPACES, namespace("a"));
    let made = |by: &'static str, what: &'static str| {
        move |server: &crate::Server| {
            server.writes().contains(&format!("{by}: POST /api/v1/namespaces/{what}"))
        }
    };
    server.until("the account is made", made("service-account-controller", "a/serviceaccounts")).await;
    server.until("the CA is published", made("root-ca-cert-publisher", "a/configmaps")).await;
    server.revoke();
    server.put(NAMESPACES, namespace("b"));
    server.until("a new token is asked for", made("service-account-controller", "b/serviceaccounts")).await;
    running.stop().await;
}
