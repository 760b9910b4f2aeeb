//! A Pod's status: pure, from the Pod, what the runtime has of it and what is remembered
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>).

mod conditions;
mod containers;
mod phase;
pub mod writer;

use crate::core::memory::Memory;
use crate::core::view::PodView;
use crate::pod::{Kind, PodObject};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a status is made from.
pub struct Facts<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// What the runtime has of it.
    pub view: &'a PodView,
    /// What its worker remembers.
    pub memory: &'a Memory,
    /// The status as it was told last; times of unchanged conditions are kept.
    pub before: &'a api::PodStatus,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The runtime's name, which container identities begin with.
    pub runtime_name: &'a str,
    /// Whether its end was decided and everything has stopped: nothing is started again.
    pub is_terminal: bool,
    /// The time.
    pub now: Timestamp,
}

/// The status.
pub fn status(facts: &Facts<'_>) -> api::PodStatus {
    let pod = facts.pod;
    let base = base(facts);
    if let Some(verdict) = facts.memory.verdict.as_ref().filter(|verdict| verdict.refused) {
        return api::PodStatus {
            phase: Some("Failed".into()),
            reason: Some(verdict.reason.clone()),
            message: Some(verdict.message.clone()),
            qos_class: Some(pod.qos().name().into()),
            start_time: base.start_time,
            observed_generation: base.observed_generation,
            ..api::PodStatus::default()
        };
    }
    let statuses = containers::statuses(facts);
    let phase = match &facts.memory.verdict {
        Some(_) => "Failed",
        None => phase::phase(pod, &statuses, facts.is_terminal),
    };
    // A Pod that has ended does not come back.
    let phase = match facts.before.phase.as_deref() {
        Some(before @ ("Succeeded" | "Failed")) => before,
        _ => phase,
    };
    let (reason, message) = match (&facts.memory.verdict, pod.has_ended()) {
        (Some(verdict), _) => (Some(verdict.reason.clone()), Some(verdict.message.clone())),
        (None, true) => (facts.before.reason.clone(), facts.before.message.clone()),
        (None, false) => (None, None),
    };
    let ips = ips(facts);
    let conditions = conditions::conditions(facts, phase, &statuses);
    let of = |wanted: &[Kind]| {
        let list: Vec<_> =
            statuses.iter().filter(|one| wanted.contains(&one.kind)).map(|one| one.status.clone()).collect();
        (!list.is_empty()).then_some(list)
    };
    api::PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| api::PodIP { ip: ip.clone() }).collect()),
        init_container_statuses: of(&[Kind::Init, Kind::Sidecar]),
        container_statuses: of(&[Kind::Main]),
        ephemeral_container_statuses: of(&[Kind::Ephemeral]),
        ..base
    }
}

/// What does not depend on containers.
fn base(facts: &Facts<'_>) -> api::PodStatus {
    let pod = facts.pod;
    let ips = facts.host_ips;
    api::PodStatus {
        host_ip: ips.first().cloned(),
        host_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| api::HostIP { ip: ip.clone() }).collect()),
        qos_class: Some(pod.qos().name().into()),
        start_time: facts.before.start_time.clone().or(Some(Time(whole_seconds(facts.now)))),
        observed_generation: (pod.meta.generation > 0).then_some(pod.meta.generation),
        ..api::PodStatus::default()
    }
}

/// The Pod's addresses: its sandbox's, its node's, or the last that were known.
fn ips(facts: &Facts<'_>) -> Vec<String> {
    if facts.pod.host_network() {
        return facts.host_ips.to_vec();
    }
    match facts.view.sandbox() {
        Some(sandbox) if sandbox.ready && !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => crate::pod::list(&facts.before.pod_ips).iter().map(|ip| ip.ip.clone()).collect(),
    }
}

/// A time without its fraction, as the API keeps it.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A time from the runtime's nanoseconds.
pub fn time_of(nanos: i64) -> Time {
    Time(Timestamp::from_second(nanos.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests;
