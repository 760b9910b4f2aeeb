//! The plans against what upstream made of the same Services and Pods, and against themselves.

use super::legacy;
use super::objects::{Endpoint, EndpointsObject, Family, ServiceObject, SliceObject};
use super::pods;
use super::slice_plan::{Input, Place, Plan, plan, pod_of};
use crate::objects::{NodeObject, PodObject};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

static NODES: LazyLock<Vec<NodeObject>> = LazyLock::new(|| {
    let node = |(name, zone): (&str, &str)| {
        read(json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}}))
    };
    [("n0", "a"), ("n1", "a"), ("n2", "b")].map(node).into()
});

/// What a Pod should be.
fn place(service: &ServiceObject, pod: &PodObject) -> Place {
    let node = NODES.iter().find(|node| node.metadata.name == pod.node);
    let endpoint = pods::endpoint(service, pod, node, Family::IPv4);
    Some((pods::ports(service, pod), endpoint.filter(|_| service.selects(&pod.metadata.labels))?))
}

/// Slices as a server keeps them.
#[derive(Default)]
struct Server {
    slices: BTreeMap<Arc<str>, Arc<SliceObject>>,
    made: usize,
}

impl Server {
    fn apply(&mut self, service: &ServiceObject, plan: Plan) -> usize {
        let writes = plan.puts.len() + plan.deletes.len();
        for put in plan.puts {
            let name: Arc<str> = match &put.base {
                Some(base) => base.metadata.name.clone(),
                None => format!("svc-{:03}", self.made).into(),
            };
            self.made += 1;
            let owner =
                json!({"apiVersion": "v1", "kind": "Service", "name": "svc", "uid": service.metadata.uid});
            let slice = json!({"metadata": {"name": name, "labels": put.labels, "ownerReferences": [owner]},
                "addressType": put.family, "endpoints": put.endpoints, "ports": put.ports});
            self.slices.insert(name, Arc::new(read(slice)));
        }
        for slice in plan.deletes {
            self.slices.remove(&slice.metadata.name);
        }
        writes
    }

    fn plan(&self, service: &ServiceObject, wanted: BTreeMap<Arc<str>, Place>, all: bool) -> Plan {
        let slices: Vec<Arc<SliceObject>> = self.slices.values().cloned().collect();
        let holds = |slice: &Arc<SliceObject>| {
            slice.endpoints.iter().filter_map(pod_of).any(|pod| wanted.contains_key(pod))
        };
        let touched: BTreeSet<Arc<str>> =
            slices.iter().filter(|one| holds(one)).map(|one| one.metadata.name.clone()).collect();
        let touched = (!all).then_some(touched);
        plan(Input { service, family: Family::IPv4, slices, wanted, touched })
    }

    fn endpoints(&self) -> BTreeMap<Arc<str>, (Value, &Endpoint)> {
        let all = self.slices.values().flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one)));
        all.map(|(slice, one)| (pod_of(one).unwrap().clone(), (json!(slice.ports), one))).collect()
    }
}

fn sorted(list: &Value) -> Value {
    let mut list = list.as_array().cloned().unwrap_or_default();
    list.sort_by_key(Value::to_string);
    json!(list)
}

/// Leaves out names, identities and times.
fn comparable(slice: &Value) -> Value {
    let mut endpoints = slice["endpoints"].clone();
    for endpoint in endpoints.as_array_mut().into_iter().flatten() {
        for field in ["namespace", "uid"] {
            endpoint["targetRef"].as_object_mut().unwrap().remove(field);
        }
    }
    json!({"labels": slice["metadata"]["labels"], "endpoints": sorted(&endpoints), "ports": sorted(&slice["ports"]), "family": slice["addressType"]})
}

struct Case {
    service: ServiceObject,
    pods: Vec<Arc<PodObject>>,
    slices: Vec<Value>,
    endpoints: Value,
}

fn cases() -> Vec<Case> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/endpoints.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    let case = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let service = &mut line["service"];
        service["metadata"]["uid"] = "u".into();
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
        if service["spec"]["clusterIP"].is_null() {
            service["spec"]["clusterIP"] = "10.0.0.7".into();
        }
        let pod = |one: &Value| {
            let mut pod = one["pod"].clone();
            pod["status"] = one["status"].clone();
            if one["terminating"] == true {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Arc::new(read(pod))
        };
        Case {
            service: read(line["service"].clone()),
            pods: line["pods"].as_array().unwrap().iter().map(pod).collect(),
            slices: line["endpointslices"].as_array().unwrap().clone(),
            endpoints: line["endpoints"].clone(),
        }
    };
    text.lines().map(case).collect()
}

