use super::*;
use crate::core::memory::{Failure, Found, Verdict};
use crate::core::view::{Instance, SandboxView, State};
use serde_json::json;

fn pod(spec: serde_json::Value) -> PodObject {
    let text =
        json!({"metadata": {"name": "p", "namespace": "s", "uid": "u", "generation": 1}, "spec": spec});
    serde_json::from_str(&text.to_string()).unwrap()
}

fn run(name: &str, state: State, exit_code: i32) -> Instance {
    Instance {
        id: name.into(),
        name: name.into(),
        state,
        exit_code,
        sandbox_id: "S".into(),
        ..Default::default()
    }
}

fn view(ready: bool, instances: Vec<Instance>) -> PodView {
    let sandbox = SandboxView { id: "S".into(), ready, ips: vec!["10.0.0.1".into()], ..Default::default() };
    PodView { sandboxes: vec![sandbox], instances }
}

fn of(pod: &PodObject, view: &PodView, memory: &Memory, is_terminal: bool) -> api::PodStatus {
    status(&Facts {
        pod,
        view,
        memory,
        before: &pod.status,
        host_ips: &["192.0.2.1".to_owned()],
        runtime_name: "minik",
        is_terminal,
        now: Timestamp::from_second(1_000).unwrap(),
    })
}

/// A status in one line: phase, then what is not plainly true, then the containers' states.
fn line(status: &api::PodStatus) -> String {
    let mut words = vec![status.phase.clone().unwrap_or_default()];
    words.extend(status.reason.clone());
    for one in list(&status.conditions) {
        let reason = one.reason.as_deref().unwrap_or_default();
        if one.status != "True" || !reason.is_empty() {
            words.push(format!("{}={}({reason})", one.type_, one.status));
        }
    }
    for one in list(&status.init_container_statuses).iter().chain(list(&status.container_statuses)) {
        let state = one.state.clone().unwrap_or_default();
        let what = match (&state.running, &state.waiting, &state.terminated) {
            (Some(_), ..) => "running".to_owned(),
            (_, Some(waiting), _) => waiting.reason.clone().unwrap_or_default(),
            (_, _, Some(ended)) => format!("{}{}", ended.reason.clone().unwrap_or_default(), ended.exit_code),
            _ => "none".to_owned(),
        };
        let last = one.last_state.clone().unwrap_or_default().terminated.map(|one| one.exit_code);
        let last = last.map(|code| format!(" after {code}")).unwrap_or_default();
        words.push(format!("{}:{what}{last}{}", one.name, if one.ready { " ready" } else { "" }));
    }
    words.join(" ")
}

use crate::pod::list;

fn check(spec: serde_json::Value, view: &PodView, memory: &Memory, is_terminal: bool, want: &str) {
    assert_eq!(line(&of(&pod(spec), view, memory, is_terminal)), want);
}

#[test]
fn statuses_are_as_recorded() {
    let none = Memory::default();
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let always = json!({"containers": [{"name": "c", "image": "i"}]});
    let unready = "ContainersReady=False(ContainersNotReady)";
    check(
        never.clone(),
        &view(false, vec![run("c", State::Exited, 0)]),
        &none,
        false,
        "Succeeded PodReadyToStartContainers=False(PodSandboxNotReady) Initialized=True(PodCompleted) \
         Ready=False(PodCompleted) ContainersReady=False(PodCompleted) c:Completed0",
    );
    check(
        never.clone(),
        &view(false, vec![run("c", State::Exited, 3)]),
        &none,
        false,
        "Failed PodReadyToStartContainers=False(PodSandboxNotReady) Ready=False(PodFailed) \
         ContainersReady=False(PodFailed) c:Error3",
    );
    check(
        always.clone(),
        &view(true, vec![run("c", State::Exited, 3)]),
        &none,
        false,
        &format!("Running Ready=False(ContainersNotReady) {unready} c:Error3"),
    );
    check(
        always.clone(),
        &view(true, vec![run("c", State::Running, 0)]),
        &none,
        false,
        "Running c:running ready",
    );
    let mut waits = Memory::default();
    waits.failures.insert("c".into(), Failure::new("CrashLoopBackOff", "x"));
    check(
        always.clone(),
        &view(true, vec![run("c", State::Exited, 3)]),
        &waits,
        false,
        &format!("Running Ready=False(ContainersNotReady) {unready} c:CrashLoopBackOff after 3"),
    );
    check(
        always,
        &PodView::default(),
        &none,
        false,
        &format!(
            "Pending PodReadyToStartContainers=False(PodSandboxNotReady) Ready=False(ContainersNotReady) \
             {unready} c:ContainerCreating"
        ),
    );
}

#[test]
fn init_containers_hold_up_the_rest() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
    check(
        spec,
        &view(true, vec![run("i", State::Exited, 4)]),
        &Memory::default(),
        false,
        "Pending Initialized=False(ContainersNotInitialized) Ready=False(ContainersNotReady) \
         ContainersReady=False(ContainersNotReady) i:Error4 c:PodInitializing",
    );
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    check(
        spec.clone(),
        &view(true, vec![run("s", State::Running, 0), run("c", State::Running, 0)]),
        &Memory::default(),
        false,
        "Running s:running ready c:running ready",
    );
    check(
        spec.clone(),
        &view(true, vec![run("s", State::Exited, 1), run("c", State::Running, 0)]),
        &Memory::default(),
        false,
        "Running Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) s:Error1 c:running ready",
    );
    check(
        spec,
        &view(false, vec![run("s", State::Exited, 137), run("c", State::Exited, 2)]),
        &Memory::default(),
        false,
        "Failed PodReadyToStartContainers=False(PodSandboxNotReady) Ready=False(PodFailed) \
         ContainersReady=False(PodFailed) s:Error137 c:Error2",
    );
}

#[test]
fn probes_and_gates_decide_readiness() {
    let spec = json!({"containers": [{"name": "c", "readinessProbe": {"exec": {}}}]});
    let running = view(true, vec![run("c", State::Running, 0)]);
    let unready =
        "Running Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) c:running";
    check(spec.clone(), &running, &Memory::default(), false, unready);
    let mut memory = Memory::default();
    memory.probes.insert("c".into(), Found { readiness: Some(true), ..Default::default() });
    check(spec, &running, &memory, false, "Running c:running ready");
    let gate =
        json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "example.com/ready"}]});
    let want = "Running Ready=False(ReadinessGatesNotReady) c:running ready";
    check(gate, &running, &Memory::default(), false, want);
}

#[test]
fn a_refused_pod_has_nothing_but_its_reason() {
    let verdict =
        Verdict { reason: "OutOfcpu".into(), message: "m".into(), refused: true, grace_seconds: None };
    let memory = Memory { verdict: Some(verdict), ..Memory::default() };
    let status = of(&pod(json!({"containers": [{"name": "c"}]})), &PodView::default(), &memory, false);
    assert_eq!(line(&status), "Failed OutOfcpu");
    assert!(status.conditions.is_none() && status.container_statuses.is_none() && status.host_ip.is_none());
}
