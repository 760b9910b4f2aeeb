//! Addresses and node ports of Services: never twice, whichever of several servers gives them, and free again after.

use crate::client::Client;
use minik_apiserver::Audit;
use minik_storage::{Memory, Storage};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const PORTS: &str = "/registry/ranges/servicenodeports";

fn service(name: &str, more: Value) -> Value {
    let mut service =
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    for (field, value) in more.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

/// Two servers over one store, with the namespace.
async fn pair() -> (Arc<dyn Storage>, Client, Client) {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let one = Client::over(storage.clone(), Audit::default(), 1).await;
    // The same chance: both try the same first.
    let two = Client::over(storage.clone(), Audit::default(), 1).await;
    one.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
    two.api.world().fresh().await.unwrap();
    (storage, one, two)
}

async fn claims(client: &Client) -> BTreeSet<String> {
    let list = client.must("GET", ADDRESSES, &Value::Null).await;
    let items = list["items"].as_array().unwrap();
    items.iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_never_give_the_same() {
    let (storage, one, two) = pair().await;
    let make = async |client: &Client, prefix: &str| {
        let mut given = Vec::new();
        for number in 0..40 {
            let made = client.must("POST", SERVICES, &service(&format!("{prefix}{number}"), json!({}))).await;
            let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
            given.push((made["spec"]["clusterIP"].as_str().unwrap().to_owned(), port));
        }
        given
    };
    let (left, right) = tokio::join!(make(&one, "a"), make(&two, "b"));
    let ips: BTreeSet<&String> = left.iter().chain(&right).map(|(ip, _)| ip).collect();
    let ports: BTreeSet<u64> = left.iter().chain(&right).map(|(_, port)| *port).collect();
    assert_eq!((ips.len(), ports.len()), (80, 80));
    two.api.world().fresh().await.unwrap();
    assert_eq!(claims(&two).await, ips.into_iter().cloned().collect());
    // What one made the other deletes, and all is free.
    for name in (0..40).flat_map(|number| [format!("a{number}"), format!("b{number}")]) {
        two.must("DELETE", &format!("{SERVICES}/{name}"), &Value::Null).await;
    }
    assert!(claims(&two).await.is_empty());
    let marked = storage.get(PORTS).await.unwrap().unwrap();
    let marked: Value = serde_json::from_slice(&marked.value).unwrap();
    assert_eq!((&marked["range"], &marked["data"]), (&json!("30000-32767"), &json!("")));
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_gets_what_both_ask_for_by_name() {
    let (_storage, one, two) = pair().await;
    for wanted in [json!({"clusterIP": "10.97.0.7"}), json!({"ports": [{"port": 80, "nodePort": 30007}]})] {
        for round in 0..10 {
            let body = |name: &str| service(&format!("{name}{round}"), wanted.clone()).to_string();
            let (left, right) = tokio::join!(
                one.send("POST", SERVICES, "application/json", body("a")),
                two.send("POST", SERVICES, "application/json", body("b")),
            );
            let mut codes = [left.code, right.code];
            codes.sort();
            assert_eq!(codes, [201, 422], "{} {}", left.json()["message"], right.json()["message"]);
            // The loser gave back what else it was given; the winner's goes with it.
            let winner = if left.code == 201 { "a" } else { "b" };
            one.api.world().fresh().await.unwrap();
            two.api.world().fresh().await.unwrap();
            assert_eq!(claims(&one).await.len(), 1);
            two.must("DELETE", &format!("{SERVICES}/{winner}{round}"), &Value::Null).await;
            one.api.world().fresh().await.unwrap();
        }
    }
    assert!(claims(&one).await.is_empty());
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_frees_what_it_gives_up_and_a_refused_one_nothing() {
    let (_storage, one, two) = pair().await;
    let made = one.must("POST", SERVICES, &service("a", json!({}))).await;
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    // The name is taken: the second's claims are taken back.
    let again = one.send("POST", SERVICES, "application/json", service("a", json!({})).to_string()).await;
    assert_eq!(again.code, 409);
    assert_eq!(claims(&one).await, [ip.as_str().unwrap().to_owned()].into());
    let path = format!("{SERVICES}/a");
    let patch = json!({"spec": {"type": "ExternalName", "externalName": "x.example", "clusterIP": null, "clusterIPs": null,
        "ports": [{"port": 80, "nodePort": null}]}});
    let answer = one.send("PATCH", &path, "application/merge-patch+json", patch.to_string()).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    assert!(claims(&one).await.is_empty());
    // The other server gives both again at once.
    two.api.world().fresh().await.unwrap();
    let wanted = json!({"clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]});
    two.must("POST", SERVICES, &service("b", wanted)).await;
    one.end().await;
    two.end().await;
}
