//! The taints that stand for a node's conditions. Pure.

use crate::objects::{NodeObject, Taint};
use jiff::Timestamp;

/// The node says that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node says nothing any more.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
/// The effect that evicts.
pub const NO_EXECUTE: &str = "NoExecute";

/// Condition, its status, and the key of the taint that stands for both.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Whether, and how, a node's Pods are to be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evict {
    /// No NoExecute taint of ours.
    No,
    /// This one: [`NOT_READY`] or [`UNREACHABLE`].
    By(&'static str),
    /// The one that is there already, as it is.
    AsIs,
}

/// All taints that a node should have; `None` when it has them.
pub fn plan(node: &NodeObject, evict: Evict, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(condition, status, _)| node.condition(condition).is_some_and(|one| &*one.status == *status))
        .map(|(_, _, key)| (*key, NO_SCHEDULE))
        .collect();
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    if let Evict::By(key) = evict {
        wanted.push((key, NO_EXECUTE));
    }
    let keep = |taint: &Taint| !is_ours(taint, evict) || wanted.contains(&(&*taint.key, &*taint.effect));
    let mut taints: Vec<Taint> = node.spec.taints.iter().filter(|taint| keep(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| (&*taint.key, &*taint.effect) == (key, effect)) {
            let value = "".into();
            taints.push(Taint { key: key.into(), value, effect: effect.into(), time_added: Some(now) });
        }
    }
    (taints != node.spec.taints).then_some(taints)
}

fn is_ours(taint: &Taint, evict: Evict) -> bool {
    let ours = |key: &str| BY_CONDITION.iter().any(|(_, _, one)| *one == key) || key == UNSCHEDULABLE;
    match &*taint.effect {
        NO_SCHEDULE => ours(&taint.key),
        NO_EXECUTE => evict != Evict::AsIs && matches!(&*taint.key, NOT_READY | UNREACHABLE),
        _ => false,
    }
}

/// The NoExecute taint of ours that a node has.
pub fn evicted_by(node: &NodeObject) -> Option<&'static str> {
    [NOT_READY, UNREACHABLE]
        .into_iter()
        .find(|key| node.spec.taints.iter().any(|taint| (&*taint.key, &*taint.effect) == (*key, NO_EXECUTE)))
}

/// The NoExecute taint that a node's Ready condition asks for.
pub fn asked_by(node: &NodeObject) -> Option<&'static str> {
    match node.ready()? {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)], unschedulable: bool) -> NodeObject {
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<Value> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints, "unschedulable": unschedulable}, "status": {"conditions": conditions}})).unwrap()
    }

    fn check(node: &NodeObject, evict: Evict, wanted: Option<&[(&str, &str)]>) {
        let plan = plan(node, evict, Timestamp::UNIX_EPOCH);
        let plan = plan
            .as_ref()
            .map(|taints| taints.iter().map(|taint| (&*taint.key, &*taint.effect)).collect::<Vec<_>>());
        assert_eq!(plan.as_deref(), wanted, "{node:?}");
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let new = [(NOT_READY, NO_SCHEDULE)];
        check(&node(&[("Ready", "True")], &new, false), Evict::No, Some(&[]));
        check(&node(&[("Ready", "False")], &new, false), Evict::AsIs, None);
        check(&node(&[], &new, false), Evict::No, Some(&[]));
        let mine = [("mine", NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)];
        check(
            &node(&[("Ready", "Unknown")], &mine, false),
            Evict::AsIs,
            Some(&[mine[0], mine[1], (UNREACHABLE, NO_SCHEDULE)]),
        );
        check(
            &node(&[("Ready", "True")], &mine, true),
            Evict::No,
            Some(&[mine[0], (UNSCHEDULABLE, NO_SCHEDULE)]),
        );
        let pressed = node(&[("Ready", "True"), ("DiskPressure", "True")], &[], false);
        check(&pressed, Evict::No, Some(&[("node.kubernetes.io/disk-pressure", NO_SCHEDULE)]));
        let swapped =
            node(&[("Ready", "False")], &[(UNREACHABLE, NO_EXECUTE), (NOT_READY, NO_SCHEDULE)], false);
        check(&swapped, Evict::By(NOT_READY), Some(&[(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]));
    }

    proptest! {
        /// Planning on its own result changes nothing, and no foreign taint is ever lost.
        #[test]
        fn a_plan_settles(ready in 0..4usize, evict in 0..4usize, unschedulable: bool, held in proptest::collection::vec((0..4usize, 0..3usize), 0..6)) {
            let keys = [NOT_READY, UNREACHABLE, UNSCHEDULABLE, "mine"];
            let effects = [NO_SCHEDULE, NO_EXECUTE, "PreferNoSchedule"];
            let mut held: Vec<_> = held.into_iter().map(|(key, effect)| (keys[key], effects[effect])).collect();
            held.sort();
            held.dedup();
            let conditions: &[(&str, &str)] = [&[][..], &[("Ready", "True")], &[("Ready", "False")], &[("Ready", "Unknown")]][ready];
            let evict = [Evict::No, Evict::AsIs, Evict::By(NOT_READY), Evict::By(UNREACHABLE)][evict];
            let mut node = node(conditions, &held, unschedulable);
            if let Some(taints) = plan(&node, evict, Timestamp::UNIX_EPOCH) {
                node.spec.taints = taints;
            }
            prop_assert_eq!(plan(&node, evict, Timestamp::UNIX_EPOCH), None);
            for (key, effect) in held {
                let foreign = key == "mine" || effect == "PreferNoSchedule";
                let kept = node.spec.taints.iter().any(|taint| (&*taint.key, &*taint.effect) == (key, effect));
                prop_assert!(kept || !foreign, "{} {} is lost", key, effect);
            }
        }
    }
}
