//! Budgets in all their forms.

use super::plan::{Snapshot, failed, plan};
use super::{PdbObject, PdbStatus};
use crate::objects::PodObject;
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: &str = "2026-01-01T00:10:00Z";

fn now() -> jiff::Timestamp {
    NOW.parse().unwrap()
}

fn pdb(spec: Value, status: Value) -> PdbObject {
    let meta = json!({"name": "b", "namespace": "s", "generation": 2});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
}

/// Ready ones, unready ones, and one that is being deleted, in this order.
fn pods(ready: usize, unready: usize, deleted: usize) -> Vec<Arc<PodObject>> {
    let pod = |number: usize| {
        let status = if number < ready || number >= ready + unready { "True" } else { "False" };
        let mut pod = json!({"metadata": {"name": format!("p{number}"), "namespace": "s"},
            "status": {"conditions": [{"type": "Ready", "status": status}]}});
        if number >= ready + unready {
            pod["metadata"]["deletionTimestamp"] = NOW.into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    (0..ready + unready + deleted).map(pod).collect()
}

fn status(spec: Value, pods: &[Arc<PodObject>], scale: Option<i32>) -> PdbStatus {
    let pdb = pdb(spec, json!({}));
    plan(&Snapshot { pdb: &pdb, pods, scale }, now()).status.unwrap()
}

/// Allowed, healthy, desired, expected.
fn check(spec: Value, pods: &[Arc<PodObject>], scale: Option<i32>, wanted: (i32, i32, i32, i32)) {
    let status = status(spec.clone(), pods, scale);
    let got =
        (status.disruptions_allowed, status.current_healthy, status.desired_healthy, status.expected_pods);
    assert_eq!(got, wanted, "{spec}");
    let condition = &status.conditions[0].condition;
    let reason = if wanted.0 > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    assert_eq!((&*condition.status, &*condition.reason), reason, "{spec}");
    assert_eq!((status.observed_generation, status.conditions[0].observed_generation), (2, 2));
}

#[test]
fn what_may_be_disrupted_follows_from_what_is_healthy() {
    let three = pods(3, 0, 0);
    check(json!({"minAvailable": 2}), &three, None, (1, 3, 2, 3));
    check(json!({"minAvailable": 5}), &three, None, (0, 3, 5, 3));
    check(json!({"minAvailable": 0}), &three, None, (3, 3, 0, 3));
    check(json!({"minAvailable": "50%"}), &three, Some(3), (1, 3, 2, 3));
    check(json!({"minAvailable": "100%"}), &three, Some(3), (0, 3, 3, 3));
    check(json!({"maxUnavailable": 1}), &three, Some(3), (1, 3, 2, 3));
    check(json!({"maxUnavailable": "34%"}), &three, Some(3), (2, 3, 1, 3));
    check(json!({"maxUnavailable": 10}), &three, Some(3), (3, 3, 0, 3));
    check(json!({"maxUnavailable": 1}), &pods(2, 1, 0), Some(3), (0, 2, 2, 3));
    check(json!({"maxUnavailable": 1}), &pods(3, 0, 1), Some(4), (0, 3, 3, 4));
    check(json!({"minAvailable": 1}), &[], None, (0, 0, 1, 0));
    check(json!({"maxUnavailable": 1}), &[], Some(0), (0, 0, 0, 0));
}

#[test]
fn pods_about_to_be_evicted_do_not_count_for_two_minutes() {
    let disrupted =
        json!({"p0": "2026-01-01T00:09:00Z", "p1": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:59Z"});
    let pdb = pdb(json!({"minAvailable": 1}), json!({"disruptedPods": disrupted}));
    let pods = pods(3, 0, 0);
    let plan = plan(&Snapshot { pdb: &pdb, pods: &pods, scale: None }, now());
    let status = plan.status.unwrap();
    assert_eq!(status.disrupted_pods.keys().map(|name| &**name).collect::<Vec<_>>(), ["p0"]);
    assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 1));
    assert_eq!(plan.overdue.iter().map(|name| &**name).collect::<Vec<_>>(), ["p1"]);
    assert_eq!(plan.again.map(|again| again.as_secs()), Some(61));
}

#[test]
fn what_is_told_already_is_not_told_again_and_failure_allows_nothing() {
    let pods = pods(3, 0, 0);
    let mut pdb = pdb(json!({"minAvailable": 2}), json!({}));
    pdb.status = plan(&Snapshot { pdb: &pdb, pods: &pods, scale: None }, now()).status.unwrap();
    let later = "2026-01-02T00:00:00Z".parse().unwrap();
    assert_eq!(plan(&Snapshot { pdb: &pdb, pods: &pods, scale: None }, later).status, None);
    pdb.status = failed(&pdb, "why", later).unwrap();
    assert_eq!(pdb.status.disruptions_allowed, 0);
    let condition = &pdb.status.conditions[0].condition;
    assert_eq!((&*condition.reason, &*condition.message), ("SyncFailed", "why"));
    assert_eq!(condition.last_transition_time, Some(later));
    assert_eq!(failed(&pdb, "why", now()), None);
}