#[test]
fn slices_are_upstreams() {
    let cases = cases();
    assert!(cases.len() > 90);
    for (number, case) in cases.iter().enumerate() {
        let mut server = Server::default();
        if case.service.follows_pods() {
            let wanted = |pod: &Arc<PodObject>| (pod.metadata.name.clone(), place(&case.service, pod));
            let plan = server.plan(&case.service, case.pods.iter().map(wanted).collect(), true);
            server.apply(&case.service, plan);
        }
        let ours = server.slices.values().map(|slice| {
            let meta = json!({"labels": slice.metadata.labels});
            json!({"metadata": meta, "addressType": slice.family, "endpoints": slice.endpoints, "ports": slice.ports})
        });
        let mut ours: Vec<Value> = ours.map(|slice| comparable(&slice)).collect();
        let mut theirs: Vec<Value> = case.slices.iter().map(comparable).collect();
        ours.sort_by_key(Value::to_string);
        theirs.sort_by_key(Value::to_string);
        assert_eq!(ours, theirs, "case {number}");
    }
}

#[test]
fn endpoints_are_upstreams() {
    for (number, case) in cases().iter().enumerate() {
        let selected = |pod: &&Arc<PodObject>| case.service.selects(&pod.metadata.labels);
        let pods: Vec<Arc<PodObject>> = case.pods.iter().filter(selected).cloned().collect();
        let follows = case.service.follows_pods();
        let mut ours =
            follows.then(|| legacy::plan(&case.service, &pods, None)).flatten().unwrap_or_default();
        let mut theirs = case.endpoints.clone();
        for one in [&mut ours, &mut theirs] {
            *one = json!({"labels": one["metadata"]["labels"], "subsets": sorted(&one["subsets"])});
            for subset in one["subsets"].as_array_mut().unwrap() {
                subset["ports"] = sorted(&subset["ports"]);
                for list in ["addresses", "notReadyAddresses"] {
                    for address in subset[list].as_array_mut().into_iter().flatten() {
                        let target = address["targetRef"].as_object_mut().unwrap();
                        target.retain(|field, _| field == "kind" || field == "name");
                    }
                    subset[list] = sorted(&subset[list]);
                }
            }
            one["subsets"] = sorted(&one["subsets"]);
        }
        assert_eq!(ours, theirs, "case {number}");
        if follows {
            let written = legacy::plan(&case.service, &pods, None).unwrap();
            let kept: EndpointsObject = read(written);
            assert_eq!(legacy::plan(&case.service, &pods, Some(&kept)), None, "case {number} is settled");
        }
    }
}

