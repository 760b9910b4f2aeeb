//! Services whose Pods come, change and go.

use crate::{Running, Server};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/pods";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn pod(name: &str, ip: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "s", "labels": {"a": "b"}}, "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}})
}

fn service(selector: Value) -> Value {
    json!({"metadata": {"name": "svc", "namespace": "s"}, "spec": {"selector": selector, "clusterIP": "10.0.0.7", "ipFamilies": ["IPv4"],
        "ports": [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

/// Addresses of the slices, with an exclamation mark when they are ready.
fn addresses(server: &Server) -> Vec<String> {
    let slices = server.list(SLICES);
    let endpoints =
        slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let text = |one: Value| {
        let mark = if one["conditions"]["ready"] == true { "!" } else { "" };
        format!("{}{mark}", one["addresses"][0].as_str().unwrap())
    };
    let mut all: Vec<String> = endpoints.map(text).collect();
    all.sort();
    all
}

fn subsets(server: &Server) -> Value {
    server.get("/api/v1/namespaces/s/endpoints/svc").map(|one| one["subsets"].clone()).unwrap_or_default()
}

async fn until(server: &Server, wanted: &[&str]) {
    server.until("the slices are right", |server| addresses(server) == wanted).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_pods_within_milliseconds() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put("/api/v1/nodes", json!({"metadata": {"name": "n"}}));
    server.put(SERVICES, service(json!({"a": "b"})));
    server.until("there is an empty slice", |server| server.list(SLICES).len() == 1).await;
    server.put(PODS, pod("p", "10.1.0.1", "False"));
    until(server, &["10.1.0.1"]).await;
    let began = tokio::time::Instant::now();
    let ready = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
    server.patch("/api/v1/namespaces/s/pods/p", ready("True"));
    until(server, &["10.1.0.1!"]).await;
    assert!(began.elapsed().as_millis() < 5, "{:?}", began.elapsed());
    server.until("so has Endpoints", |server| subsets(server)[0]["addresses"][0]["ip"] == "10.1.0.1").await;
    // Another takes its place, and one is no longer selected.
    server.put(PODS, pod("q", "10.1.0.2", "True"));
    server.patch("/api/v1/namespaces/s/pods/p", json!({"metadata": {"labels": {"a": "c"}}}));
    until(server, &["10.1.0.2!"]).await;
    server.delete("/api/v1/namespaces/s/pods/q", json!({"gracePeriodSeconds": 0}));
    until(server, &[]).await;
    assert_eq!(server.list(SLICES).len(), 1, "the slice stays, empty");
    server.until("Endpoints is empty", |server| subsets(server).as_array().is_some_and(Vec::is_empty)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_change_is_made_right_again() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put("/api/v1/nodes", json!({"metadata": {"name": "n"}}));
    for number in 1..4 {
        server.put(PODS, pod(&format!("p{number}"), &format!("10.1.0.{number}"), "True"));
    }
    server.put(SERVICES, service(json!({"a": "b"})));
    let all = ["10.1.0.1!", "10.1.0.2!", "10.1.0.3!"];
    until(server, &all).await;
    let path = |server: &Server| {
        let name = server.list(SLICES)[0]["metadata"]["name"].as_str().unwrap().to_owned();
        format!("/apis/discovery.k8s.io/v1/namespaces/s/endpointslices/{name}")
    };
    let mut kept = server.get(&path(server)).unwrap()["endpoints"].clone();
    kept.as_array_mut().unwrap().pop();
    server.patch(&path(server), json!({"endpoints": kept}));
    until(server, &all).await;
    server.delete(&path(server), json!({}));
    until(server, &all).await;
    let writes = server.writes().len();
    server.patch("/api/v1/namespaces/s/pods/p1", json!({"metadata": {"annotations": {"x": "y"}}}));
    server.patch("/api/v1/namespaces/s/services/svc", json!({"spec": {"selector": {"a": "none"}}}));
    until(server, &[]).await;
    let made: Vec<String> = server.writes().split_off(writes);
    assert_eq!(made.iter().filter(|one| one.contains("endpointslices")).count(), 1, "{made:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_goes_takes_its_endpoints_and_one_without_selector_has_none() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(SERVICES, service(json!({})));
    server.put("/api/v1/endpoints", json!({"metadata": {"name": "other", "namespace": "s"}, "subsets": []}));
    server.put(
        SERVICES,
        json!({"metadata": {"name": "gone", "namespace": "s"}, "spec": {"selector": {"a": "b"}}}),
    );
    let gone = "/api/v1/namespaces/s/endpoints/gone";
    server.until("one has Endpoints", |server| server.get(gone).is_some()).await;
    server.delete("/api/v1/namespaces/s/services/gone", json!({}));
    server.until("they go", |server| server.get(gone).is_none()).await;
    assert_eq!(subsets(server), Value::Null);
    assert!(server.get("/api/v1/namespaces/s/endpoints/other").is_some(), "made by hand");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_made_by_hand_are_mirrored() {
    let running = Running::start(&[]);
    let server = &running.server;
    let mut plain = service(json!({}));
    plain["spec"].as_object_mut().unwrap().remove("selector");
    server.put(SERVICES, plain);
    let subset = json!({"addresses": [{"ip": "10.9.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.9.0.2"}],
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]});
    let meta = json!({"name": "svc", "namespace": "s", "labels": {"l": "m"}, "annotations": {"x": "y"}});
    server.put("/api/v1/endpoints", json!({"metadata": meta, "subsets": [subset]}));
    until(server, &["10.9.0.1!", "10.9.0.2", "fd00::1!"]).await;
    let slices = server.list(SLICES);
    assert_eq!(slices.len(), 2, "one for each family");
    assert_eq!(
        slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(
        (&slices[0]["metadata"]["labels"]["l"], &slices[0]["metadata"]["annotations"]["x"]),
        (&json!("m"), &json!("y"))
    );
    assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    let path = "/api/v1/namespaces/s/endpoints/svc";
    server.patch(path, json!({"subsets": [{"addresses": [{"ip": "10.9.0.3"}], "ports": [{"port": 80}]}]}));
    until(server, &["10.9.0.3!"]).await;
    server.patch(path, json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}));
    until(server, &[]).await;
    running.stop().await;
}
