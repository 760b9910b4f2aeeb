//! Which of too many Pods go first. Pure.

use crate::objects::PodObject;
use jiff::Timestamp;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Pods with those that cost least first. `related` are the Pods of all ReplicaSets of the same owner: of nodes
/// with many of them, Pods go first.
pub fn ranked(pods: &[Arc<PodObject>], related: &[Arc<PodObject>], now: Timestamp) -> Vec<Arc<PodObject>> {
    let mut on_node = BTreeMap::<&str, usize>::new();
    for pod in related.iter().filter(|pod| !pod.has_ended() && pod.metadata.deletion_timestamp.is_none()) {
        *on_node.entry(&pod.node).or_default() += 1;
    }
    let crowd = |pod: &PodObject| on_node.get(&*pod.node).copied().unwrap_or(0);
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| {
        let first = |pod: &PodObject| {
            let unassigned = !pod.node.is_empty();
            (unassigned, phase(pod), pod.ready, pod.deletion_cost, Reverse(crowd(pod)))
        };
        let ready = || if a.ready { latest(a.ready_since, b.ready_since, now) } else { Ordering::Equal };
        first(a)
            .cmp(&first(b))
            .then_with(ready)
            .then_with(|| b.restarts.cmp(&a.restarts))
            .then_with(|| latest(a.metadata.creation_timestamp, b.metadata.creation_timestamp, now))
            .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
    });
    pods
}

fn phase(pod: &PodObject) -> u8 {
    match &*pod.phase {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// The later goes first, where ages of the same power of two count as the same age: so chance, and not only age,
/// decides among old ones.
fn latest(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let power = |at: Timestamp| match now.as_nanosecond() - at.as_nanosecond() {
        age @ 1.. => i64::from(age.ilog2()),
        _ => -1,
    };
    match (a, b) {
        (Some(a), Some(b)) => power(a).cmp(&power(b)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, changes: Value) -> Arc<PodObject> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        for (path, value) in changes.as_object().unwrap() {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Both orders of `pods` are ranked alike, the first first.
    fn check(first: Value, second: Value) {
        let now = "2026-01-01T10:00:00Z".parse().unwrap();
        // Were all else equal, the uid would put the second first.
        let pods = [pod("z", first), pod("a", second)];
        for pods in [[pods[0].clone(), pods[1].clone()], [pods[1].clone(), pods[0].clone()]] {
            let ranked = ranked(&pods, &pods, now);
            assert_eq!(&*ranked[0].metadata.name, "z", "{ranked:#?}");
        }
    }

    #[test]
    fn pods_that_serve_least_go_first() {
        let none = json!({});
        check(json!({"/spec/nodeName": ""}), none.clone());
        check(json!({"/status/phase": "Pending"}), none.clone());
        check(json!({"/status/phase": "Pending"}), json!({"/status/phase": "Unknown"}));
        check(json!({"/status/conditions/0/status": "False"}), none.clone());
        let cost = |cost: &str| json!({"/metadata": {"name": "z", "uid": "z", "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
        check(cost("-1"), none.clone());
        let ready = "/status/conditions/0/lastTransitionTime";
        check(json!({ready: "2026-01-01T09:59:00Z"}), none.clone());
        let restarts = json!({"/status": {"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 2}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        check(restarts, none.clone());
        check(json!({"/metadata/creationTimestamp": "2026-01-01T09:00:00Z"}), none);
    }

    #[test]
    fn pods_of_crowded_nodes_go_first() {
        let now = "2026-01-01T10:00:00Z".parse().unwrap();
        let on = |name: &str, node: &str| pod(name, json!({"/spec/nodeName": node}));
        let pods = [on("a", "one"), on("b", "two"), on("c", "two")];
        let names: Vec<_> =
            ranked(&pods, &pods, now).iter().map(|pod| pod.metadata.name.to_string()).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }

    #[test]
    fn ages_of_one_power_of_two_are_alike() {
        let now = "2026-01-01T10:00:00Z".parse().unwrap();
        let at = |time: &str| Some(time.parse().unwrap());
        assert_eq!(latest(at("2026-01-01T05:00:00Z"), at("2026-01-01T04:50:00Z"), now), Ordering::Equal);
        assert_eq!(latest(at("2026-01-01T09:00:00Z"), at("2026-01-01T04:50:00Z"), now), Ordering::Less);
        assert_eq!(latest(None, at("2026-01-01T04:50:00Z"), now), Ordering::Less);
    }
}
