//! Which Pods are to be deleted. Pure.

use crate::ending::disrupted;
use crate::objects::{NodeObject, PodObject};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Too many have ended.
    Terminated,
    /// It is being deleted, and its node was declared out of service.
    OutOfService,
    /// Its node is gone.
    Orphaned,
    /// It was deleted before it had a node.
    Unscheduled,
}

/// A Pod that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    /// The Pod.
    pub pod: Arc<PodObject>,
    /// Why.
    pub cause: Cause,
}

/// What is decided on.
pub struct Snapshot<'a> {
    /// All Pods.
    pub pods: &'a [Arc<PodObject>],
    /// All nodes.
    pub nodes: &'a [Arc<NodeObject>],
    /// Nodes that are gone for sure.
    pub gone: &'a BTreeSet<Arc<str>>,
    /// Ended Pods that may stay; 0 for all.
    pub threshold: usize,
}

/// Nodes that Pods name and that are not known.
pub fn missing(pods: &[Arc<PodObject>], nodes: &[Arc<NodeObject>]) -> BTreeSet<Arc<str>> {
    let known: BTreeSet<&Arc<str>> = nodes.iter().map(|node| &node.metadata.name).collect();
    let named = pods.iter().map(|pod| &pod.node).filter(|node| !node.is_empty());
    named.filter(|node| !known.contains(node)).cloned().collect()
}

/// All that are to be deleted, each once.
pub fn plan(snapshot: &Snapshot<'_>) -> Vec<Doomed> {
    let out_of_service: BTreeSet<&Arc<str>> = snapshot
        .nodes
        .iter()
        .filter(|node| node.ready() != Some("True"))
        .filter(|node| node.spec.taints.iter().any(|taint| &*taint.key == OUT_OF_SERVICE))
        .map(|node| &node.metadata.name)
        .collect();
    let excess = excess(snapshot);
    let cause = |pod: &PodObject| {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        match () {
            () if !pod.node.is_empty() && snapshot.gone.contains(&pod.node) => Some(Cause::Orphaned),
            () if leaving && pod.node.is_empty() => Some(Cause::Unscheduled),
            () if leaving && out_of_service.contains(&pod.node) => Some(Cause::OutOfService),
            () if excess.contains(&pod.metadata.uid) => Some(Cause::Terminated),
            () => None,
        }
    };
    let doomed = |pod: &Arc<PodObject>| cause(pod).map(|cause| Doomed { pod: pod.clone(), cause });
    snapshot.pods.iter().filter_map(doomed).collect()
}

/// The uids of ended Pods above the threshold: evicted ones first, then the oldest.
fn excess(snapshot: &Snapshot<'_>) -> BTreeSet<Arc<str>> {
    if snapshot.threshold == 0 {
        return BTreeSet::new();
    }
    let mut ended: Vec<&Arc<PodObject>> = snapshot.pods.iter().filter(|pod| pod.has_ended()).collect();
    let count = ended.len().saturating_sub(snapshot.threshold);
    ended.sort_by_key(|pod| {
        let evicted = &*pod.phase == "Failed" && &*pod.reason == "Evicted";
        (!evicted, pod.metadata.creation_timestamp, pod.metadata.key())
    });
    ended.into_iter().take(count).map(|pod| pod.metadata.uid.clone()).collect()
}

/// The status that a Pod gets before it is deleted; `None` when it has ended and nothing is to be said.
pub fn last_status(pod: &PodObject, cause: Cause, now: Timestamp) -> Option<Value> {
    if pod.has_ended() {
        return None;
    }
    let mut status = json!({"phase": "Failed"});
    if cause == Cause::Orphaned {
        status["conditions"] = disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists", now);
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, leaving: bool) -> Value {
        let at = leaving.then_some("2026-01-01T00:00:00Z");
        json!({"metadata": {"name": name, "uid": name, "deletionTimestamp": at}, "spec": {"nodeName": node}, "status": {"phase": phase}})
    }

    fn check(pods: &[Value], gone: &[&str], threshold: usize, wanted: &[(&str, Cause)]) {
        let pods: Vec<Arc<PodObject>> =
            pods.iter().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect();
        let out = json!({"metadata": {"name": "out"}, "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        let nodes = [json!({"metadata": {"name": "n"}}), out]
            .map(|node| Arc::new(serde_json::from_value(node).unwrap()));
        let gone = gone.iter().map(|node| (*node).into()).collect();
        let doomed = plan(&Snapshot { pods: &pods, nodes: &nodes, gone: &gone, threshold });
        let found: Vec<_> = doomed.iter().map(|one| (&*one.pod.metadata.name, one.cause)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn pods_go_when_nobody_else_deletes_them() {
        check(&[pod("a", "n", "Running", false), pod("b", "", "Pending", false)], &[], 0, &[]);
        check(&[pod("a", "m", "Running", false)], &[], 0, &[]);
        check(&[pod("a", "m", "Running", true)], &["m"], 0, &[("a", Cause::Orphaned)]);
        check(&[pod("a", "", "Pending", true)], &[], 0, &[("a", Cause::Unscheduled)]);
        check(&[pod("a", "n", "Running", true)], &[], 0, &[]);
        check(
            &[pod("a", "out", "Running", true), pod("b", "out", "Running", false)],
            &[],
            0,
            &[("a", Cause::OutOfService)],
        );
    }

    #[test]
    fn of_too_many_that_ended_the_evicted_and_the_oldest_go() {
        let aged = |name: &str, phase: &str, at: &str, reason: &str| {
            let mut pod = pod(name, "n", phase, false);
            pod["metadata"]["creationTimestamp"] = at.into();
            pod["status"]["reason"] = reason.into();
            pod
        };
        let pods = [
            aged("old", "Succeeded", "2026-01-01T00:00:00Z", ""),
            aged("new", "Failed", "2026-01-03T00:00:00Z", ""),
            aged("evicted", "Failed", "2026-01-04T00:00:00Z", "Evicted"),
            aged("runs", "Running", "2025-01-01T00:00:00Z", ""),
        ];
        check(&pods, &[], 3, &[]);
        check(&pods, &[], 2, &[("evicted", Cause::Terminated)]);
        check(&pods, &[], 1, &[("old", Cause::Terminated), ("evicted", Cause::Terminated)]);
    }

    #[test]
    fn missing_nodes_are_those_that_pods_name() {
        let pods = [pod("a", "n", "", false), pod("b", "m", "", false), pod("c", "", "", false)]
            .map(|pod| Arc::new(serde_json::from_value(pod).unwrap()));
        let nodes = [Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap())];
        assert_eq!(missing(&pods, &nodes), BTreeSet::from(["m".into()]));
    }

    #[test]
    fn a_pod_that_has_not_ended_is_told_to_have_failed() {
        let running: PodObject = serde_json::from_value(pod("a", "m", "Running", false)).unwrap();
        let status = last_status(&running, Cause::Orphaned, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (&status["phase"], &status["conditions"][0]["reason"]),
            (&json!("Failed"), &json!("DeletionByPodGC"))
        );
        let ended: PodObject = serde_json::from_value(pod("a", "m", "Succeeded", false)).unwrap();
        assert_eq!(last_status(&ended, Cause::Orphaned, Timestamp::UNIX_EPOCH), None);
    }
}
