//! What is rendered, without a kernel.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use minik_client::ObjectKey;
use minik_kube_proxy::{Book, Change, Endpoint, Entry, Frontend, List, Place, Service, Slice, Value, render};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

fn place() -> Place {
    Place { node: "n1".into(), zone: "z1".into(), addresses: vec!["192.0.2.1".parse().unwrap()] }
}

fn service(spec: Json) -> Service {
    let object = json!({
        "metadata": { "name": "web", "namespace": "default" }, "spec": spec,
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.5" }] } },
    });
    serde_json::from_str(&object.to_string()).unwrap()
}

fn slice(name: &str, ports: Json, endpoints: Json) -> Arc<Slice> {
    let object = json!({
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    Arc::new(serde_json::from_str(&object.to_string()).unwrap())
}

fn lines(service: &Service, slices: &[Arc<Slice>], place: &Place) -> String {
    let rendered = render(service, slices, place, &|_, _, _| None);
    let of = |f: &Frontend| format!("{} {:?} {}", f.address, f.protocol, f.port);
    let line = |(entry, value): &(Entry, Value)| {
        let what = match entry {
            Entry::Frontend(f) => format!("frontend {}", of(f)),
            Entry::Count(f, list) => format!("count {} {list:?}", of(f)),
            Entry::Slot(f, list, slot) => format!("slot {} {list:?} {slot}", of(f)),
            Entry::Missing(f) => format!("missing {}", of(f)),
            Entry::Sticky(f) => format!("sticky {}", of(f)),
            Entry::Guarded(f) => format!("guarded {}", of(f)),
            Entry::Source(f, range) => format!("source {} from {range}", of(f)),
            other => format!("{other:?}"),
        };
        let value = match value {
            Value::Endpoint(endpoint) => format!("{}:{}", endpoint.address, endpoint.port),
            other => format!("{other:?}"),
        };
        format!("{what}: {value}\n")
    };
    rendered.iter().map(line).collect()
}

fn rich() -> Json {
    json!({
        "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
        "externalIPs": ["203.0.113.9"], "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "192.0.2.128/25", "2001:db8::/32"],
        "sessionAffinity": "ClientIP",
        "ports": [
            { "name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080 },
            { "name": "dns", "protocol": "UDP", "port": 53 },
        ],
    })
}

fn ports() -> Json {
    json!([{ "name": "http", "protocol": "TCP", "port": 8080 }, { "name": "dns", "protocol": "UDP", "port": 5353 }])
}

#[test]
fn a_rich_service() {
    let endpoints = json!([
        { "addresses": ["10.1.0.2"], "nodeName": "n1", "conditions": { "ready": true } },
        { "addresses": ["10.1.0.1"], "nodeName": "n2", "conditions": {} },
        { "addresses": ["10.1.0.3"], "nodeName": "n1", "conditions": { "ready": false, "serving": true } },
        { "addresses": ["10.1.0.4"], "nodeName": "n1",
          "conditions": { "ready": false, "serving": true, "terminating": true } },
    ]);
    insta::assert_snapshot!(lines(&service(rich()), &[slice("a", ports(), endpoints)], &place()));
}

#[test]
fn a_rich_service_without_local_endpoints() {
    let endpoints = json!([{ "addresses": ["10.1.0.1"], "nodeName": "n2" }]);
    insta::assert_snapshot!(lines(&service(rich()), &[slice("a", ports(), endpoints)], &place()));
}

#[test]
fn a_rich_service_without_endpoints() {
    insta::assert_snapshot!(lines(&service(rich()), &[], &place()));
}

#[test]
fn a_machine_that_is_no_node_has_no_near_endpoints_to_keep_to() {
    let endpoints = json!([{ "addresses": ["10.1.0.1"], "nodeName": "n2" }]);
    let mut spec = rich();
    spec["internalTrafficPolicy"] = json!("Local");
    let nowhere = Place::default();
    insta::assert_snapshot!(lines(&service(spec), &[slice("a", ports(), endpoints)], &nowhere));
}

/// How many addresses of a port this node uses, by policy Cluster and by policy Local.
fn check_usable(endpoints: Json, cluster: &[&str], local: &[&str]) {
    for (policy, wanted) in [("Cluster", cluster), ("Local", local)] {
        let web = service(json!({
            "clusterIP": "10.0.0.1", "internalTrafficPolicy": policy, "ports": [{ "port": 80 }],
        }));
        let slices = [slice("a", json!([{ "port": 8080 }]), endpoints.clone())];
        let rendered = render(&web, &slices, &place(), &|_, _, _| None);
        let seen: BTreeSet<String> = rendered
            .iter()
            .filter_map(|(entry, value)| match (entry, value) {
                (Entry::Slot(f, List::Own, _), Value::Endpoint(e)) if f.address.to_string() == "10.0.0.1" => {
                    Some(e.address.to_string())
                }
                _ => None,
            })
            .collect();
        assert_eq!(seen, wanted.iter().map(|a| (*a).to_owned()).collect(), "{policy}: {endpoints}");
    }
}

#[test]
fn endpoints_are_chosen_as_upstream_does() {
    let endpoint = |address: &str, node: &str, conditions: Json, hints: Json| json!({ "addresses": [address], "nodeName": node, "conditions": conditions, "hints": hints });
    let (ready, none) = (json!({ "ready": true }), json!({}));
    let ends = json!({ "ready": false, "serving": true, "terminating": true });
    let dead = json!({ "ready": false, "serving": false, "terminating": true });
    let zone = |name: &str| json!({ "forZones": [{ "name": name }] });
    let node = |name: &str, in_zone: &str| json!({ "forZones": [{ "name": in_zone }], "forNodes": [{ "name": name }] });
    let near = |conditions: &Json| endpoint("10.1.0.1", "n1", conditions.clone(), none.clone());
    let far = |conditions: &Json| endpoint("10.1.0.2", "n2", conditions.clone(), none.clone());
    check_usable(json!([near(&ready), far(&ready)]), &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]);
    check_usable(json!([near(&ends), far(&ready)]), &["10.1.0.2"], &["10.1.0.1"]);
    check_usable(json!([near(&ends), far(&ends)]), &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]);
    check_usable(json!([near(&dead), far(&dead)]), &[], &[]);
    let both = |one: Json, two: Json| {
        json!([
            endpoint("10.1.0.1", "n1", ready.clone(), one),
            endpoint("10.1.0.2", "n2", ready.clone(), two)
        ])
    };
    check_usable(both(zone("z1"), zone("z2")), &["10.1.0.1"], &["10.1.0.1"]);
    check_usable(both(zone("z2"), zone("z2")), &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]);
    check_usable(both(zone("z1"), none.clone()), &["10.1.0.1", "10.1.0.2"], &["10.1.0.1"]);
    check_usable(both(node("n1", "z1"), node("n2", "z1")), &["10.1.0.1"], &["10.1.0.1"]);
    // No endpoint is for this node: the zone decides.
    check_usable(both(node("n3", "z1"), node("n2", "z2")), &["10.1.0.1"], &["10.1.0.1"]);
}