fn service(more: Value) -> ServiceObject {
    let mut spec = json!({"selector": {"a": "b"}, "clusterIP": "10.0.0.7", "ipFamilies": ["IPv4"],
        "ports": [{"name": "web", "port": 80, "targetPort": "web"}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    read(json!({"metadata": {"name": "svc", "namespace": "s", "uid": "u"}, "spec": spec}))
}

fn pod(number: usize, ready: bool, port: u16) -> Arc<PodObject> {
    let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    let status = if ready { "True" } else { "False" };
    Arc::new(read(json!({
        "metadata": {"name": format!("p{number}"), "namespace": "s", "uid": format!("u{number}"), "labels": {"a": "b"}},
        "spec": {"nodeName": format!("n{}", number % 3), "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]},
    })))
}

fn wanted(service: &ServiceObject, pods: &[Arc<PodObject>]) -> BTreeMap<Arc<str>, Place> {
    pods.iter().map(|pod| (pod.metadata.name.clone(), place(service, pod))).collect()
}

#[test]
fn many_endpoints_take_full_slices_and_one_change_one_write() {
    let service = service(json!({}));
    let mut server = Server::default();
    let pods: Vec<Arc<PodObject>> = (0..250).map(|number| pod(number, true, 80)).collect();
    let first = server.plan(&service, wanted(&service, &pods), true);
    assert_eq!(server.apply(&service, first), 3);
    let full: Vec<usize> = server.slices.values().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(full, [100, 100, 50]);
    let one = server.plan(&service, wanted(&service, &[pod(7, false, 80)]), false);
    assert_eq!(server.apply(&service, one), 1);
    // A new one goes where there is room, and one that leaves leaves a gap that the next fills.
    assert_eq!(
        server.apply(&service, server.plan(&service, wanted(&service, &[pod(300, true, 80)]), false)),
        1
    );
    let gone = BTreeMap::from([("p7".into(), None)]);
    assert_eq!(server.apply(&service, server.plan(&service, gone, false)), 1);
    assert_eq!(
        server.apply(&service, server.plan(&service, wanted(&service, &[pod(301, true, 80)]), false)),
        1
    );
    let held: usize = server.slices.values().map(|slice| slice.endpoints.len()).sum();
    assert_eq!((server.slices.len(), held), (3, 251));
}

#[test]
fn slices_of_an_earlier_service_go_and_labels_follow() {
    let old = service(json!({}));
    let mut server = Server::default();
    server.apply(&old, server.plan(&old, wanted(&old, &[pod(0, true, 80)]), true));
    let mut new = service(json!({}));
    new.metadata.uid = "other".into();
    let plan = server.plan(&new, wanted(&new, &[pod(0, true, 80)]), true);
    assert_eq!((plan.puts.len(), plan.deletes.len()), (1, 1));
    server.apply(&new, plan);
    new.metadata.labels.insert("l".into(), "m".into());
    let plan = server.plan(&new, wanted(&new, &[pod(0, true, 80)]), true);
    assert_eq!((plan.puts.len(), plan.deletes.len()), (1, 0));
    assert_eq!(plan.puts[0].labels.get("l").map(|value| &**value), Some("m"));
    new.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".parse().unwrap());
    let empty = Server::default();
    assert_eq!(empty.plan(&new, BTreeMap::new(), true), Plan::default(), "nothing is made for one that goes");
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let hints = |distribution: &str, ready: bool| {
        let service = service(json!({"trafficDistribution": distribution}));
        let place = place(&service, &pod(2, ready, 80)).unwrap().1;
        json!(place.hints)
    };
    assert_eq!(hints("", true), Value::Null);
    assert_eq!(hints("PreferClose", true), json!({"forZones": [{"name": "b"}]}));
    assert_eq!(hints("PreferSameZone", false), Value::Null);
    assert_eq!(
        hints("PreferSameNode", true),
        json!({"forZones": [{"name": "b"}], "forNodes": [{"name": "n2"}]})
    );
}

#[test]
fn endpoints_above_the_capacity_are_left_out_unready_first() {
    let service = service(json!({}));
    let check = |ready: usize, unready: usize, wanted: (usize, usize)| {
        let pods: Vec<Arc<PodObject>> = (0..ready + unready).map(|one| pod(one, one < ready, 80)).collect();
        let made: EndpointsObject = read(legacy::plan(&service, &pods, None).unwrap());
        let subset = &made.subsets[0];
        assert_eq!((subset.addresses.len(), subset.not_ready_addresses.len()), wanted);
        let over = made.annotations.contains_key("endpoints.kubernetes.io/over-capacity");
        assert_eq!(over, ready + unready > 1000);
        assert_eq!(legacy::plan(&service, &pods, Some(&made)), None);
    };
    check(600, 400, (600, 400));
    check(600, 500, (600, 400));
    check(1200, 50, (1000, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// One Pod after the other, planned on alone, comes to the same endpoints as all at once; and no slice overflows.
    #[test]
    fn changes_one_by_one_come_to_the_whole(steps in prop::collection::vec((0usize..130, 0u8..4), 1..250)) {
        let service = service(json!({}));
        let (mut server, mut pods) = (Server::default(), BTreeMap::new());
        server.apply(&service, server.plan(&service, BTreeMap::new(), true));
        for (number, what) in steps {
            let name: Arc<str> = format!("p{number}").into();
            let now = (what > 0).then(|| pod(number, what > 1, 80 + u16::from(what == 3)));
            let place = now.as_ref().and_then(|pod| place(&service, pod));
            server.apply(&service, server.plan(&service, BTreeMap::from([(name.clone(), place)]), false));
            match now {
                Some(pod) => drop(pods.insert(name, pod)),
                None => drop(pods.remove(&name)),
            }
        }
        let all: Vec<Arc<PodObject>> = pods.into_values().collect();
        let whole = wanted(&service, &all);
        let got = server.endpoints();
        prop_assert_eq!(got.len(), whole.len());
        for (name, place) in &whole {
            let (ports, endpoint) = place.as_ref().unwrap();
            prop_assert_eq!(&got[name], &(json!(ports), endpoint));
        }
        prop_assert!(server.slices.values().all(|slice| slice.endpoints.len() <= 100) && !server.slices.is_empty());
        let held: usize = server.slices.values().map(|slice| slice.endpoints.len()).sum();
        prop_assert_eq!(held, whole.len(), "none is in two slices");
        let settled = server.plan(&service, whole, true);
        prop_assert_eq!(settled, Plan::default());
    }
}
