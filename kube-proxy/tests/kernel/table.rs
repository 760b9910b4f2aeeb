use crate::world::*;
use minik_kube_proxy::{Entry, Kernel, Settings, Value};
use minik_net::nft;
use serde_json::{Value as Json, json};

fn everything() -> Vec<(Json, Vec<Json>)> {
    let mut web = service(json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.9"],
        "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.7/32"], "sessionAffinity": "ClientIP",
        "clusterIPs": [VIP, "fd98::1"],
        "ports": [
            { "protocol": "TCP", "port": 80, "nodePort": 30080 },
            { "name": "u", "protocol": "UDP", "port": 53, "nodePort": 30053 },
            { "name": "s", "protocol": "SCTP", "port": 99, "nodePort": 30099 },
        ],
    }));
    web["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.5" }] } });
    let mut six = slice("TCP", &[("fd99::a", "near", ready())]);
    six["metadata"]["name"] = json!("web-2");
    let mut sctp = both();
    sctp["ports"] = json!([{ "name": "s", "protocol": "SCTP", "port": 7 }]);
    vec![(web, vec![both(), six, sctp])]
}

#[test]
fn a_restart_rewrites_nothing() {
    let mut world = World::new();
    let first = world.sync(&everything());
    let there = world.kernel.read().unwrap();
    let wanted: std::collections::HashMap<Entry, Value> = world.book.entries().collect();
    assert_eq!(there, wanted);
    assert_eq!(first.len(), wanted.len());
    let before = world.kernel.generation().unwrap();
    // Another program, which knows nothing yet; endpoints come in another order.
    let mut again = World { kernel: kernel(&world, settings()), book: Default::default(), ..world };
    let mut objects = everything();
    objects[0].1[0]["endpoints"].as_array_mut().unwrap().reverse();
    assert_eq!(again.sync(&objects), []);
    assert_eq!(again.kernel.generation().unwrap(), before);
}

#[test]
fn endpoints_keep_their_places_over_a_restart() {
    let mut world = World::new();
    let three = |skip: &str| {
        let all = [(POD_A, "near", ready()), (POD_B, "far", ready()), ("10.99.0.12", "far", ready())];
        slice("TCP", &all.into_iter().filter(|(address, ..)| *address != skip).collect::<Vec<_>>())
    };
    let web = service(json!({}));
    world.sync(&[(web.clone(), vec![three("")])]);
    // The first goes: the last takes its place.
    let changes = world.change(&web, &[three(POD_A)]);
    assert_eq!(changes.len(), 4, "its place, the last place, the count, the hairpin: {changes:?}");
    world.book = Default::default();
    assert_eq!(world.sync(&[(web, vec![three(POD_A)])]), []);
}

#[test]
fn a_broken_table_is_written_anew_and_others_are_left_alone() {
    let mut world = World::new();
    world.node.run(|| nft::load("table ip other {\n chain c {\n }\n}")).unwrap().unwrap();
    world.sync(&everything());
    let whole = world.node.run(|| nft::list(&["ip", "kube-proxy"])).unwrap().unwrap();
    for harm in [
        "flush chain ip kube-proxy services",
        "delete element ip kube-proxy service-ips { 10.98.0.1 . tcp . 80 }",
        "add element ip kube-proxy service-ips { 10.98.0.77 . tcp . 80 : goto cluster }",
        "add element ip kube-proxy counts { 10.98.0.77 . tcp . 80 : goto refuse }",
        "delete table ip kube-proxy",
        "flush ruleset\ntable ip other {\n chain c {\n }\n}",
    ] {
        world.node.run(|| nft::load(harm)).unwrap().unwrap();
        let changes = world.sync(&everything());
        assert!(!changes.is_empty(), "{harm}");
        let now = world.node.run(|| nft::list(&["ip", "kube-proxy"])).unwrap().unwrap();
        assert_eq!(sorted(&now), sorted(&whole), "{harm}");
        assert_eq!(world.sync(&everything()), [], "{harm}");
    }
    // Other settings are another table.
    world.kernel = kernel(&world, Settings { masquerade_all: true, ..settings() });
    assert!(!world.sync(&everything()).is_empty());
    Kernel::clean_up(&world.node, "kube-proxy").unwrap();
    Kernel::clean_up(&world.node, "kube-proxy").unwrap();
    let left = world.node.run(|| nft::list(&[])).unwrap().unwrap();
    assert_eq!(left.trim(), "table ip other {\n\tchain c {\n\t}\n}");
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut world = World::new();
    let web = service(json!({}));
    world.sync(&[(web.clone(), vec![both()])]);
    world.node.run(|| nft::load("flush map ip kube-proxy endpoints")).unwrap().unwrap();
    let changes = {
        let there = std::collections::HashMap::new();
        world.fill(&[(web.clone(), vec![slice("TCP", &[(POD_B, "far", ready())])])], &there);
        let gone = minik_kube_proxy::Change {
            entry: *world
                .book
                .entries()
                .map(|(e, _)| e)
                .collect::<Vec<_>>()
                .iter()
                .find(|e| matches!(e, Entry::Slot(..)))
                .unwrap(),
            old: Some(Value::Present),
            new: None,
        };
        vec![gone]
    };
    let error = world.kernel.apply(&changes).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    world.sync(&[(web, vec![both()])]);
    assert!(matches!(tcp(&world.a, VIP, 80), Seen::Answer(..)));
}

fn kernel(world: &World, settings: Settings) -> Kernel {
    Kernel::open(world.node.try_clone().unwrap(), settings).unwrap()
}

/// The lines of a listing, without the order of elements and what the kernel filled itself.
fn sorted(text: &str) -> Vec<String> {
    let words = text.replace("elements = {", "").replace([',', '}'], "");
    let mut lines: Vec<String> = words.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}
