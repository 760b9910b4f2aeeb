//! A Pod's row in a Table.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use crate::table::{Column, age, ago, none};
use crate::view::{items, text, try_view, yes};

pub(crate) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "How many of the containers are ready."),
    Column::text("Status", "The phase, or what keeps the Pod from running."),
    Column::text("Restarts", "How often containers were restarted, and when the last time."),
    Column::AGE,
    Column::text("IP", "The Pod's address.").wide(),
    Column::text("Node", "The node that runs the Pod.").wide(),
    Column::text("Nominated Node", "The node on which room is being made for the Pod.").wide(),
    Column::text("Readiness Gates", "How many of the gates are open.").wide(),
];

/// Rows of Pods that have ended bear a condition.
pub(crate) fn conditions(obj: &Value) -> Vec<Value> {
    let completed = |reason: &str, message: &str| {
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    };
    match crate::view::str_at(obj, &["status", "phase"]) {
        "Succeeded" => completed("Succeeded", "All containers have ended well."),
        "Failed" => completed("Failed", "A container has failed."),
        _ => Vec::new(),
    }
}

/// What is counted and found while looking at the containers.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn add_restarts(&mut self, status: &api::ContainerStatus) {
        self.restarts += i64::from(status.restart_count);
        self.last_restart = self.last_restart.max(last_end(status));
    }
}

fn last_end(status: &api::ContainerStatus) -> Option<Timestamp> {
    let ended = status.last_state.as_ref()?.terminated.as_ref()?;
    Some(ended.finished_at.as_ref()?.0)
}

pub(crate) fn cells(obj: &Value, now: Timestamp) -> Vec<Value> {
    let Some(pod) = try_view::<api::Pod>(obj) else { return Vec::new() };
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let sidecars = items(&spec.init_containers).iter().filter(|one| is_sidecar(one)).count();
    let mut summary = summarize(&spec, &status);
    let phase = text(&status.phase);
    if pod.metadata.deletion_timestamp.is_some() {
        if text(&status.reason) == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if phase != "Failed" && phase != "Succeeded" {
            summary.reason = "Terminating".into();
        }
    }
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, ago(last, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = items(&status.pod_ips).first().map_or("", |ip| ip.ip.as_str());
    vec![
        json!(pod.metadata.name),
        format!("{}/{}", summary.ready, spec.containers.len() + sidecars).into(),
        summary.reason.into(),
        restarts.into(),
        age(obj, now),
        none(ip),
        none(text(&spec.node_name)),
        none(text(&status.nominated_node_name)),
        gates(&spec, &status).into(),
    ]
}

fn gates(spec: &api::PodSpec, status: &api::PodStatus) -> String {
    let gates = items(&spec.readiness_gates);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| condition(status, &gate.condition_type) == Some("True")).count();
    format!("{open}/{}", gates.len())
}

fn condition<'a>(status: &'a api::PodStatus, kind: &str) -> Option<&'a str> {
    items(&status.conditions).iter().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

fn is_sidecar(container: &api::Container) -> bool {
    text(&container.restart_policy) == "Always"
}

fn summarize(spec: &api::PodSpec, status: &api::PodStatus) -> Summary {
    let mut summary = Summary { reason: text(&status.phase).to_owned(), ..Summary::default() };
    if !text(&status.reason).is_empty() {
        summary.reason = text(&status.reason).to_owned();
    }
    let gated =
        |one: &api::PodCondition| one.type_ == "PodScheduled" && text(&one.reason) == "SchedulingGated";
    if items(&status.conditions).iter().any(gated) {
        summary.reason = "SchedulingGated".into();
    }
    let sidecars = initialize(spec, status, &mut summary);
    if let Some(sidecars) = sidecars {
        // Initialized: what counts from here on are sidecars and ordinary containers.
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        run(status, &mut summary);
    }
    summary
}

