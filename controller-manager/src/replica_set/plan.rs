//! What is to be done for a ReplicaSet, and what its status is. Pure.

use super::rank::ranked;
use crate::objects::{Condition, PodObject, ReplicaSetObject, ReplicaSetStatus};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// As many are created or deleted at once at most.
const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

/// What is decided on.
pub struct Snapshot<'a> {
    /// The ReplicaSet.
    pub set: &'a ReplicaSetObject,
    /// Its Pods that have not ended and are not being deleted.
    pub active: &'a [Arc<PodObject>],
    /// How many of its Pods are being deleted.
    pub terminating: usize,
    /// Pods of all ReplicaSets of its owner.
    pub related: &'a [Arc<PodObject>],
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, for this reason.
    Nothing(&'static str),
    /// So many Pods are missing.
    Create(usize),
    /// These are too many.
    Delete(Vec<Arc<PodObject>>),
}

/// What is to be done, once everything that was done before is seen.
pub fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let Snapshot { set, active, related, .. } = snapshot;
    if set.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing("it is being deleted");
    }
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    match active.len() {
        have if have < wanted => Plan::Create((wanted - have).min(BURST)),
        have if have > wanted => {
            let count = (have - wanted).min(BURST);
            Plan::Delete(ranked(active, related, now).into_iter().take(count).collect())
        }
        _ => Plan::Nothing("it has as many Pods as it wants"),
    }
}

/// Why Pods could not be created or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// The status to write, and after which time it may change by itself.
pub fn status(
    snapshot: &Snapshot<'_>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let Snapshot { set, active, terminating, .. } = snapshot;
    let patience = SignedDuration::from_secs(i64::from(set.spec.min_ready_seconds));
    let (mut available, mut next) = (0, None::<Duration>);
    for pod in active.iter().filter(|pod| pod.ready) {
        let left = match pod.ready_since {
            _ if patience.is_zero() => SignedDuration::ZERO,
            Some(since) => patience - now.duration_since(since),
            // Without a time it never is.
            None => continue,
        };
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => next = Some(next.map_or(left, |other| other.min(left))),
            _ => available += 1,
        }
    }
    let labeled = |pod: &&Arc<PodObject>| {
        set.spec.template.labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
    };
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: count(active.iter().filter(labeled).count()),
        ready_replicas: count(active.iter().filter(|pod| pod.ready).count()),
        available_replicas: count(available),
        terminating_replicas: Some(count(*terminating)),
        observed_generation: set.metadata.generation,
        conditions: conditions(&set.status.conditions, failure, now),
    };
    (status, next)
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// A failure stays as it was first told, until there is none.
fn conditions(old: &[Condition], failure: Option<&Failure>, now: Timestamp) -> Vec<Condition> {
    let known = old.iter().any(|one| &*one.kind == FAILURE);
    let mut conditions = old.to_vec();
    match failure {
        None => conditions.retain(|one| &*one.kind != FAILURE),
        Some(failure) if !known => conditions.push(Condition {
            kind: FAILURE.into(),
            status: "True".into(),
            reason: failure.reason.into(),
            message: failure.message.as_str().into(),
            last_transition_time: Some(now),
            ..Condition::default()
        }),
        Some(_) => {}
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn set(replicas: i32, min_ready: i32) -> ReplicaSetObject {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "uid": "s", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": min_ready, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b", "c": "d"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, labels: Value, ready: Option<&str>) -> Arc<PodObject> {
        let conditions: Vec<Value> = ready
            .map(|since| json!({"type": "Ready", "status": "True", "lastTransitionTime": since}))
            .into_iter()
            .collect();
        let pod = json!({"metadata": {"name": name, "uid": name, "labels": labels}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": conditions}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn pods(count: usize) -> Vec<Arc<PodObject>> {
        (0..count).map(|i| pod(&format!("p{i}"), json!({"a": "b", "c": "d"}), None)).collect()
    }

    fn check(set: &ReplicaSetObject, have: usize, wanted: &Plan) {
        let active = pods(have);
        let snapshot = Snapshot { set, active: &active, terminating: 0, related: &[] };
        assert_eq!(plan(&snapshot, NOW.parse().unwrap()), *wanted);
    }

    #[test]
    fn missing_pods_are_created_and_surplus_ones_deleted() {
        check(&set(3, 0), 1, &Plan::Create(2));
        check(&set(3, 0), 3, &Plan::Nothing("it has as many Pods as it wants"));
        check(&set(1, 0), 3, &Plan::Delete(pods(2)));
        check(&set(2000, 0), 0, &Plan::Create(500));
        let mut leaving = set(3, 0);
        leaving.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH);
        check(&leaving, 0, &Plan::Nothing("it is being deleted"));
    }

    #[test]
    fn the_status_counts_pods_by_what_they_are() {
        let active = [
            pod("fresh", json!({"a": "b", "c": "d"}), Some("2026-01-01T00:00:55Z")),
            pod("old", json!({"a": "b", "c": "d"}), Some("2026-01-01T00:00:30Z")),
            pod("unready", json!({"a": "b"}), None),
        ];
        let told = |set: &ReplicaSetObject| {
            status(
                &Snapshot { set, active: &active, terminating: 2, related: &[] },
                None,
                NOW.parse().unwrap(),
            )
        };
        let (status, next) = told(&set(3, 20));
        let counts = (
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas,
            status.observed_generation,
        );
        assert_eq!(counts, (3, 2, 2, 1, Some(2), 3));
        assert_eq!(next, Some(Duration::from_secs(15)), "when the fresh one is available");
        let (status, next) = told(&set(3, 0));
        assert_eq!((status.available_replicas, next), (2, None));
    }

    #[test]
    fn a_failure_is_told_until_it_is_over() {
        let now = NOW.parse().unwrap();
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        let told = conditions(&[], Some(&failure), now);
        assert_eq!((&*told[0].reason, &*told[0].message), ("FailedCreate", "quota"));
        let again = Failure { message: "other".into(), ..failure };
        assert_eq!(conditions(&told, Some(&again), now), told, "the first words stay");
        assert_eq!(conditions(&told, None, now), []);
    }
}
