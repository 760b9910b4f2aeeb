//! Runs the recorded Pods in a real cluster and compares where they settle with what a stock node showed
//! (`shared/upstream-1.37/pods.jsonl`; its README says how that was recorded).
//!
//! ```text
//!  pods.jsonl ──> create all ──> watch Pods and Events ──> observe ──> differences(recorded, observed)
//! ```
//!
//! All Pods run at once. They have settled when all agree at the same moment; the last differences are reported when
//! the limit passes before that.

use anyhow::{Context, Result};
use minik_client::call;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the cluster is looked at: the Pods take seconds to settle.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A recorded Pod.
#[derive(Debug, Clone, Deserialize)]
pub struct Recorded {
    /// What is created.
    pub pod: Value,
    /// Where it settled.
    pub observed: Observed,
}

/// What of a Pod's state is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Observed {
    /// `status.phase`.
    pub phase: String,
    /// `status.reason`.
    pub reason: Option<String>,
    /// `status.qosClass`.
    pub qos_class: String,
    /// Type, status and reason, sorted by type.
    pub conditions: Vec<(String, String, String)>,
    /// The ordinary containers.
    pub container_statuses: Vec<Container>,
    /// The init containers.
    pub init_container_statuses: Vec<Container>,
    /// Type and reason of each event, without repetitions.
    pub events: BTreeSet<(String, String)>,
}

/// What of a container's state is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its state now.
    pub state: State,
    /// How it ended before.
    pub last_state: State,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it has started.
    pub started: bool,
    /// Whether it was started more than once.
    pub restarted: bool,
}

/// A container's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct State {
    /// It waits, and why.
    pub waiting: Option<Why>,
    /// It runs.
    pub running: Option<Empty>,
    /// It ended, and how.
    pub terminated: Option<Why>,
}

/// Nothing that is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Empty {}

/// The reason of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Why {
    /// The reason.
    pub reason: String,
    /// The exit code, of what ended.
    pub exit_code: i64,
    /// The termination message, of what ended.
    #[serde(skip)]
    pub message: String,
}

/// How many agreed, and what the others differ in.
#[derive(Debug, Default)]
pub struct Report {
    /// Pods that agree.
    pub passed: usize,
    /// All Pods.
    pub total: usize,
    /// A line a difference, beginning with the Pod's name.
    pub differences: Vec<String>,
}

/// The node of the recording, as its Pods name it.
const RECORDED_NODE: &str = "n1";

/// Reads the recording, with `node` in the place of the node it was made on.
///
/// # Errors
/// The file cannot be read or is no recording.
pub fn read(file: &Path, node: &str) -> Result<Vec<Recorded>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    // As a node's name, and as what a command compares with.
    let text = text.replace(&format!("\"{RECORDED_NODE}\""), &format!("\"{node}\""));
    let text = text.replace(&format!("= {RECORDED_NODE} "), &format!("= {node} "));
    text.lines()
        .map(|line| {
            let mut recorded: Recorded = serde_json::from_str(line)?;
            let raw: Value = serde_json::from_str(line)?;
            messages(&raw["observed"], &mut recorded.observed);
            // Whether a Pod had to wait for room is a matter of the machine.
            recorded.observed.events.retain(|(_, reason)| reason != "FailedScheduling");
            Ok(recorded)
        })
        .collect()
}

/// Termination messages count only where the recording has one.
fn messages(raw: &Value, observed: &mut Observed) {
    for (index, container) in observed.container_statuses.iter_mut().enumerate() {
        let message = &raw["containerStatuses"][index]["state"]["terminated"]["message"];
        if let (Some(message), Some(ended)) = (message.as_str(), &mut container.state.terminated) {
            ended.message = message.to_owned();
        }
    }
}