/// Looks at the init containers; gives the restarts of sidecars once they are done.
fn initialize(spec: &api::PodSpec, status: &api::PodStatus, summary: &mut Summary) -> Option<Summary> {
    let known: BTreeMap<&str, &api::Container> =
        items(&spec.init_containers).iter().map(|one| (one.name.as_str(), one)).collect();
    let mut sidecars = Summary::default();
    let mut initializing = false;
    for (i, one) in items(&status.init_container_statuses).iter().enumerate() {
        summary.add_restarts(one);
        let sidecar = known.get(one.name.as_str()).is_some_and(|container| is_sidecar(container));
        if sidecar {
            sidecars.add_restarts(one);
        }
        let state = one.state.clone().unwrap_or_default();
        let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
        match &state.terminated {
            Some(ended) if ended.exit_code == 0 => continue,
            _ if sidecar && yes(&one.started) => {
                summary.ready += usize::from(one.ready);
                continue;
            }
            Some(ended) => summary.reason = format!("Init:{}", end_reason(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                summary.reason = format!("Init:{waiting}");
            }
            None => summary.reason = format!("Init:{i}/{}", items(&spec.init_containers).len()),
        }
        initializing = true;
        break;
    }
    let initialized = condition(status, "Initialized") == Some("True");
    (!initializing || initialized).then_some(sidecars)
}

fn end_reason(ended: &api::ContainerStateTerminated) -> String {
    match (text(&ended.reason), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn run(status: &api::PodStatus, summary: &mut Summary) {
    let (mut running, mut failure) = (false, String::new());
    for one in items(&status.container_statuses).iter().rev() {
        summary.add_restarts(one);
        let state = one.state.clone().unwrap_or_default();
        let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(ended) = &state.terminated {
            summary.reason = end_reason(ended);
            if ended.exit_code != 0 {
                failure = summary.reason.clone();
            }
        } else if one.ready && state.running.is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition(status, "Ready") == Some("True") {
            summary.reason = "Running".into();
        } else if !failure.is_empty() {
            summary.reason = failure;
        } else if running {
            summary.reason = "NotReady".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, status: Value, want: [&str; 3]) {
        let pod = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": status});
        let cells = cells(&pod, "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(
            [&cells[1], &cells[2], &cells[3]],
            want.map(Value::from).iter().collect::<Vec<_>>()[..],
            "{pod}"
        );
    }

    #[test]
    fn the_status_tells_what_keeps_the_pod() {
        let one = json!({"containers": [{"name": "a"}]});
        let state = |state: Value| {
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": state, "image": "", "imageID": "", "restartCount": 0,
            "ready": state.get("running").is_some()}]})
        };
        check(one.clone(), json!({"phase": "Pending"}), ["0/1", "Pending", "0"]);
        check(one.clone(), state(json!({"running": {}})), ["1/1", "Running", "0"]);
        check(
            one.clone(),
            state(json!({"waiting": {"reason": "CrashLoopBackOff"}})),
            ["0/1", "CrashLoopBackOff", "0"],
        );
        check(one.clone(), state(json!({"terminated": {"exitCode": 3}})), ["0/1", "ExitCode:3", "0"]);
        check(
            one.clone(),
            state(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
            ["0/1", "Error", "0"],
        );
        check(one, json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]);
    }

    #[test]
    fn init_containers_and_sidecars_count() {
        let spec = json!({"containers": [{"name": "a"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let init = |i: Value, s: Value| {
            json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": i, "image": "", "imageID": "", "ready": false, "restartCount": 2,
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:30Z"}}},
            {"name": "s", "state": s, "image": "", "imageID": "", "ready": true, "started": true, "restartCount": 0}]})
        };
        check(spec.clone(), init(json!({"running": {}}), json!({})), ["0/2", "Init:0/2", "2 (30s ago)"]);
        check(
            spec.clone(),
            init(json!({"terminated": {"exitCode": 0}}), json!({"running": {}})),
            ["1/2", "Pending", "0"],
        );
        check(
            spec,
            init(json!({"terminated": {"exitCode": 5}}), json!({})),
            ["0/2", "Init:ExitCode:5", "2 (30s ago)"],
        );
    }
}
