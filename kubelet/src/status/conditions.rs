//! A Pod's conditions.

use super::containers::Stated;
use super::{Facts, whole_seconds};
use crate::pod::{Kind, list};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that the kubelet writes; all others are somebody else's and are left alone.
pub const OWNED: [&str; 7] = [
    "PodResizePending",
    "PodResizeInProgress",
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
];

struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn new(is_true: bool, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { status: if is_true { "True" } else { "False" }, reason, message: message.into() }
    }
}

/// The kubelet's conditions, in a fixed order.
pub fn conditions(facts: &Facts<'_>, phase: &str, statuses: &[Stated]) -> Vec<api::PodCondition> {
    let containers_ready = containers_ready(phase, statuses);
    let all = [
        ("PodReadyToStartContainers", sandbox(facts)),
        ("Initialized", initialized(phase, statuses)),
        ("Ready", ready(facts, &containers_ready)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Condition::new(true, "", "")),
    ];
    let mut conditions: Vec<api::PodCondition> =
        all.into_iter().map(|(kind, condition)| of(facts, kind, condition)).collect();
    if let Some(why) = &facts.memory.resize {
        let mut pending = of(facts, "PodResizePending", Condition::new(true, "", why.message.clone()));
        pending.reason = Some(why.reason.clone());
        conditions.push(pending);
    }
    // What others said stays as it is.
    conditions.extend(
        list(&facts.pod.status.conditions).iter().filter(|one| !OWNED.contains(&one.type_.as_str())).cloned(),
    );
    conditions
}

fn of(facts: &Facts<'_>, kind: &str, condition: Condition) -> api::PodCondition {
    let before = list(&facts.before.conditions).iter().find(|one| one.type_ == kind);
    let since = match before {
        Some(before) if before.status == condition.status => before.last_transition_time.clone(),
        _ => Some(Time(whole_seconds(facts.now))),
    };
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    api::PodCondition {
        type_: kind.to_owned(),
        status: condition.status.to_owned(),
        reason: set(condition.reason),
        message: set(&condition.message),
        last_transition_time: since,
        last_probe_time: None,
        observed_generation: (facts.pod.meta.generation > 0).then_some(facts.pod.meta.generation),
    }
}

fn sandbox(facts: &Facts<'_>) -> Condition {
    let is_there =
        facts.view.ready_sandbox().is_some_and(|sandbox| facts.pod.host_network() || !sandbox.ips.is_empty());
    match is_there {
        true => Condition::new(true, "", ""),
        false => Condition::new(false, "PodSandboxNotReady", ""),
    }
}

fn initialized(phase: &str, statuses: &[Stated]) -> Condition {
    if phase == "Succeeded" {
        return Condition::new(true, "PodCompleted", "");
    }
    let main_began = statuses.iter().any(|one| {
        one.kind == Kind::Main && {
            let state = one.status.state.clone().unwrap_or_default();
            let last = one.status.last_state.clone().unwrap_or_default();
            state.running.is_some() || state.terminated.is_some() || last.terminated.is_some()
        }
    });
    let missing = names(statuses, |one| match one.kind {
        Kind::Init => !one.status.ready,
        Kind::Sidecar => one.status.started != Some(true),
        Kind::Main | Kind::Ephemeral => false,
    });
    if missing.is_empty() || main_began {
        return Condition::new(true, "", "");
    }
    Condition::new(
        false,
        "ContainersNotInitialized",
        format!("containers with incomplete status: [{}]", missing.join(" ")),
    )
}

fn names(statuses: &[Stated], is_meant: impl Fn(&Stated) -> bool) -> Vec<&str> {
    statuses.iter().filter(|one| is_meant(one)).map(|one| one.status.name.as_str()).collect()
}

fn containers_ready(phase: &str, statuses: &[Stated]) -> Condition {
    match phase {
        "Succeeded" => return Condition::new(false, "PodCompleted", ""),
        "Failed" => return Condition::new(false, "PodFailed", ""),
        _ => {}
    }
    let unready = names(statuses, |one| matches!(one.kind, Kind::Main | Kind::Sidecar) && !one.status.ready);
    match unready.is_empty() {
        true => Condition::new(true, "", ""),
        false => Condition::new(
            false,
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    }
}

fn ready(facts: &Facts<'_>, containers: &Condition) -> Condition {
    if containers.status != "True" {
        return Condition { status: "False", reason: containers.reason, message: containers.message.clone() };
    }
    let mut missing = Vec::new();
    for gate in list(&facts.pod.spec.readiness_gates) {
        let kind = &gate.condition_type;
        match list(&facts.pod.status.conditions).iter().find(|one| one.type_ == *kind) {
            None => {
                missing.push(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                ));
            }
            Some(one) if one.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                one.status
            )),
            Some(_) => {}
        }
    }
    match missing.is_empty() {
        true => Condition::new(true, "", ""),
        false => Condition::new(false, "ReadinessGatesNotReady", missing.join(", ")),
    }
}
