//! The server's own life: what it answers when, how it is found, how it ends.

use crate::api::{Api, SERVICES, SLICES, until};
use crate::wire::{ask, large, question, tcp, udp};
use hickory_proto::op::ResponseCode;
use minik_component::{SeededChance, Shutdown};
use minik_dns::{Config, DnsError};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

pub const OWN: &str = "kube-system/kube-dns-n1";

pub struct Running {
    pub api: Api,
    pub address: SocketAddr,
    pub metrics: prometheus::Registry,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), DnsError>>,
}

impl Running {
    pub async fn end(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// Starts a server and waits until it is published.
pub async fn start(api: Api, resolv_conf: PathBuf, upstream_port: u16) -> Running {
    let (shutdown, metrics) = (Shutdown::new(), prometheus::Registry::new());
    let config = Config {
        node: "n1".into(),
        resolv_conf,
        upstream_port,
        chance: Arc::new(SeededChance::new(1)),
        metrics: metrics.clone(),
        ..Config::default()
    };
    let task = tokio::spawn(minik_dns::run(config, api.client(), shutdown.clone()));
    let slice = until("the server's slice", async || api.get(SLICES, OWN)).await;
    let port = slice["ports"][0]["port"].as_u64().unwrap() as u16;
    let host = slice["endpoints"][0]["addresses"][0].as_str().unwrap();
    let address = SocketAddr::new(host.parse().unwrap(), port);
    Running { api, address, metrics, shutdown, task }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "prod", "name": name, "uid": name}, "spec": spec})
}

fn headless(count: u8) -> Value {
    let endpoint = |last: u8| json!({"addresses": [format!("10.4.0.{last}")], "conditions": {"ready": true}});
    json!({
        "metadata": {"namespace": "prod", "name": "db-1", "uid": "s", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "x", "protocol": "TCP", "port": 1}],
        "endpoints": (1..=count).map(endpoint).collect::<Vec<_>>(),
    })
}

#[tokio::test]
async fn names_follow_the_api_over_udp_and_tcp() {
    let api = Api::default();
    api.put(SERVICES, service("web", json!({"clusterIP": "10.3.0.1", "ports": [{"port": 80}]})));
    let running = start(api, "/nonexistent".into(), 53).await;
    assert_eq!(ask(running.address, "web.prod.svc.cluster.local. A").await, ["10.3.0.1"]);
    assert_eq!(ask(running.address, "new.prod.svc.cluster.local. A").await, ["Non-Existent Domain"]);
    running.api.put(SERVICES, service("new", json!({"clusterIP": "10.3.0.2", "ports": [{"port": 80}]})));
    until("the new Service", async || {
        (ask(running.address, "new.prod.svc.cluster.local. A").await == ["10.3.0.2"]).then_some(())
    })
    .await;
    let answer = tcp(running.address, &question("New.prod.svc.cluster.local. A")).await;
    assert_eq!(answer.answers[0].name.to_ascii(), "New.prod.svc.cluster.local.", "the case is kept");
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    // Nobody knows other names here.
    let (answer, _) = udp(running.address, &question("example.com. A")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let families = running.metrics.gather();
    let asked = families.iter().find(|family| family.name() == "coredns_dns_requests_total").unwrap();
    assert!(asked.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum::<f64>() >= 4.0);
    running.end().await;
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let api = Api::default();
    api.put(SERVICES, service("db", json!({"clusterIP": "None"})));
    api.put(SLICES, headless(200));
    let running = start(api, "/nonexistent".into(), 53).await;
    let asked = question("db.prod.svc.cluster.local. A");
    for (message, most) in
        [(asked.clone(), 512), (large(asked.clone(), 4096), 1232), (large(asked.clone(), 700), 700)]
    {
        let (answer, length) = udp(running.address, &message).await;
        assert!(answer.metadata.truncation && length <= most, "{length} of {most}");
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
    }
    assert_eq!(tcp(running.address, &asked).await.answers.len(), 200);
    // Chance gives different firsts.
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..10 {
        firsts.insert(tcp(running.address, &asked).await.answers[0].data.to_string());
    }
    assert!(firsts.len() > 3, "{firsts:?}");
    running.end().await;
}

#[tokio::test]
async fn the_slice_is_kept_right_and_taken_away() {
    let running = start(Api::default(), "/nonexistent".into(), 53).await;
    let api = running.api.clone();
    let own = api.get(SLICES, OWN).unwrap();
    assert_eq!(own["metadata"]["labels"]["kubernetes.io/service-name"], "kube-dns");
    assert_eq!(own["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(own["endpoints"][0]["nodeName"], "n1");
    api.remove(SLICES, OWN);
    until("the slice again", async || api.get(SLICES, OWN)).await;
    let mut wrong = own.clone();
    wrong["ports"][0]["port"] = 1.into();
    api.put(SLICES, wrong);
    until("the right port", async || {
        (api.get(SLICES, OWN)?["ports"][0]["port"] == own["ports"][0]["port"]).then_some(())
    })
    .await;
    let writes = api.writes().len();
    assert_eq!(writes, 3, "{:?}", api.writes());
    running.end().await;
    assert!(api.get(SLICES, OWN).is_none());
}

#[tokio::test]
async fn before_the_api_speaks_nothing_is_said_not_to_exist() {
    let api = Api::silent();
    let bind = minik_testkit::own_address();
    let (shutdown, config) =
        (Shutdown::new(), Config { bind, resolv_conf: "/nonexistent".into(), ..Config::default() });
    let task = tokio::spawn(minik_dns::run(config, api.client(), shutdown.clone()));
    until("an answer", async || {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(bind).await.unwrap();
        // Nobody may listen yet: then the send or the receive fails.
        socket.send(&question("web.prod.svc.cluster.local. A").to_vec().unwrap()).await.ok()?;
        socket.recv(&mut [0; 512]).await.ok()
    })
    .await;
    assert_eq!(ask(bind, "web.prod.svc.cluster.local. A").await, ["Server Failure"]);
    assert!(api.writes().is_empty());
    api.speak();
    until("that it does not exist", async || {
        (ask(bind, "web.prod.svc.cluster.local. A").await == ["Non-Existent Domain"]).then_some(())
    })
    .await;
    shutdown.request();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn malformed_and_odd_requests() {
    let running = start(Api::default(), "/nonexistent".into(), 53).await;
    let mut chaos = question("version.bind. TXT");
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    let mut status = question("web.prod.svc.cluster.local. A");
    status.metadata.op_code = hickory_proto::op::OpCode::Status;
    let mut two = question("web.prod.svc.cluster.local. A");
    two.add_query(two.queries[0].clone());
    let mut future = large(question("web.prod.svc.cluster.local. A"), 1232);
    if let Some(edns) = &mut future.edns {
        edns.set_version(1);
    }
    let wanted = [
        (chaos, ResponseCode::Refused),
        (status, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (future, ResponseCode::BADVERS),
    ];
    for (message, code) in wanted {
        // BADVERS and BADSIG are one number.
        let told = udp(running.address, &message).await.0.metadata.response_code;
        assert_eq!(u16::from(told), u16::from(code));
    }
    running.end().await;
}
