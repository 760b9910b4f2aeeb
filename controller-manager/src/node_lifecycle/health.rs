//! Whether a node is alive, by its Lease and its status. Pure.

use crate::config::NodeTimes;
use crate::objects::{Condition, NodeObject};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Conditions that nobody vouches for when the kubelet is silent.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last seen of a node.
#[derive(Debug, Clone)]
pub struct Seen {
    uid: Arc<str>,
    conditions: Vec<Condition>,
    renewed: Option<Arc<str>>,
    /// The last sign of life, by our own clock: a node's may be wrong.
    alive_at: Duration,
}

impl Seen {
    /// A node that is seen for the first time counts as alive now.
    pub fn first(node: &NodeObject, renewed: Option<Arc<str>>, now: Duration) -> Seen {
        Seen {
            uid: node.metadata.uid.clone(),
            conditions: node.status.conditions.clone(),
            renewed,
            alive_at: now,
        }
    }

    /// Looks again: a renewed Lease and a status with a new heartbeat are signs of life.
    pub fn look(&mut self, node: &NodeObject, renewed: Option<Arc<str>>, now: Duration) {
        if self.uid != node.metadata.uid {
            *self = Seen::first(node, renewed, now);
            return;
        }
        let heartbeat = |conditions: &[Condition]| {
            conditions.iter().find(|one| &*one.kind == "Ready").and_then(|one| one.last_heartbeat_time)
        };
        let told = heartbeat(&node.status.conditions) != heartbeat(&self.conditions);
        if told || (renewed.is_some() && renewed != self.renewed) {
            self.alive_at = now;
        }
        self.conditions.clone_from(&node.status.conditions);
        self.renewed = renewed;
    }

    /// Counts as alive now: after times in which nothing could be seen.
    pub fn forgive(&mut self, now: Duration) {
        self.alive_at = now;
    }

    /// When its silence has lasted too long.
    pub fn silent_at(&self, times: &NodeTimes) -> Duration {
        let new = !self.conditions.iter().any(|one| &*one.kind == "Ready");
        self.alive_at + if new { times.startup_grace_period } else { times.grace_period }
    }
}

/// The conditions to write of a node that is silent; `None` when they stand already.
pub fn unknown(node: &NodeObject, now: Timestamp) -> Option<Vec<Condition>> {
    let changed: Vec<Condition> = VOUCHED
        .iter()
        .filter_map(|kind| match node.condition(kind) {
            Some(one) if &*one.status == "Unknown" => None,
            Some(one) => Some(Condition {
                status: "Unknown".into(),
                reason: "NodeStatusUnknown".into(),
                message: "Kubelet stopped posting node status.".into(),
                last_transition_time: Some(now),
                ..one.clone()
            }),
            None => Some(Condition {
                kind: (*kind).into(),
                status: "Unknown".into(),
                reason: "NodeStatusNeverUpdated".into(),
                message: "Kubelet never posted node status.".into(),
                last_transition_time: Some(now),
                last_heartbeat_time: node.metadata.creation_timestamp,
                ..Condition::default()
            }),
        })
        .collect();
    (!changed.is_empty()).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(heartbeat: Option<&str>) -> NodeObject {
        let conditions =
            heartbeat.map(|at| json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": at}]));
        serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": conditions.unwrap_or(json!([]))}})).unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const T0: Option<&str> = Some("2026-01-01T00:00:00Z");
    const T1: Option<&str> = Some("2026-01-01T00:05:00Z");

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let times = NodeTimes::default();
        let mut seen = Seen::first(&node(None), None, seconds(0));
        assert_eq!(seen.silent_at(&times), seconds(60), "a new node may take longer");
        seen.look(&node(T0), None, seconds(10));
        assert_eq!(seen.silent_at(&times), seconds(60));
        seen.look(&node(T0), Some("a".into()), seconds(20));
        seen.look(&node(T0), Some("a".into()), seconds(30));
        assert_eq!(seen.silent_at(&times), seconds(70), "a lease was renewed at 20");
        seen.look(&node(T1), Some("a".into()), seconds(40));
        assert_eq!(seen.silent_at(&times), seconds(90), "its status was told at 40");
        seen.look(&node(T1), None, seconds(60));
        assert_eq!(seen.silent_at(&times), seconds(90), "a lease that is gone is no sign of life");
        let mut other = node(T1);
        other.metadata.uid = "v".into();
        seen.look(&other, None, seconds(80));
        assert_eq!(seen.silent_at(&times), seconds(130), "another node of the same name");
    }

    #[test]
    fn a_silent_node_is_unknown_and_is_told_once() {
        let mut silent = node(T0);
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let changed = unknown(&silent, now).unwrap();
        insta::assert_json_snapshot!(changed);
        silent.status.conditions = changed;
        assert_eq!(unknown(&silent, now), None);
    }
}
