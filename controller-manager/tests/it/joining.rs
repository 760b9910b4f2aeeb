//! Nodes that join: their certificates, and the ranges of their Pods.

use crate::{Running, Server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minik_controller_manager::{Authority, Ranges};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const NODES: &str = "/api/v1/nodes";

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    Authority::new(&ca.pem(), &key.serialize_pem(), Duration::from_secs(3600)).unwrap()
}

/// A request of a node for itself, or with the token's user for it.
fn csr(name: &str, user: (&str, &str), signer: &str, hosts: &[&str]) -> Value {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let purpose = if hosts.is_empty() { "client auth" } else { "server auth" };
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:n");
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    json!({"metadata": {"name": name, "labels": {"kept": "yes"}, "creationTimestamp": "2027-01-15T08:00:00Z"}, "spec": {
        "request": STANDARD.encode(request.pem().unwrap()), "signerName": format!("kubernetes.io/{signer}"),
        "usages": ["digital signature", purpose], "username": user.0, "groups": [user.1]}})
}

fn certificate(server: &Server, name: &str) -> Option<String> {
    server.get(&format!("{CSRS}/{name}")).unwrap()["status"]["certificate"].as_str().map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn nodes_get_certificates_and_others_wait() {
    let running =
        Running::start_with(Server::new(&[]), |config| config.authority = Some(Arc::new(authority())));
    let server = &running.server;
    let (node, token, user) =
        (("system:node:n", "system:nodes"), ("system:bootstrap:abcdef", "system:bootstrappers"), ("u", "g"));
    server.put(NODES, json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}}));
    server.put(CSRS, csr("joins", token, "kube-apiserver-client-kubelet", &[]));
    server.put(CSRS, csr("renews", node, "kube-apiserver-client-kubelet", &[]));
    server.put(CSRS, csr("serves", node, "kubelet-serving", &["n", "10.0.0.9"]));
    server.put(CSRS, csr("lies", node, "kubelet-serving", &["n", "10.0.0.1"]));
    server.put(CSRS, csr("foreign", user, "kube-apiserver-client-kubelet", &[]));
    for name in ["joins", "renews", "serves"] {
        server.until("it is signed", |server| certificate(server, name).is_some()).await;
        let signed = server.get(&format!("{CSRS}/{name}")).unwrap();
        assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved", "{name}");
        assert_eq!(signed["metadata"]["labels"]["kept"], "yes");
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((certificate(server, "lies"), certificate(server, "foreign")), (None, None));
    let decision = json!([{"type": "Approved", "status": "True", "lastUpdateTime": "2027-01-15T08:00:00Z"}]);
    server.patch(&format!("{CSRS}/foreign"), json!({"status": {"conditions": decision}}));
    server.until("what somebody approved is signed", |server| certificate(server, "foreign").is_some()).await;
    let left = |server: &Server| server.list(CSRS).iter().all(|one| one["metadata"]["name"] == "lies");
    server.until("all that were decided on are cleaned up", left).await;
    running.stop().await;
}

fn ranges(server: &Server) -> Vec<String> {
    let nodes = server.list(NODES);
    nodes.iter().filter_map(|node| node["spec"]["podCIDR"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(start_paused = true)]
async fn nodes_get_ranges_of_their_own() {
    let start = |server: Server| {
        Running::start_with(server, |config| {
            config.node_ranges = Some(Ranges::new("10.1.0.0/22", 24).unwrap())
        })
    };
    let running = start(Server::new(&[]));
    let server = running.server.clone();
    server.put(
        NODES,
        json!({"metadata": {"name": "own"}, "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]}}),
    );
    for name in ["a", "b"] {
        server.put(NODES, json!({"metadata": {"name": name}}));
    }
    server.until("all have one", |server| ranges(server).len() == 3).await;
    running.stop().await;
    let running = start(server.clone());
    for name in ["c", "d"] {
        server.put(NODES, json!({"metadata": {"name": name}}));
    }
    let told = |server: &Server| {
        server.list("/api/v1/events").iter().any(|event| event["reason"] == "CIDRNotAvailable")
    };
    server.until("one is told that there is none", told).await;
    let all: BTreeSet<String> = ranges(&server).into_iter().collect();
    assert_eq!((ranges(&server).len(), all.len()), (4, 4), "{all:?}");
    server.delete(&format!("{NODES}/own"), json!({}));
    server.until("it gets the one that is free", |server| ranges(server).len() == 4).await;
    assert_eq!(ranges(&server).into_iter().collect::<BTreeSet<_>>(), all);
    running.stop().await;
}