/// Creates every Pod in a namespace and waits until all have settled as recorded, or until the limit.
///
/// # Errors
/// The cluster does not answer, or refuses a Pod.
pub async fn run(
    client: &kube::Client,
    namespace: &str,
    recorded: &[Recorded],
    limit: Duration,
) -> Result<Report> {
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    for one in recorded {
        let created: Result<Value, _> = call::post(client, &pods, &one.pod).await;
        created.with_context(|| format!("creating {}", one.pod["metadata"]["name"]))?;
    }
    let began = Instant::now();
    loop {
        let report = look(client, namespace, recorded).await?;
        if report.differences.is_empty() || began.elapsed() > limit {
            return Ok(report);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Compares all Pods now.
async fn look(client: &kube::Client, namespace: &str, recorded: &[Recorded]) -> Result<Report> {
    let pods: Value = call::get(client, &format!("/api/v1/namespaces/{namespace}/pods")).await?;
    let events: Value = call::get(client, &format!("/api/v1/namespaces/{namespace}/events")).await?;
    let empty = Vec::new();
    let pods = pods["items"].as_array().unwrap_or(&empty);
    let events = events["items"].as_array().unwrap_or(&empty);
    let mut report = Report { total: recorded.len(), ..Report::default() };
    for one in recorded {
        let name = &one.pod["metadata"]["name"];
        let found = pods.iter().find(|pod| pod["metadata"]["name"] == *name);
        let differences = match found {
            None => vec!["it is gone".to_owned()],
            Some(pod) => differences(&one.observed, &observe(pod, events)?),
        };
        report.passed += usize::from(differences.is_empty());
        let name = name.as_str().unwrap_or_default();
        report.differences.extend(differences.into_iter().map(|difference| format!("{name}: {difference}")));
    }
    Ok(report)
}

/// What a Pod and its events show.
///
/// # Errors
/// The status has not the shape of one.
pub fn observe(pod: &Value, events: &[Value]) -> Result<Observed> {
    let mut raw = pod["status"].clone();
    raw["conditions"] = sorted_conditions(&raw["conditions"]);
    let uid = &pod["metadata"]["uid"];
    let own = events.iter().filter(|event| event["involvedObject"]["uid"] == *uid);
    raw["events"] = own.map(|event| json!([event["type"], event["reason"]])).collect();
    for list in ["containerStatuses", "initContainerStatuses"] {
        for container in raw[list].as_array_mut().into_iter().flatten() {
            container["restarted"] = json!(container["restartCount"].as_i64().unwrap_or(0) > 0);
        }
        if raw[list].is_null() {
            raw[list] = json!([]);
        }
    }
    let mut observed: Observed = serde_json::from_value(raw.clone()).context("reading a Pod's status")?;
    messages(&raw, &mut observed);
    observed.events.retain(|(_, reason)| reason != "FailedScheduling");
    Ok(observed)
}

fn sorted_conditions(conditions: &Value) -> Value {
    let mut all: Vec<[&str; 3]> = conditions
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            ["type", "status", "reason"].map(|field| condition[field].as_str().unwrap_or_default())
        })
        .collect();
    all.sort_unstable();
    json!(all)
}

/// What differs, in sentences; empty when the Pod is as recorded.
pub fn differences(want: &Observed, seen: &Observed) -> Vec<String> {
    let mut all = Vec::new();
    let mut differ = |what: &str, want: &dyn std::fmt::Debug, seen: &dyn std::fmt::Debug| {
        all.push(format!("{what}: want {want:?}, seen {seen:?}"));
    };
    if (&want.phase, &want.reason) != (&seen.phase, &seen.reason) {
        differ("phase", &(&want.phase, &want.reason), &(&seen.phase, &seen.reason));
    }
    if want.qos_class != seen.qos_class {
        differ("qosClass", &want.qos_class, &seen.qos_class);
    }
    if want.conditions != seen.conditions {
        differ("conditions", &want.conditions, &seen.conditions);
    }
    if want.events != seen.events {
        differ("events", &want.events, &seen.events);
    }
    for (what, want, seen) in [
        ("containers", &want.container_statuses, &seen.container_statuses),
        ("init containers", &want.init_container_statuses, &seen.init_container_statuses),
    ] {
        let agree =
            want.len() == seen.len() && want.iter().zip(seen).all(|(want, seen)| same_container(want, seen));
        if !agree {
            differ(what, want, seen);
        }
    }
    all
}

/// A container that restarts may be seen in any of its recurring states.
fn same_container(want: &Container, seen: &Container) -> bool {
    if !want.restarted || !seen.restarted {
        return same_ended(want, seen);
    }
    let ends = |container: &Container| -> BTreeSet<(String, i64)> {
        let states = [&container.state, &container.last_state].into_iter();
        states
            .filter_map(|state| state.terminated.as_ref())
            .map(|why| (why.reason.clone(), why.exit_code))
            .collect()
    };
    let waits = seen.state.waiting.as_ref().is_none_or(|why| why.reason == "CrashLoopBackOff");
    want.name == seen.name && waits && ends(seen).is_subset(&ends(want))
}

fn same_ended(want: &Container, seen: &Container) -> bool {
    let mut seen = seen.clone();
    if let (Some(want), Some(ended)) = (&want.state.terminated, &mut seen.state.terminated)
        && want.message.is_empty()
    {
        ended.message.clear();
    }
    *want == seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: Value, restarts: u32) -> Value {
        json!({"name": "c", "state": state, "lastState": {}, "ready": false, "started": false, "restartCount": restarts})
    }

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "p", "uid": "u"}, "status": status})
    }

    #[test]
    fn a_pod_is_observed_as_the_recording_has_it() {
        let ended =
            json!({"terminated": {"reason": "Error", "exitCode": 3, "startedAt": "2026-01-01T00:00:00Z"}});
        let events = [
            json!({"type": "Normal", "reason": "Started", "involvedObject": {"uid": "u"}}),
            json!({"type": "Normal", "reason": "Started", "involvedObject": {"uid": "u"}}),
            json!({"type": "Normal", "reason": "Pulled", "involvedObject": {"uid": "another"}}),
        ];
        let status = json!({"phase": "Failed", "qosClass": "BestEffort", "containerStatuses": [container(ended, 0)],
            "conditions": [{"type": "Ready", "status": "False", "reason": "PodFailed"}, {"type": "Initialized", "status": "True"}]});
        let seen = observe(&pod(status), &events).unwrap();
        assert_eq!(seen.conditions[0].0, "Initialized");
        assert_eq!(seen.events.len(), 1);
        assert_eq!(seen.container_statuses[0].state.terminated.as_ref().unwrap().exit_code, 3);
        assert!(differences(&seen, &seen).is_empty());
    }

    #[test]
    fn a_restarting_container_may_be_in_any_recurring_state() {
        let seen = |state: Value, restarts: u32| {
            let status = json!({"phase": "Running", "containerStatuses": [container(state, restarts)]});
            observe(&pod(status), &[]).unwrap()
        };
        let recorded = seen(json!({"terminated": {"reason": "Error", "exitCode": 1}}), 2);
        let waiting = seen(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 3);
        let pulling = seen(json!({"waiting": {"reason": "ErrImagePull"}}), 3);
        let otherwise = seen(json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}}), 3);
        assert!(differences(&recorded, &waiting).is_empty());
        assert_eq!(differences(&recorded, &pulling).len(), 1);
        assert_eq!(differences(&recorded, &otherwise).len(), 1);
        assert_eq!(differences(&recorded, &seen(json!({"running": {}}), 0)).len(), 1);
    }
}
