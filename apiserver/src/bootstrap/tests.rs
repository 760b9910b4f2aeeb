//! A new cluster over a store in memory, against what a stock one has.

use super::*;
use minik_component::{SeededChance, SystemClock};
use minik_storage::{Memory, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

async fn bootstrap(storage: Arc<dyn Storage>, advertised: &str, shutdown: &Shutdown) -> Bootstrap {
    let settings = crate::Settings {
        prefix: "/registry".into(),
        service_ranges: vec![crate::Cidr::parse("10.96.0.0/16").unwrap()],
        node_ports: 30000..=32767,
        event_ttl: 3600,
        min_request_timeout: Duration::from_secs(1800),
        advertised: advertised.into(),
        clock: Arc::new(SystemClock::default()),
        // Servers differ in their chance as in their place.
        chance: Arc::new(SeededChance::new(advertised.bytes().map(u64::from).sum())),
        metrics: prometheus::Registry::new(),
        kubelets: crate::Kubelets::none(),
        audit: crate::Audit::default(),
        bootstrap_tokens: true,
        in_flight: crate::InFlight::default(),
    };
    let api = Api::open(storage, settings, None).await.unwrap();
    let (world, shutdown) = (api.world().clone(), shutdown.clone());
    tokio::spawn(async move { world.feed(shutdown).await });
    let facts = Authentication { client_ca: Some("the CA".into()), requestheader_ca: None };
    Bootstrap::new(api, facts)
}

/// Metadata that is the server's own, and what the recordings leave out.
fn without_volatile(mut object: Value) -> Value {
    let meta = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        meta.remove(field);
    }
    let fields = object.as_object_mut().unwrap();
    fields.remove("apiVersion");
    fields.remove("kind");
    object
}

fn recorded(file: &str) -> BTreeMap<(String, String), Value> {
    let path = format!("{}/../../shared/upstream-1.37/bootstrap/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let path = if std::path::Path::new(&path).exists() {
        path
    } else {
        path.replace("../../shared", "../../../shared")
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    named(serde_json::from_str::<Vec<Value>>(&text).unwrap())
}

fn named(objects: Vec<Value>) -> BTreeMap<(String, String), Value> {
    let of = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    objects.into_iter().map(|object| ((of(&object, "namespace"), of(&object, "name")), object)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_has_what_a_stock_one_has() {
    let shutdown = Shutdown::new();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let bootstrap = bootstrap(storage.clone(), "10.1.1.1:6443", &shutdown).await;
    bootstrap.make_all().await.unwrap();
    bootstrap.api.world().fresh().await.unwrap();
    for file in [
        "namespaces",
        "priorityclasses",
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
        "services",
    ] {
        let folder = if file == "services" { "services/specs" } else { file };
        let mut made =
            named(bootstrap.api.view().list(folder, "").into_iter().map(without_volatile).collect());
        for (key, recorded) in recorded(file) {
            let made = made.remove(&key).unwrap_or_else(|| panic!("{file} {key:?} is missing"));
            assert_eq!(made, recorded, "{file} {key:?}");
        }
        assert!(made.is_empty(), "{file}: {:?} are too much", made.keys());
    }
    let slice = bootstrap.api.view().get("endpointslices", "default", "kubernetes").unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], serde_json::json!(["10.1.1.1"]));
    let known =
        bootstrap.api.view().get("configmaps", "kube-system", "extension-apiserver-authentication").unwrap();
    assert_eq!(known["data"]["client-ca-file"], "the CA");
    // All is as it should be: another round writes nothing but the record.
    let before = storage.revision().await.unwrap();
    bootstrap.make_all().await.unwrap();
    assert_eq!(storage.revision().await.unwrap().0, before.0 + 1);
    shutdown.request();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaked_and_lost_claims_are_repaired() {
    let shutdown = Shutdown::new();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let bootstrap = bootstrap(storage.clone(), "10.1.1.1:6443", &shutdown).await;
    bootstrap.make_all().await.unwrap();
    let (api, loopback) = (&bootstrap.api, &bootstrap.loopback);
    let addresses = Place { group: "networking.k8s.io", version: "v1", plural: "ipaddresses", namespace: "" };
    // The claim of `kubernetes` is lost; one of a Service that never came to be is an hour old.
    loopback.delete(addresses, "10.96.0.1").await.unwrap();
    let leaked = serde_json::json!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "10.96.7.7", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "never"}}});
    let put = async |key: &str, value: &Value| {
        let bytes = Bytes::from(value.to_string());
        storage.put(&format!("/registry/{key}"), bytes, Expect::Absent, None).await.unwrap();
    };
    put("ipaddresses/10.96.7.7", &leaked).await;
    let marks = serde_json::json!({"kind": "RangeAllocation", "apiVersion": "v1", "metadata": {}, "range": "30000-32767", "data": "AQ=="});
    put("ranges/servicenodeports", &marks).await;
    let mut leaks = crate::allocator::Leaks::new();
    for _ in 0..3 {
        api.repair_allocations(&mut leaks).await;
    }
    api.world().fresh().await.unwrap();
    let view = api.view();
    assert!(view.has("ipaddresses", "", "10.96.0.1") && !view.has("ipaddresses", "", "10.96.7.7"));
    let marks = storage.get("/registry/ranges/servicenodeports").await.unwrap().unwrap();
    let marks: Value = serde_json::from_slice(&marks.value).unwrap();
    assert_eq!(marks["data"], "", "the port that nobody holds is free");
    let events = view.list("events", "default");
    let told: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    assert!(told.contains(&"ClusterIPNotAllocated") && told.contains(&"IPAddressNotAllocated"), "{told:?}");
    assert_eq!(told.len(), 2, "once each: {told:?}");
    shutdown.request();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_publish_each_other() {
    let shutdown = Shutdown::new();
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let one = bootstrap(storage.clone(), "10.1.1.1:6443", &shutdown).await;
    let two = bootstrap(storage.clone(), "10.1.1.2:6443", &shutdown).await;
    let (first, second) = tokio::join!(one.make_all(), two.make_all());
    first.and(second).unwrap();
    one.round().await.unwrap();
    let published = async |by: &Bootstrap| {
        by.api.world().fresh().await.unwrap();
        let slice = by.api.view().get("endpointslices", "default", "kubernetes").unwrap();
        let endpoints = slice["endpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|one| one["addresses"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(published(&two).await, ["10.1.1.1", "10.1.1.2"]);
    let leases = || two.api.view().list("leases", "kube-system").len();
    assert_eq!(leases(), 2);
    one.leave().await.unwrap();
    assert_eq!(published(&two).await, ["10.1.1.2"]);
    assert_eq!(leases(), 1);
    // The last one's address stays: it will come back.
    two.leave().await.unwrap();
    assert_eq!(published(&two).await, ["10.1.1.2"]);
    shutdown.request();
}
