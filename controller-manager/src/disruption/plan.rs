//! How many of a budget's Pods may be disrupted.

use super::{PdbObject, PdbStatus};
use crate::objects::{Condition, IntOrPercent, PodObject};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A Pod that may be evicted must be gone, or being deleted, within this time; else it counts again.
const EVICTED_WITHIN: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

/// What is decided on.
pub struct Snapshot<'a> {
    /// The budget.
    pub pdb: &'a PdbObject,
    /// The Pods that it selects.
    pub pods: &'a [Arc<PodObject>],
    /// How many Pods their owners ask for together; `None` when it does not matter.
    pub scale: Option<i32>,
}

/// What is to be told of a budget.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// What it should tell; `None` when it does.
    pub status: Option<PdbStatus>,
    /// When to look again.
    pub again: Option<Duration>,
    /// Pods that were to be gone and are not.
    pub overdue: Vec<Arc<str>>,
}

/// Whether the numbers depend on what the Pods' owners ask for.
pub fn needs_scale(pdb: &PdbObject) -> bool {
    pdb.spec.max_unavailable.is_some() || matches!(pdb.spec.min_available, Some(IntOrPercent::Percent(_)))
}

/// What is to be told of a budget now.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let Snapshot { pdb, pods, scale } = snapshot;
    let selected = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let expected = scale.unwrap_or(selected);
    let desired = match (&pdb.spec.max_unavailable, &pdb.spec.min_available) {
        (Some(most), _) => (expected - rounded_up(most, expected)).max(0),
        (None, Some(least)) => rounded_up(least, expected),
        (None, None) => 0,
    };
    // A budget that says nothing counts nothing, as upstream's.
    let expected =
        if pdb.spec.max_unavailable.is_none() && pdb.spec.min_available.is_none() { 0 } else { expected };
    let mut plan = Plan { status: None, again: None, overdue: Vec::new() };
    let mut disrupted = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = &pod.metadata.name;
        let Some(since) = pdb.status.disrupted_pods.get(name) else { continue };
        let age = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
        match EVICTED_WITHIN.checked_sub(age) {
            Some(left) => {
                disrupted.insert(name.clone(), *since);
                let left = left + Duration::from_secs(1);
                plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
            }
            None => plan.overdue.push(name.clone()),
        }
    }
    let healthy = |pod: &&Arc<PodObject>| {
        pod.ready && pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(&pod.metadata.name)
    };
    let healthy = i32::try_from(pods.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let mut status = PdbStatus {
        observed_generation: pdb.metadata.generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions: pdb.status.conditions.clone(),
    };
    let (met, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set(&mut status, met, reason, "", now);
    plan.status = (status != pdb.status).then_some(status);
    plan
}

/// What is told when the numbers cannot be known: nothing may be disrupted.
pub fn failed(pdb: &PdbObject, message: &str, now: Timestamp) -> Option<PdbStatus> {
    let mut status = PdbStatus { disruptions_allowed: 0, ..pdb.status.clone() };
    set(&mut status, "False", "SyncFailed", message, now);
    (status != pdb.status).then_some(status)
}

fn rounded_up(value: &IntOrPercent, of: i32) -> i32 {
    match value {
        IntOrPercent::Int(count) => *count,
        IntOrPercent::Percent(share) => {
            let scaled = i64::from(*share) * i64::from(of);
            i32::try_from(scaled.div_euclid(100) + i64::from(scaled.rem_euclid(100) > 0)).unwrap_or(i32::MAX)
        }
    }
}

fn set(status: &mut PdbStatus, met: &str, reason: &str, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    let old = status.conditions.iter().find(|one| &*one.condition.kind == ALLOWED);
    let same = old.filter(|old| &*old.condition.status == met);
    let condition = Condition {
        kind: ALLOWED.into(),
        status: met.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: same.map_or(Some(now), |old| old.condition.last_transition_time),
        ..Condition::default()
    };
    let fresh = super::PdbCondition { condition, observed_generation: generation };
    status.conditions.retain(|one| &*one.condition.kind != ALLOWED);
    status.conditions.push(fresh);
}
