//! What is said of worlds that are written down.

use super::diagnose;
use super::evidence::Evidence;
use k8s_openapi::api::core::v1::{Event, Pod};
use minik_placement::NodeState;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NOW: &str = "2026-11-24T09:01:00Z";

/// A Pod made a minute ago that its scheduler has looked at, with some of it written otherwise.
fn pod(spec: Value, status: Value) -> Evidence {
    let scheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: x."}]);
    let mut object = json!({"metadata": {"name": "web", "namespace": "default", "uid": "web", "labels": {"app": "web"}, "creationTimestamp": "2026-11-24T09:00:00Z"},
        "spec": {"containers": [{"name": "c1", "image": "app:1"}]}, "status": {"phase": "Pending", "conditions": scheduled}});
    for (field, more) in [("spec", spec), ("status", status)] {
        more.as_object().unwrap().iter().for_each(|(key, value)| object[field][key] = value.clone());
    }
    let placement = Arc::new(serde_json::from_value(object.clone()).unwrap());
    let pod: Pod = serde_json::from_value(object).unwrap();
    Evidence { pod, placement, now: NOW.parse().unwrap(), node_exists: true, ..Evidence::default() }
}

fn node(name: &str, with: Value) -> NodeState {
    let mut object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "2Gi", "pods": "110"}}});
    with.as_object().unwrap().iter().for_each(|(key, value)| object[key] = value.clone());
    NodeState::new(Arc::new(serde_json::from_value(object).unwrap()))
}

fn other(name: &str, spec: Value) -> Arc<minik_placement::Pod> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}}, "spec": spec})).unwrap())
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c1", "image": "app:1", "resources": {"requests": {"cpu": amount}}}]})
}

fn said(evidence: &Evidence) -> String {
    diagnose(evidence).map_or("nothing".into(), |found| found.text(Duration::from_millis(400)))
}

#[test]
fn too_little_is_left() {
    let mut evidence = pod(cpu("4"), json!({}));
    let mut first = node("node-1", json!({}));
    first.add(other("o", json!({"containers": [{"resources": {"requests": {"cpu": "800m"}}}]})));
    let taint = json!({"spec": {"taints": [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]}});
    evidence.nodes = vec![first, node("node-2", taint)];
    insta::assert_snapshot!(said(&evidence));
}

#[test]
fn a_node_refuses() {
    let mut text = String::new();
    let mut say = |spec: Value, nodes: Vec<NodeState>| {
        let evidence = Evidence { nodes, ..pod(spec, json!({})) };
        text += &said(&evidence);
    };
    say(json!({}), vec![]);
    say(
        json!({}),
        vec![node(
            "node-1",
            json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
        )],
    );
    say(
        json!({}),
        vec![node(
            "node-1",
            json!({"spec": {"taints": [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]}}),
        )],
    );
    say(
        json!({}),
        vec![node(
            "node-1",
            json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}),
        )],
    );
    let ssd = node("node-2", json!({"metadata": {"name": "node-2", "labels": {"disk": "hdd", "zone": "a"}}}));
    say(json!({"nodeSelector": {"disk": "ssd", "zone": "a"}}), vec![node("node-1", json!({})), ssd.clone()]);
    let term = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["x", "y"]}, {"key": "gen", "operator": "Gt", "values": ["3"]}]});
    let terms = json!([term("disk"), {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}]);
    say(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}),
        vec![ssd],
    );
    let port = json!({"containers": [{"name": "c1", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]}]});
    let mut taken = node("node-1", json!({}));
    taken.add(other("o", port.clone()));
    say(port, vec![taken.clone()]);
    let full = json!({"status": {"allocatable": {"cpu": "2", "memory": "2Gi", "pods": "1"}}});
    let mut full = node("node-1", full);
    full.add(other("o", json!({"containers": [{}]})));
    say(json!({}), vec![full]);
    let alone = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    say(json!({"affinity": {"podAntiAffinity": alone}}), vec![taken.clone()]);
    let with_db = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]});
    say(json!({"affinity": {"podAffinity": with_db}}), vec![taken.clone()]);
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let cordoned = node("node-2", json!({"spec": {"unschedulable": true}}));
    say(json!({"topologySpreadConstraints": spread}), vec![taken, cordoned]);
    say(
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
        vec![node("node-1", json!({}))],
    );
    let memory = json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "3Gi", "example.com/gpu": "1"}}}]});
    say(memory, vec![node("node-1", json!({}))]);
    insta::assert_snapshot!(text);
}

