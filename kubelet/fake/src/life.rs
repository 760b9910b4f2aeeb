//! What a Pod is, what it does next, and the status that says so: pure.

use crate::rules::Rule;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use minik_client::{Meta, Projection};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// A kubelet's waits between restarts of a container that ends: the first, doubled up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// What is read of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FakePod {
    /// Its metadata.
    pub metadata: Meta,
    /// What it asks for.
    pub spec: Spec,
    /// How it is.
    pub status: Status,
}

/// What a Pod asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Its node.
    pub node_name: Arc<str>,
    /// Whether containers that end are started again.
    pub restart_policy: Arc<str>,
    /// Whether it has its node's addresses.
    pub host_network: bool,
    /// Its containers.
    pub containers: Vec<Container>,
    /// What runs before them, or beside them.
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// Its image.
    pub image: Arc<str>,
    /// `Always` for a sidecar.
    pub restart_policy: Arc<str>,
}

/// How a Pod is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Its phase.
    pub phase: Arc<str>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Arc<str>,
    /// When its node took it.
    pub start_time: Option<Timestamp>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Its containers.
    pub container_statuses: Vec<ContainerStatus>,
}

/// A condition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// `True` or `False`.
    pub status: Arc<str>,
    /// Since when.
    pub last_transition_time: Option<Timestamp>,
}

/// How a container is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// How often it was started again.
    pub restart_count: i32,
    /// Its state.
    pub state: api::ContainerState,
}

impl Projection for FakePod {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// How far a Pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its node has not looked at it.
    Bound,
    /// Its containers are being made.
    Creating,
    /// They never will be.
    Stuck,
    /// They run and are not ready.
    Started,
    /// They run and are ready.
    Ready,
    /// They ended and will be started again.
    BackOff,
    /// They ended for good.
    Ended,
    /// Its deletion was asked for.
    Leaving,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until somebody changes the Pod.
    Rest,
    /// Nothing for so long.
    Wait(Duration),
    /// It is as this stage says.
    Become(Stage),
    /// It is gone.
    Remove,
}

impl FakePod {
    /// Images of its containers.
    pub fn images(&self) -> Vec<Arc<str>> {
        self.spec.init_containers.iter().chain(&self.spec.containers).map(|one| one.image.clone()).collect()
    }

    /// How far it is, by its status.
    pub fn stage(&self) -> Stage {
        if self.metadata.deletion_timestamp.is_some() {
            return Stage::Leaving;
        }
        let waits = |reason: &str| {
            let mut waiting =
                self.status.container_statuses.iter().filter_map(|one| one.state.waiting.as_ref());
            waiting.any(|state| state.reason.as_deref() == Some(reason))
        };
        match &*self.status.phase {
            "Succeeded" | "Failed" => Stage::Ended,
            "Running" if waits("CrashLoopBackOff") => Stage::BackOff,
            "Running" if self.is_true("Ready") => Stage::Ready,
            "Running" => Stage::Started,
            _ if self.status.start_time.is_none() => Stage::Bound,
            _ if waits("ContainerCreating") => Stage::Creating,
            _ => Stage::Stuck,
        }
    }

    fn is_true(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|one| &*one.kind == condition && &*one.status == "True")
    }

    fn restarts(&self) -> i32 {
        self.status.container_statuses.iter().map(|one| one.restart_count).max().unwrap_or(0)
    }
}

/// What a Pod does next that has been in its stage for `held`; `share` of the jitter, 0 to 1, is its own.
pub fn next(pod: &FakePod, rule: &Rule, held: Duration, share: f64) -> Step {
    let run = || match rule.ready_after(share).is_zero() {
        true => Stage::Ready,
        false => Stage::Started,
    };
    let after = |time: Duration, step: Step| match time.checked_sub(held).filter(|left| !left.is_zero()) {
        Some(left) => Step::Wait(left),
        None => step,
    };
    match pod.stage() {
        Stage::Bound if rule.waiting.is_some() => Step::Become(Stage::Stuck),
        Stage::Bound if rule.start_after(share).is_zero() => Step::Become(run()),
        Stage::Bound => Step::Become(Stage::Creating),
        Stage::Creating => after(rule.start_after(share), Step::Become(run())),
        Stage::Stuck | Stage::Ended => Step::Rest,
        Stage::Started => match rule.run_for(share).filter(|end| *end <= rule.ready_after(share)) {
            Some(end) => after(end, Step::Become(ended(pod, rule))),
            None => after(rule.ready_after(share), Step::Become(Stage::Ready)),
        },
        Stage::Ready => match rule.run_for(share) {
            Some(end) => after(end.saturating_sub(rule.ready_after(share)), Step::Become(ended(pod, rule))),
            None => Step::Rest,
        },
        Stage::BackOff => {
            let doubled = FIRST_BACKOFF.saturating_mul(1 << pod.restarts().clamp(0, 6));
            after(doubled.min(LONGEST_BACKOFF), Step::Become(run()))
        }
        Stage::Leaving => {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0).unsigned_abs();
            after(rule.stop_after(share).min(Duration::from_secs(grace)), Step::Remove)
        }
    }
}

