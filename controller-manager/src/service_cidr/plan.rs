//! What is to be done about one range.

use super::{FINALIZER, ServiceCidrObject};
use crate::node_ipam::Range;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a range that nothing depends on still waits: a server may give an address of it that has not heard of its end.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// What to do next; each write brings the range back.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// All is right.
    Nothing,
    /// Look again then.
    Wait(Duration),
    /// Have the finalizer, among these.
    Keep(Vec<Arc<str>>),
    /// Have these finalizers only.
    LetGo(Vec<Arc<str>>),
    /// Write this condition.
    Tell(Value),
}

/// What is to be done about a range, among all, with the addresses that are in use.
pub fn plan<'a>(
    range: &ServiceCidrObject,
    all: &[Arc<ServiceCidrObject>],
    addresses: impl Iterator<Item = &'a str>,
    now: Timestamp,
) -> Plan {
    let finalizers = &range.metadata.finalizers;
    let has_finalizer = finalizers.iter().any(|one| &**one == FINALIZER);
    let Some(asked) = range.metadata.deletion_timestamp else {
        return if has_finalizer {
            tell(range, "True", "", "Kubernetes Service CIDR is ready", now)
        } else {
            Plan::Keep(finalizers.iter().cloned().chain([FINALIZER.into()]).collect())
        };
    };
    if !has_finalizer {
        return Plan::Nothing;
    }
    if is_needed(range, all, addresses) {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return tell(range, "False", "Terminating", why, now);
    }
    match GRACE - now.duration_since(asked) {
        left if left.is_positive() => Plan::Wait(left.unsigned_abs()),
        _ => Plan::LetGo(finalizers.iter().filter(|one| &***one != FINALIZER).cloned().collect()),
    }
}

/// Whether an address is in use that only this range has.
fn is_needed<'a>(
    range: &ServiceCidrObject,
    all: &[Arc<ServiceCidrObject>],
    addresses: impl Iterator<Item = &'a str>,
) -> bool {
    let ranges = |one: &ServiceCidrObject| -> Vec<Range> {
        one.spec.cidrs.iter().filter_map(|cidr| Range::read(cidr)).collect()
    };
    let stays = |one: &&Arc<ServiceCidrObject>| {
        one.metadata.name != range.metadata.name && one.metadata.deletion_timestamp.is_none()
    };
    let own = ranges(range);
    let others: Vec<Range> = all.iter().filter(stays).flat_map(|one| ranges(one)).collect();
    let mut addresses = addresses.filter_map(|address| address.parse().ok());
    addresses.any(|address| {
        own.iter().any(|range| range.has(address)) && !others.iter().any(|range| range.has(address))
    })
}

fn tell(range: &ServiceCidrObject, status: &str, reason: &str, message: &str, now: Timestamp) -> Plan {
    let ready = range.status.conditions.iter().find(|one| &*one.kind == "Ready");
    if ready.is_some_and(|one| &*one.status == status && &*one.reason == reason) {
        return Plan::Nothing;
    }
    Plan::Tell(json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": Timestamp::from_second(now.as_second()).unwrap_or(now)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidr: &str) -> ServiceCidrObject {
        let object = json!({"metadata": {"name": name, "finalizers": ["x", FINALIZER]}, "spec": {"cidrs": [cidr]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": ""}]}});
        serde_json::from_value(object).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ending(name: &str, cidr: &str) -> ServiceCidrObject {
        let mut range = range(name, cidr);
        range.metadata.deletion_timestamp = Some(at(100));
        range
    }

    #[test]
    fn a_new_range_is_kept_and_told_ready() {
        let mut new = range("a", "10.0.0.0/24");
        assert_eq!(plan(&new, &[], [].into_iter(), at(0)), Plan::Nothing);
        new.status.conditions.clear();
        let Plan::Tell(condition) = plan(&new, &[], [].into_iter(), at(0)) else { panic!("tells nothing") };
        assert_eq!(
            (&condition["status"], &condition["lastTransitionTime"]),
            (&json!("True"), &json!("1970-01-01T00:00:00Z"))
        );
        new.metadata.finalizers.clear();
        assert_eq!(plan(&new, &[], [].into_iter(), at(0)), Plan::Keep(vec![FINALIZER.into()]));
    }

    #[test]
    fn a_range_goes_once_nothing_depends_on_it() {
        let one = ending("a", "10.0.0.0/24");
        let check = |others: &[Arc<ServiceCidrObject>], addresses: &[&str], second: i64| {
            plan(&one, others, addresses.iter().copied(), at(second))
        };
        let Plan::Tell(condition) = check(&[], &["10.0.0.7"], 200) else { panic!("it goes") };
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Terminating")));
        let gone = Plan::LetGo(vec!["x".into()]);
        assert_eq!(check(&[], &["10.0.1.7", "fd00::1"], 200), gone);
        assert_eq!(check(&[], &[], 103), Plan::Wait(Duration::from_secs(7)));
        let wider = Arc::new(range("b", "10.0.0.0/16"));
        assert_eq!(check(&[wider], &["10.0.0.7"], 200), gone);
        // One that goes too holds nothing.
        let other = Arc::new(ending("b", "10.0.0.0/16"));
        assert!(matches!(check(&[other], &["10.0.0.7"], 200), Plan::Tell(_)));
    }
}