#[test]
fn many_nodes_are_counted() {
    let mut evidence = pod(cpu("3"), json!({}));
    let taint = || json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}});
    evidence.nodes = (0..500)
        .map(|at| node(&format!("fake-{at}"), if at % 5 == 0 { taint() } else { json!({}) }))
        .collect();
    insta::assert_snapshot!(said(&evidence));
}

#[test]
fn nobody_schedules() {
    let mut text = String::new();
    let mut say = |spec: Value, status: Value, change: &dyn Fn(&mut Evidence)| {
        let mut evidence = Evidence { nodes: vec![node("node-1", json!({}))], ..pod(spec, status) };
        change(&mut evidence);
        text += &said(&evidence);
    };
    let unseen = || json!({"conditions": []});
    say(json!({"schedulingGates": [{"name": "example.com/quota"}]}), unseen(), &|_| {});
    say(json!({}), unseen(), &|evidence| {
        evidence.scheduler_renewed = Some("2026-11-24T09:00:20Z".parse().unwrap())
    });
    say(json!({"schedulerName": "own"}), unseen(), &|_| {});
    say(json!({"nodeName": "", "nodeSelector": {"a": "b"}}), unseen(), &|_| {});
    say(cpu("4"), json!({"nominatedNodeName": "node-1"}), &|_| {});
    say(json!({}), unseen(), &|evidence| evidence.now = "2026-11-24T09:00:01Z".parse().unwrap());
    say(json!({}), json!({}), &|_| {});
    say(json!({}), json!({}), &|evidence| {
        let words = "running Bind plugin \"DefaultBinder\": pods \"web\" is forbidden";
        evidence.events = events(json!([{"reason": "FailedScheduling", "message": words}]));
    });
    insta::assert_snapshot!(text);
}

fn events(events: Value) -> Vec<Event> {
    let mut events = events.as_array().unwrap().clone();
    for event in &mut events {
        event["metadata"] = json!({});
        event["type"] = json!("Warning");
        let involved = event["field"].take();
        event["involvedObject"] = json!({"fieldPath": involved});
    }
    serde_json::from_value(json!(events)).unwrap()
}

/// A Pod on a node with a container in this state.
fn placed(container: Value, state: Value) -> Evidence {
    let mut spec = json!({"name": "c1", "image": "app:1"});
    container.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
    let mut status =
        json!({"name": "c1", "image": "app:1", "imageID": "", "ready": false, "restartCount": 0});
    state.as_object().unwrap().iter().for_each(|(key, value)| status[key] = value.clone());
    let phase = if status["state"].get("running").is_some() { "Running" } else { "Pending" };
    let conditions = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-24T09:00:00Z"}, {"type": "Ready", "status": "False"}]);
    pod(
        json!({"nodeName": "node-1", "containers": [spec]}),
        json!({"phase": phase, "conditions": conditions, "containerStatuses": [status]}),
    )
}

fn ended(code: i32, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-11-24T09:00:50Z"}})
}

