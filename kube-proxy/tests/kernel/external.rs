use crate::world::*;
use minik_kube_proxy::{NodePorts, Settings};
use serde_json::json;
use std::collections::BTreeSet;

const MASQUERADED: &str = "169.254.1.1";
const LB: &str = "203.0.113.5";

fn node_port() -> serde_json::Value {
    json!({ "type": "NodePort", "ports": [{ "protocol": "TCP", "port": 80, "nodePort": 30080 }] })
}

#[test]
fn a_node_port_reaches_all_endpoints() {
    let mut world = World::new();
    let web = service(node_port());
    world.sync(&[(web.clone(), vec![both()])]);
    let wanted = BTreeSet::from([answer("a", MASQUERADED), answer("b", MASQUERADED)]);
    for ns in [&world.client, &world.a, &world.node] {
        assert_eq!(all_tcp(ns, NODE, 30080), wanted);
    }
    // It is the node's address that has the port, not whatever else passes.
    assert_eq!(tcp(&world.a, CLIENT, 30080), Seen::Refused);
    world.change(&web, &[]);
    assert_eq!(tcp(&world.client, NODE, 30080), Seen::Refused);
}

#[test]
fn node_ports_listen_on_all_addresses_when_asked() {
    let all = vec![NodePorts::Range("0.0.0.0/0".parse().unwrap())];
    let mut world = World::with(Settings { node_ports: all, ..settings() });
    world.place.addresses.clear();
    world.sync(&[(service(node_port()), vec![both()])]);
    assert!(matches!(tcp(&world.client, NODE, 30080), Seen::Answer(..)));
    assert!(matches!(tcp(&world.a, MASQUERADED, 30080), Seen::Answer(..)));
}

#[test]
fn external_policy_local_keeps_the_clients_address() {
    let mut world = World::new();
    let mut spec = node_port();
    spec["externalTrafficPolicy"] = json!("Local");
    let web = service(spec);
    world.sync(&[(web.clone(), vec![both()])]);
    assert_eq!(all_tcp(&world.client, NODE, 30080), BTreeSet::from([answer("a", CLIENT)]));
    // Pods, and the node itself, go anywhere.
    assert_eq!(
        all_tcp(&world.a, NODE, 30080),
        BTreeSet::from([answer("a", MASQUERADED), answer("b", POD_A)])
    );
    assert_eq!(all_tcp(&world.node, NODE, 30080).len(), 2);
    // The cluster address knows nothing of that policy.
    assert_eq!(all_tcp(&world.a, VIP, 80).len(), 2);
    world.change(&web, &[slice("TCP", &[(POD_B, "far", ready())])]);
    assert!(dropped(&world.client, NODE, 30080));
    assert_eq!(tcp(&world.a, NODE, 30080), answer("b", POD_A));
    world.change(&web, &[]);
    assert_eq!(tcp(&world.client, NODE, 30080), Seen::Refused);
}

#[test]
fn external_and_load_balancer_addresses_are_caught() {
    let mut world = World::new();
    let mut web = service(json!({ "type": "LoadBalancer", "externalIPs": ["203.0.113.9"] }));
    web["status"] = json!({ "loadBalancer": { "ingress": [
        { "ip": LB, "ipMode": "VIP" }, { "ip": "203.0.113.6", "ipMode": "Proxy" }
    ] } });
    world.sync(&[(web.clone(), vec![both()])]);
    let wanted = BTreeSet::from([answer("a", MASQUERADED), answer("b", MASQUERADED)]);
    for address in [LB, "203.0.113.9"] {
        assert_eq!(all_tcp(&world.client, address, 80), wanted);
        assert_eq!(all_tcp(&world.a, address, 80), wanted);
    }
    // An address that a proxy serves is left to that proxy; here nobody routes it.
    assert!(dropped(&world.client, "203.0.113.6", 80));
    world.change(&web, &[]);
    assert_eq!(tcp(&world.client, LB, 80), Seen::Refused);
}

#[test]
fn source_ranges_keep_others_out() {
    let mut world = World::new();
    let web = |ranges: serde_json::Value| {
        let mut web = service(json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ranges }));
        web["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": LB }] } });
        web
    };
    world.sync(&[(web(json!(["10.99.0.0/16", "10.99.4.0/24"])), vec![both()])]);
    assert!(dropped(&world.client, LB, 80));
    assert!(matches!(tcp(&world.a, LB, 80), Seen::Answer(..)));
    assert!(matches!(tcp(&world.client, VIP, 80), Seen::Answer(..)));
    let changes = world.change(&web(json!(["192.0.2.0/24"])), &[both()]);
    assert!(matches!(tcp(&world.client, LB, 80), Seen::Answer(..)), "{changes:?}");
    assert!(dropped(&world.a, LB, 80));
    world.change(&web(json!([])), &[both()]);
    assert!(matches!(tcp(&world.a, LB, 80), Seen::Answer(..)));
}

#[test]
fn of_two_with_the_same_address_the_first_by_name_has_it() {
    let mut world = World::new();
    let named = |name: &str, vip: &str| {
        let mut web = service(json!({ "externalIPs": [LB], "clusterIP": vip, "clusterIPs": [vip] }));
        web["metadata"]["name"] = json!(name);
        web
    };
    let only = |address| vec![slice("TCP", &[(address, "far", ready())])];
    world.sync(&[(named("y", "10.98.0.7"), only(POD_B)), (named("x", "10.98.0.8"), only(POD_A))]);
    assert_eq!(tcp(&world.client, LB, 80), answer("a", MASQUERADED));
    world.sync(&[(named("y", "10.98.0.7"), only(POD_B))]);
    assert_eq!(tcp(&world.client, LB, 80), answer("b", MASQUERADED));
}