fn ended(pod: &FakePod, rule: &Rule) -> Stage {
    match &*pod.spec.restart_policy {
        "Never" => Stage::Ended,
        "OnFailure" if rule.exit_code == 0 => Stage::Ended,
        _ => Stage::BackOff,
    }
}

/// Where a Pod is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its own address.
    pub pod: String,
    /// Its node's.
    pub host: String,
}

/// The status of a Pod that has come to a stage.
pub fn status(pod: &FakePod, rule: &Rule, stage: Stage, place: &Place, now: Timestamp) -> api::PodStatus {
    let runs = matches!(stage, Stage::Started | Stage::Ready | Stage::BackOff);
    let phase = match stage {
        Stage::Ended if rule.exit_code == 0 => "Succeeded",
        Stage::Ended => "Failed",
        _ if runs => "Running",
        _ => "Pending",
    };
    let ready = stage == Stage::Ready;
    let restarts = pod.restarts() + i32::from(pod.stage() == Stage::BackOff && runs);
    let state = state(pod, rule, stage, now);
    let container = |one: &Container, ready: bool, state: &api::ContainerState| api::ContainerStatus {
        name: one.name.to_string(),
        image: one.image.to_string(),
        image_id: if runs { format!("fake://{}", one.image) } else { String::new() },
        container_id: runs.then(|| format!("fake://{}-{}-{restarts}", pod.metadata.uid, one.name)),
        ready,
        started: Some(matches!(stage, Stage::Started | Stage::Ready)),
        restart_count: restarts,
        state: Some(state.clone()),
        ..Default::default()
    };
    let done = api::ContainerState { terminated: Some(terminated(0, now)), ..Default::default() };
    let init = |one: &Container| match &*one.restart_policy {
        "Always" => container(one, ready, &state),
        _ if runs || stage == Stage::Ended => container(one, true, &done),
        _ => container(one, false, &state),
    };
    let inits: Vec<_> = pod.spec.init_containers.iter().map(init).collect();
    let address = (stage != Stage::Bound && (runs || stage == Stage::Ended)).then(|| place.pod.clone());
    api::PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, stage, now)),
        host_ip: Some(place.host.clone()),
        host_ips: Some(vec![api::HostIP { ip: place.host.clone() }]),
        pod_ips: address.clone().map(|ip| vec![api::PodIP { ip }]),
        pod_ip: address,
        start_time: Some(Time(pod.status.start_time.unwrap_or(now))),
        observed_generation: Some(pod.metadata.generation),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(
            pod.spec.containers.iter().map(|one| container(one, ready, &state)).collect(),
        ),
        ..Default::default()
    }
}

fn state(pod: &FakePod, rule: &Rule, stage: Stage, now: Timestamp) -> api::ContainerState {
    let waiting = |reason: &str| api::ContainerState {
        waiting: Some(api::ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }),
        ..Default::default()
    };
    match stage {
        Stage::Started | Stage::Ready => {
            let ran = pod.status.container_statuses.iter().find_map(|one| one.state.running.clone());
            let begun = api::ContainerStateRunning { started_at: Some(Time(now)) };
            api::ContainerState { running: Some(ran.unwrap_or(begun)), ..Default::default() }
        }
        Stage::Ended => {
            api::ContainerState { terminated: Some(terminated(rule.exit_code, now)), ..Default::default() }
        }
        Stage::BackOff => waiting("CrashLoopBackOff"),
        Stage::Stuck => waiting(rule.waiting.as_deref().unwrap_or("ContainerCreating")),
        Stage::Bound | Stage::Creating | Stage::Leaving => waiting("ContainerCreating"),
    }
}

fn terminated(exit_code: i32, now: Timestamp) -> api::ContainerStateTerminated {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    api::ContainerStateTerminated {
        exit_code,
        reason: Some(reason.to_owned()),
        finished_at: Some(Time(now)),
        ..Default::default()
    }
}

