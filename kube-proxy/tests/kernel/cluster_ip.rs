use crate::world::*;
use minik_kube_proxy::Settings;
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn connections_spread_over_endpoints_and_follow_them() {
    let mut world = World::new();
    let web = service(json!({}));
    world.sync(&[(web.clone(), vec![both()])]);
    // A Pod's address is kept, but for the Pod that meets itself.
    let from_a = all_tcp(&world.a, VIP, 80);
    assert_eq!(from_a, BTreeSet::from([answer("a", "169.254.1.1"), answer("b", POD_A)]));
    // From outside the cluster's ranges it is masqueraded, and so it is for the node itself.
    let outside = all_tcp(&world.client, VIP, 80);
    assert_eq!(outside, BTreeSet::from([answer("a", "169.254.1.1"), answer("b", "169.254.1.1")]));
    let node = all_tcp(&world.node, VIP, 80);
    assert_eq!(node, BTreeSet::from([answer("a", "169.254.1.1"), answer("b", "169.254.1.1")]));
    // Another port of the address is refused at once.
    assert_eq!(tcp(&world.a, VIP, 81), Seen::Refused);

    world.change(&web, &[slice("TCP", &[(POD_B, "far", ready())])]);
    assert_eq!(all_tcp(&world.a, VIP, 80), BTreeSet::from([answer("b", POD_A)]));
    world.change(&web, &[]);
    assert_eq!(tcp(&world.a, VIP, 80), Seen::Refused);
    assert_eq!(tcp(&world.node, VIP, 80), Seen::Refused);
    world.change(&web, &[both()]);
    assert!(matches!(tcp(&world.a, VIP, 80), Seen::Answer(..)));
}

#[test]
fn an_endpoint_on_the_node_itself_is_reached() {
    let mut world = World::new();
    world.sync(&[(service(json!({})), vec![slice("TCP", &[(NODE, "near", ready())])])]);
    assert_eq!(tcp(&world.a, VIP, 80), answer("node", POD_A));
    assert!(matches!(tcp(&world.node, VIP, 80), Seen::Answer(name, _) if name == "node"));
}

#[test]
fn internal_policy_local_keeps_to_the_node_or_drops() {
    let mut world = World::new();
    let web = service(json!({ "internalTrafficPolicy": "Local" }));
    world.sync(&[(web.clone(), vec![both()])]);
    assert_eq!(all_tcp(&world.b, VIP, 80), BTreeSet::from([answer("a", POD_B)]));
    world.change(&web, &[slice("TCP", &[(POD_B, "far", ready())])]);
    assert!(dropped(&world.a, VIP, 80));
    world.change(&web, &[]);
    assert_eq!(tcp(&world.a, VIP, 80), Seen::Refused);
}

#[test]
fn those_that_end_serve_while_no_other_is_ready() {
    let mut world = World::new();
    let web = service(json!({}));
    let ends = json!({ "ready": false, "serving": true, "terminating": true });
    world.sync(&[(
        web.clone(),
        vec![slice("TCP", &[(POD_A, "near", ends.clone()), (POD_B, "far", ready())])],
    )]);
    assert_eq!(all_tcp(&world.a, VIP, 80), BTreeSet::from([answer("b", POD_A)]));
    let unready = json!({ "ready": false, "serving": false });
    world.change(&web, &[slice("TCP", &[(POD_A, "near", ends), (POD_B, "far", unready)])]);
    assert_eq!(all_tcp(&world.b, VIP, 80), BTreeSet::from([answer("a", POD_B)]));
}

#[test]
fn hints_keep_traffic_in_the_zone() {
    let mut world = World::new();
    let web = service(json!({ "trafficDistribution": "PreferSameZone" }));
    let mut hinted = both();
    hinted["endpoints"][0]["hints"] = json!({ "forZones": [{ "name": "z1" }] });
    hinted["endpoints"][1]["hints"] = json!({ "forZones": [{ "name": "z2" }] });
    world.sync(&[(web.clone(), vec![hinted.clone()])]);
    assert_eq!(all_tcp(&world.client, VIP, 80), BTreeSet::from([answer("a", "169.254.1.1")]));
    // One without hints: they are not heeded at all.
    hinted["endpoints"][1]["hints"] = json!({});
    world.change(&web, &[hinted]);
    assert_eq!(all_tcp(&world.client, VIP, 80).len(), 2);
}

#[test]
fn everything_is_masqueraded_when_asked() {
    let mut world = World::with(Settings { masquerade_all: true, ..settings() });
    world.sync(&[(service(json!({})), vec![slice("TCP", &[(POD_B, "far", ready())])])]);
    assert_eq!(tcp(&world.a, VIP, 80), answer("b", "169.254.1.1"));
}

#[test]
fn version_six_works_alike() {
    let mut world = World::new();
    let web = service(json!({ "clusterIP": "fd98::1", "clusterIPs": ["fd98::1"], "type": "NodePort",
        "ports": [{ "protocol": "TCP", "port": 80, "nodePort": 30080 }] }));
    let mut six = slice("TCP", &[("fd99::a", "near", ready()), ("fd99::b", "far", ready())]);
    six["addressType"] = json!("IPv6");
    world.sync(&[(web.clone(), vec![six])]);
    let seen = all_tcp(&world.a, "fd98::1", 80);
    assert!(seen.contains(&answer("b", "fd99::a")) && seen.len() == 2, "{seen:?}");
    assert!(matches!(tcp(&world.client, "fd02::1", 30080), Seen::Answer(..)));
    world.change(&web, &[]);
    assert_eq!(tcp(&world.b, "fd98::1", 80), Seen::Refused);
}

#[test]
fn many_endpoints_need_more_chains() {
    let mut world = World::new();
    let web = service(json!({}));
    world.sync(&[(web.clone(), vec![both()])]);
    // Only `a` answers; the others refuse, since nobody has those addresses beyond the node's route.
    let many: Vec<String> = (1..=40).map(|n| format!("10.99.7.{n}")).collect();
    let mut endpoints: Vec<_> = many.iter().map(|address| (address.as_str(), "far", ready())).collect();
    endpoints.push((POD_A, "near", ready()));
    let changes = world.change(&web, &[slice("TCP", &endpoints)]);
    assert_eq!(changes.len(), 41, "the place of b, 39 new places, the count: {changes:?}");
    world.change(&web, &[slice("TCP", &[(POD_A, "near", ready())])]);
    assert_eq!(all_tcp(&world.b, VIP, 80), BTreeSet::from([answer("a", POD_B)]));
}
