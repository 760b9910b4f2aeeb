//! The running program, from watch events to packets.

use crate::server::{NODES, RANGES, SERVICES, SLICES, Server};
use crate::world::*;
use minik_component::Shutdown;
use minik_kube_proxy::{Config, ProxyError, run};
use minik_net::NetNs;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long what a test waits for may take; a busy machine is no failure.
const WITHIN: Duration = Duration::from_secs(60);

struct Running {
    world: World,
    server: Server,
    health: SocketAddr,
    metrics: prometheus::Registry,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<Result<(), ProxyError>>>,
}

fn node(leaving: bool) -> Value {
    let taints = if leaving { json!([{ "key": "ToBeDeletedByClusterAutoscaler" }]) } else { json!([]) };
    json!({
        "metadata": { "name": "near" }, "spec": { "taints": taints },
        "status": { "addresses": [{ "type": "InternalIP", "address": NODE }] },
    })
}

impl Running {
    fn start(services: &[Value], slices: &[Value]) -> Running {
        let (world, server) = (World::new(), Server::default());
        server.put(NODES, node(false));
        services.iter().for_each(|service| server.put(SERVICES, service.clone()));
        slices.iter().for_each(|slice| server.put(SLICES, slice.clone()));
        let health = minik_testkit::own_address();
        let config = Config {
            node: "near".into(),
            settings: settings(),
            healthz_address: Some(health),
            netns: Some(Arc::new(world.node.try_clone().unwrap())),
            ..Config::default()
        };
        let metrics = config.metrics.clone();
        let shutdown = Shutdown::new();
        let (client, ending) = (server.clone(), shutdown.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { run(config, client.client(), ending).await })
        });
        Running { world, server, health, metrics, shutdown, thread: Some(thread) }
    }

    fn counted(&self, name: &str) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_histogram().get_sample_count() as f64
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Waits, within bounds, until something is seen.
fn until<T: PartialEq + std::fmt::Debug>(wanted: T, look: impl Fn() -> T) {
    minik_testkit::eventually(WITHIN, || match look() {
        seen if seen == wanted => Ok(()),
        seen => Err((seen, "not", &wanted)),
    });
}