/// The conditions that a kubelet answers for; one that stays as it was keeps its time.
fn conditions(pod: &FakePod, stage: Stage, now: Timestamp) -> Vec<api::PodCondition> {
    let runs = matches!(stage, Stage::Started | Stage::Ready | Stage::BackOff);
    let unready = (stage == Stage::Ended).then_some("PodCompleted").or(Some("ContainersNotReady"));
    let ready = stage == Stage::Ready;
    let all = [
        ("PodReadyToStartContainers", runs, None),
        ("Initialized", runs || stage == Stage::Ended, None),
        ("Ready", ready, unready),
        ("ContainersReady", ready, unready),
    ];
    all.map(|(kind, value, reason)| {
        let status = if value { "True" } else { "False" };
        let before = pod.status.conditions.iter().find(|one| &*one.kind == kind && &*one.status == status);
        api::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.filter(|_| !value).map(str::to_owned),
            last_transition_time: Some(Time(before.and_then(|one| one.last_transition_time).unwrap_or(now))),
            observed_generation: Some(pod.metadata.generation),
            ..Default::default()
        }
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rules;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn pod(policy: &str) -> FakePod {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"nodeName": "fake-0", "restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}
        });
        serde_json::from_value(pod).unwrap()
    }

    fn rule(text: &str) -> Rule {
        Rules::parse(&format!("rules:\n- {{{text}}}\n")).unwrap().rules.remove(0)
    }

    /// The Pod once it has come to a stage, as the API would show it.
    fn come(pod: &FakePod, rule: &Rule, stage: Stage) -> FakePod {
        let place = Place { pod: "100.64.0.1".into(), host: "198.18.0.1".into() };
        let status = serde_json::to_value(status(pod, rule, stage, &place, NOW)).unwrap();
        let after = FakePod { status: serde_json::from_value(status).unwrap(), ..pod.clone() };
        assert_eq!(after.stage(), stage);
        after
    }

    /// Walks a Pod through its life: seconds that pass, and the stages.
    fn life(policy: &str, text: &str, steps: usize) -> Vec<(u64, Stage)> {
        let (rule, mut pod) = (rule(text), pod(policy));
        let (mut held, mut passed, mut seen) = (Duration::ZERO, 0, Vec::new());
        while seen.len() < steps {
            match next(&pod, &rule, held, 0.0) {
                Step::Wait(wait) => {
                    held += wait;
                    passed += wait.as_secs();
                }
                Step::Become(stage) => {
                    pod = come(&pod, &rule, stage);
                    held = Duration::ZERO;
                    seen.push((passed, stage));
                }
                Step::Rest | Step::Remove => break,
            }
        }
        seen
    }

    #[test]
    fn without_a_rule_it_runs_at_once() {
        assert_eq!(life("Always", "", 9), [(0, Stage::Ready)]);
    }

    #[test]
    fn delays_are_kept() {
        let seen = life("Never", "startAfter: 2, readyAfter: 3, runFor: 10, exitCode: 1", 9);
        let stages = [(0, Stage::Creating), (2, Stage::Started), (5, Stage::Ready), (12, Stage::Ended)];
        assert_eq!(seen, stages);
    }

    #[test]
    fn what_ends_early_is_started_again_with_growing_waits() {
        let seen = life("Always", "runFor: 1", 5);
        let stages = [
            (0, Stage::Ready),
            (1, Stage::BackOff),
            (11, Stage::Ready),
            (12, Stage::BackOff),
            (32, Stage::Ready),
        ];
        assert_eq!(seen, stages);
        assert_eq!(life("OnFailure", "runFor: 1", 5), [(0, Stage::Ready), (1, Stage::Ended)]);
    }

    #[test]
    fn a_bad_image_stays() {
        assert_eq!(life("Always", "waiting: ErrImagePull", 9), [(0, Stage::Stuck)]);
    }

    #[test]
    fn a_deleted_pod_goes_within_its_grace_period() {
        let mut leaving = come(&pod("Always"), &Rule::default(), Stage::Ready);
        leaving.metadata.deletion_timestamp = Some(NOW);
        leaving.metadata.deletion_grace_period_seconds = Some(3);
        assert_eq!(next(&leaving, &Rule::default(), Duration::ZERO, 0.0), Step::Remove);
        let slow = rule("stopAfter: 60");
        assert_eq!(next(&leaving, &slow, Duration::ZERO, 0.0), Step::Wait(Duration::from_secs(3)));
        assert_eq!(next(&leaving, &slow, Duration::from_secs(3), 0.0), Step::Remove);
    }
}