fn web(external: bool, local: bool, affinity: bool) -> Service {
    service(json!({
        "clusterIP": "10.0.0.1", "externalIPs": if external { json!(["203.0.113.9"]) } else { json!([]) },
        "externalTrafficPolicy": if local { "Local" } else { "Cluster" },
        "sessionAffinity": if affinity { "ClientIP" } else { "None" }, "ports": [{ "port": 80, "nodePort": 30080 }],
    }))
}

fn endpoints() -> impl Strategy<Value = BTreeMap<u8, (bool, bool)>> {
    proptest::collection::btree_map(0u8..12, (any::<bool>(), any::<bool>()), 0..8)
}

proptest! {
    /// However Services change, the book's changes lead from what was to what is, and what is, is what they ask for.
    #[test]
    fn changes_add_up(
        steps in proptest::collection::vec((0u8..3, endpoints(), any::<bool>(), any::<bool>(), any::<bool>()), 1..12)
    ) {
        let mut book = Book::default();
        let mut kernel: HashMap<Entry, Value> = HashMap::new();
        for (name, endpoints, external, local, affinity) in steps {
            let key = ObjectKey::new("default", &format!("web-{name}"));
            let json = endpoints.iter().map(|(n, (near, ready))| json!({
                "addresses": [format!("10.1.0.{n}")], "nodeName": if *near { "n1" } else { "n2" },
                "conditions": { "ready": ready },
            })).collect::<Vec<_>>();
            let slices = [slice("a", json!([{ "port": 8080 }]), json!(json))];
            let wanted = render(&web(external, local, affinity), &slices, &place(), &|of, list, slot| {
                book.slot(&key, of, list, slot)
            });
            let changes = book.set(&key, wanted.clone());
            for Change { entry, old, new } in changes {
                prop_assert_eq!(kernel.get(&entry).copied(), old);
                prop_assert_ne!(old, new);
                match new {
                    Some(value) => kernel.insert(entry, value),
                    None => kernel.remove(&entry),
                };
            }
            prop_assert_eq!(&kernel, &book.entries().collect::<HashMap<_, _>>());
            prop_assert_eq!(book.difference(&kernel), vec![]);
            // The places of each list are filled without a gap, each endpoint once.
            let ready: BTreeSet<String> =
                endpoints.iter().filter(|(_, (_, ready))| *ready).map(|(n, _)| format!("10.1.0.{n}")).collect();
            let mut lists: BTreeMap<(Frontend, List), BTreeMap<u16, Endpoint>> = BTreeMap::new();
            for (entry, value) in &wanted {
                if let (Entry::Slot(of, list, slot), Value::Endpoint(endpoint)) = (entry, value) {
                    lists.entry((*of, *list)).or_default().insert(*slot, *endpoint);
                }
            }
            for ((of, list), slots) in &lists {
                prop_assert!(slots.keys().copied().eq(0..slots.len() as u16));
                let distinct: BTreeSet<String> = slots.values().map(|e| e.address.to_string()).collect();
                prop_assert_eq!(distinct.len(), slots.len());
                prop_assert!(distinct.is_subset(&ready));
                let count = wanted.iter().find(|(entry, _)| *entry == Entry::Count(*of, *list)).map(|(_, v)| *v);
                prop_assert_eq!(count, Some(Value::Count(slots.len() as u16)));
            }
        }
        for owner in book.owners() {
            book.set(&owner, Vec::new());
        }
        prop_assert_eq!(book.entries().count(), 0);
    }

    /// One endpoint more or less changes a few entries, however many there are.
    #[test]
    fn one_endpoint_is_a_small_change(there in proptest::collection::btree_set(0u8..200, 1..60), gone in 0usize..60) {
        let mut book = Book::default();
        let key = ObjectKey::new("default", "web");
        let set = |book: &mut Book, addresses: &BTreeSet<u8>| {
            let json = addresses.iter().map(|n| json!({ "addresses": [format!("10.1.0.{n}")] })).collect::<Vec<_>>();
            let slices = [slice("a", json!([{ "port": 8080 }]), json!(json))];
            let wanted = render(&web(false, false, false), &slices, &place(), &|of, list, slot| book.slot(&key, of, list, slot));
            book.set(&key, wanted)
        };
        set(&mut book, &there);
        let one = *there.iter().nth(gone % there.len()).unwrap();
        let mut fewer = there.clone();
        fewer.remove(&one);
        // Three frontends, each: its place, the last place, the count, or what no endpoints mean; one hairpin.
        prop_assert!(set(&mut book, &fewer).len() <= 13);
        prop_assert!(set(&mut book, &there).len() <= 13);
    }
}