#[test]
fn a_container_does_not_run() {
    let mut text = String::new();
    let mut say = |mut evidence: Evidence, change: &dyn Fn(&mut Evidence)| {
        change(&mut evidence);
        text += &said(&evidence);
    };
    let waits =
        |reason: &str, words: &str| json!({"state": {"waiting": {"reason": reason, "message": words}}});
    let crashing = |code, reason| json!({"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, "lastState": ended(code, reason)});
    let none = |_: &mut Evidence| {};
    let pull =
        "Back-off pulling image \"app:1\": ErrImagePull: failed to pull: docker.io/library/app:1: not found";
    say(placed(json!({}), waits("ImagePullBackOff", pull)), &none);
    say(placed(json!({}), waits("ErrImagePull", "401 Unauthorized")), &none);
    say(
        placed(
            json!({}),
            waits("ErrImageNeverPull", "Container image \"app:1\" is not present with pull policy of Never"),
        ),
        &none,
    );
    say(placed(json!({}), waits("InvalidImageName", "couldn't parse image name")), &none);
    let secret = json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
    for exists in [false, true] {
        say(
            placed(secret.clone(), waits("CreateContainerConfigError", "secret \"s\" not found")),
            &|evidence| {
                let used_by = "container c1".to_owned();
                let reference = super::evidence::Reference {
                    kind: "secret",
                    name: "s".into(),
                    key: Some("k".into()),
                    used_by,
                    exists,
                };
                evidence.missing = vec![reference];
            },
        );
    }
    say(placed(json!({}), crashing(1, "Error")), &|evidence| {
        evidence.logs =
            BTreeMap::from([("c1".into(), vec!["reading settings".into(), "panic: no DATABASE_URL".into()])]);
    });
    say(placed(json!({"resources": {"limits": {"memory": "16Mi"}}}), crashing(137, "OOMKilled")), &none);
    let start = json!({"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \"nope\": not found"}}});
    say(placed(json!({}), start), &none);
    let running = json!({"started": true, "state": {"running": {}}});
    let probe = json!({"httpGet": {"port": 80}});
    say(placed(json!({"readinessProbe": probe}), running), &|evidence| {
        evidence.events = events(
            json!([{"reason": "Unhealthy", "field": "spec.containers{c1}", "message": "Readiness probe failed: HTTP probe failed with statuscode: 503"}]),
        );
    });
    let starting = json!({"started": false, "state": {"running": {}}});
    say(placed(json!({"startupProbe": probe}), starting), &none);
    say(placed(json!({"livenessProbe": probe}), crashing(137, "Error")), &|evidence| {
        let killed = "Container c1 failed liveness probe, will be restarted";
        evidence.events = events(
            json!([{"reason": "Unhealthy", "field": "spec.containers{c1}", "message": "Liveness probe failed: connection refused"}, {"reason": "Killing", "message": killed}]),
        );
    });
    say(placed(json!({}), waits("ContainerCreating", "")), &|evidence| {
        evidence.events = events(
            json!([{"reason": "FailedMount", "message": "MountVolume.SetUp failed for volume \"h\" : hostPath type check failed: /x is not a directory"}]),
        );
    });
    say(placed(json!({}), waits("ContainerCreating", "")), &none);
    say(placed(json!({}), waits("ContainerCreating", "")), &|evidence| {
        evidence.not_ready =
            BTreeMap::from([("node-1".into(), "Kubelet stopped posting node status.".into())]);
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_pod_is_stuck_otherwise() {
    let mut text = String::new();
    let mut say = |mut evidence: Evidence, change: &dyn Fn(&mut Evidence)| {
        change(&mut evidence);
        text += &said(&evidence);
    };
    let deleted = |evidence: &mut Evidence| {
        evidence.pod.metadata.deletion_timestamp = evidence.pod.metadata.creation_timestamp.clone();
    };
    let running = || placed(json!({}), json!({"state": {"running": {}}, "ready": true}));
    say(running(), &|evidence| {
        deleted(evidence);
        evidence.pod.metadata.finalizers = Some(vec!["example.com/hold".into()]);
        evidence.pod.status.as_mut().unwrap().container_statuses = None;
    });
    say(running(), &|evidence| {
        deleted(evidence);
        evidence.node_exists = false;
    });
    say(running(), &deleted);
    let init = json!([{"name": "first", "image": "app:1", "imageID": "", "ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(2, "Error")}]);
    let conditions = json!([{"type": "Ready", "status": "False"}]);
    say(
        pod(
            json!({"nodeName": "node-1", "initContainers": [{"name": "first"}]}),
            json!({"conditions": conditions, "initContainerStatuses": init}),
        ),
        &|_| {},
    );
    let refused = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: 0, capacity: 2000"});
    say(pod(json!({"nodeName": "node-1"}), refused), &|_| {});
    let gate = json!({"nodeName": "node-1", "readinessGates": [{"conditionType": "example.com/lb"}]});
    say(pod(gate, json!({"phase": "Running", "conditions": conditions})), &|_| {});
    say(running(), &|evidence| {
        let conditions = evidence.pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions.iter_mut().for_each(|one| one.status = "True".into());
    });
    insta::assert_snapshot!(text);
}