fn get(connected: std::io::Result<TcpStream>, path: &str) -> (u16, String) {
    let Ok(mut stream) = connected else { return (0, String::new()) };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn get_in(ns: &NetNs, address: &str, port: u16) -> (u16, String) {
    let to = SocketAddr::new(ip(address), port);
    get(ns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap(), "/")
}

#[test]
fn events_become_rules() {
    let running = Running::start(&[service(json!({}))], &[]);
    let world = &running.world;
    until(Seen::Refused, || tcp(&world.a, VIP, 80));
    let mut told = slice("TCP", &[(POD_B, "far", ready())]);
    let now = minik_component::Clock::now(&minik_component::SystemClock::default()).to_string();
    told["metadata"]["annotations"] = json!({ "endpoints.kubernetes.io/last-change-trigger-time": now });
    running.server.put(SLICES, told);
    until(answer("b", POD_A), || tcp(&world.a, VIP, 80));
    until(1.0, || running.counted("kubeproxy_network_programming_duration_seconds"));
    // The slice goes over to another Service, and back.
    let mut other = slice("TCP", &[(POD_B, "far", ready())]);
    other["metadata"]["labels"]["kubernetes.io/service-name"] = json!("other");
    running.server.put(SLICES, other);
    until(Seen::Refused, || tcp(&world.a, VIP, 80));
    running.server.put(SLICES, slice("TCP", &[(POD_A, "near", ready())]));
    until(answer("a", POD_B), || tcp(&world.b, VIP, 80));
    // Two slices of one Service.
    let mut second = slice("TCP", &[(NODE, "near", ready())]);
    second["metadata"]["name"] = json!("web-2");
    running.server.put(SLICES, second);
    until(2, || all_tcp(&world.b, VIP, 80).len());
    running.server.remove(SLICES, "web-1");
    until(1, || all_tcp(&world.b, VIP, 80).len());
    assert_eq!(tcp(&world.b, VIP, 80), answer("node", POD_B));
    // An address that no Service has goes nowhere, instead of to the default route.
    let range = json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.98.0.0/16"] } });
    running.server.put(RANGES, range);
    let listed = || world.node.run(|| minik_net::nft::list(&["ip", "kube-proxy"])).unwrap().unwrap();
    until(true, || listed().contains("10.98.0.0/16 . 0-255"));
    assert!(dropped(&world.b, "10.98.0.2", 80));
    assert_eq!(tcp(&world.b, VIP, 80), answer("node", POD_B));
    running.server.remove(SERVICES, "web");
    until(true, || !matches!(tcp(&world.b, VIP, 80), Seen::Answer(..)));
}

#[test]
fn another_hand_in_the_table_is_undone() {
    let running = Running::start(&[service(json!({}))], &[both()]);
    let world = &running.world;
    until(true, || matches!(tcp(&world.client, VIP, 80), Seen::Answer(..)));
    world.node.run(|| minik_net::nft::delete_table("ip", "kube-proxy")).unwrap().unwrap();
    // The next change fails, and all is written again.
    running.server.put(SLICES, slice("TCP", &[(POD_B, "far", ready())]));
    until(answer("b", "169.254.1.1"), || tcp(&world.client, VIP, 80));
    assert!(running.counted("kubeproxy_sync_proxy_rules_nftables_sync_failures_total") >= 1.0);
}

#[test]
fn flows_and_affinities_leave_an_endpoint_that_goes() {
    let spec = json!({ "sessionAffinity": "ClientIP", "ports": [{ "protocol": "UDP", "port": 53 }] });
    let running = Running::start(&[service(spec)], &[slice("UDP", &[(POD_A, "near", ready())])]);
    let world = &running.world;
    let socket = udp_socket(&world.client);
    until(answer("a", "169.254.1.1"), || udp(&socket, VIP, 53));
    running.server.put(SLICES, slice("UDP", &[(POD_B, "far", ready())]));
    until(answer("b", "169.254.1.1"), || udp(&socket, VIP, 53));
    until(true, || running.counted("kubeproxy_conntrack_reconciler_deleted_entries_total") >= 1.0);
    // A flow that began before there were endpoints finds them once there are.
    running.server.put(SLICES, slice("UDP", &[]));
    until(Seen::Refused, || udp(&udp_socket(&world.client), VIP, 53));
    let early = udp_socket(&world.client);
    until(Seen::Refused, || udp(&early, VIP, 53));
    running.server.put(SLICES, slice("UDP", &[(POD_A, "near", ready())]));
    until(answer("a", "169.254.1.1"), || udp(&early, VIP, 53));
}

#[test]
fn health_is_told() {
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
    });
    let running = Running::start(&[service(spec.clone())], &[both()]);
    let world = &running.world;
    until(200, || get_in(&world.client, NODE, 32100).0);
    let (_, body) = get_in(&world.client, NODE, 32100);
    let told: Value = serde_json::from_str(&body).unwrap();
    let name = json!({ "namespace": "default", "name": "web" });
    assert_eq!(told, json!({ "service": name, "localEndpoints": 1, "serviceProxyHealthy": true }));
    running.server.put(SLICES, slice("TCP", &[(POD_B, "far", ready())]));
    until(503, || get_in(&world.client, NODE, 32100).0);
    let mut moved = spec;
    moved["healthCheckNodePort"] = json!(32101);
    running.server.put(SERVICES, service(moved));
    until(503, || get_in(&world.client, NODE, 32101).0);
    until(0, || get_in(&world.client, NODE, 32100).0);

    let ask = |path: &str| get(TcpStream::connect(running.health), path);
    let (code, body) = ask("/healthz");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &told["nodeEligible"]), (200, &json!(true)));
    assert!(told["lastUpdated"].is_string() && told["currentTime"].is_string(), "{told}");
    running.server.put(NODES, node(true));
    until(503, || ask("/healthz").0);
    assert_eq!(ask("/livez").0, 200);
    running.server.put(NODES, node(false));
    until(200, || ask("/healthz").0);
}
