//! Statuses of containers.

use super::{Facts, time_of};
use crate::core::view::{Instance, State};
use crate::pod::{Kind, list, restarts, text};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// One container's status, with what it is.
#[derive(Debug, Clone)]
pub struct Stated {
    /// Its kind.
    pub kind: Kind,
    /// Its status.
    pub status: api::ContainerStatus,
    /// Whether it is started again when it has ended as it did.
    pub restarts: bool,
}

/// The statuses of all containers, in the Pod's order.
pub fn statuses(facts: &Facts<'_>) -> Vec<Stated> {
    facts.pod.containers().map(|(kind, container)| stated(facts, kind, container)).collect()
}

fn stated(facts: &Facts<'_>, kind: Kind, container: &api::Container) -> Stated {
    let runs: Vec<&Instance> = facts.view.instances.iter().filter(|one| one.name == container.name).collect();
    let mut status = match runs.first() {
        Some(newest) => of_run(facts, container, newest),
        None => of_none(facts, container),
    };
    if let Some(before) = runs.iter().skip(1).find(|one| one.state == State::Exited) {
        status.last_state = Some(terminated(facts, before));
    }
    let exit_code =
        status.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|one| one.exit_code);
    let restarts = exit_code.is_none_or(|code| restarts(facts.pod, kind, container, code));
    explain(facts, container, &mut status, restarts);
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let completed = status
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref())
        .is_some_and(|ended| ended.exit_code == 0);
    let found = runs.first().and_then(|one| facts.memory.probes.get(&one.id)).copied().unwrap_or_default();
    let started = running && (container.startup_probe.is_none() || found.startup == Some(true));
    status.started = Some(started);
    status.ready = match kind {
        Kind::Init => completed,
        Kind::Main | Kind::Sidecar => {
            started && (container.readiness_probe.is_none() || found.readiness == Some(true))
        }
        Kind::Ephemeral => false,
    };
    if kind == Kind::Ephemeral {
        status.started = None;
    }
    Stated { kind, status, restarts }
}

/// Of a container that the runtime knows nothing of.
fn of_none(facts: &Facts<'_>, container: &api::Container) -> api::ContainerStatus {
    let before = before(facts, &container.name);
    let mut status = api::ContainerStatus {
        name: container.name.clone(),
        image: text(&container.image).to_owned(),
        state: Some(waiting(default_wait(facts), "")),
        last_state: Some(api::ContainerState::default()),
        ..Default::default()
    };
    let Some(before) = before else { return status };
    status.restart_count = before.restart_count;
    let state = before.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        // The runtime has forgotten a run whose end was told; what was told stays true.
        return before.clone();
    }
    status.last_state = before.last_state.clone();
    if state.running.is_some() {
        // A run was told of and is gone without a trace.
        let gone = api::ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was terminated.  The container used to be Running"
                    .into(),
            ),
            ..Default::default()
        };
        let gone = api::ContainerState { terminated: Some(gone), ..Default::default() };
        status.restart_count += 1;
        match facts.is_terminal {
            true => status.state = Some(gone),
            false => status.last_state = Some(gone),
        }
    }
    status
}

fn before<'a>(facts: &Facts<'a>, name: &str) -> Option<&'a api::ContainerStatus> {
    let status = facts.before;
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flat_map(list)
        .find(|one| one.name == name)
}

fn default_wait(facts: &Facts<'_>) -> &'static str {
    if facts.pod.inits().is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn waiting(reason: &str, message: &str) -> api::ContainerState {
    let waiting = api::ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    api::ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn of_run(facts: &Facts<'_>, container: &api::Container, run: &Instance) -> api::ContainerStatus {
    let mut status = api::ContainerStatus {
        name: container.name.clone(),
        container_id: Some(format!("{}://{}", facts.runtime_name, run.id)),
        image: if run.image.is_empty() { text(&container.image).to_owned() } else { run.image.clone() },
        image_id: run.image_ref.clone(),
        restart_count: run.attempt as i32,
        last_state: Some(api::ContainerState::default()),
        volume_mounts: mounts(container),
        user: run.user.as_ref().map(|(uid, gid, groups)| api::ContainerUser {
            linux: Some(api::LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: Some(groups.clone()),
            }),
        }),
        ..Default::default()
    };
    status.state = Some(match run.state {
        State::Created => waiting(default_wait(facts), ""),
        State::Exited => terminated(facts, run),
        State::Running => {
            resources(container, run, &mut status);
            let running = api::ContainerStateRunning { started_at: Some(time_of(run.started_ns)) };
            api::ContainerState { running: Some(running), ..Default::default() }
        }
        State::Unknown => {
            let unknown = api::ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                container_id: status.container_id.clone(),
                ..Default::default()
            };
            api::ContainerState { terminated: Some(unknown), ..Default::default() }
        }
    });
    status
}

fn terminated(facts: &Facts<'_>, run: &Instance) -> api::ContainerState {
    let reason = match (run.reason.as_str(), run.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let started = if run.started_ns == 0 { run.created_ns } else { run.started_ns };
    let ended = api::ContainerStateTerminated {
        container_id: Some(format!("{}://{}", facts.runtime_name, run.id)),
        exit_code: run.exit_code,
        reason: Some(reason.to_owned()),
        message: (!run.message.is_empty()).then(|| run.message.clone()),
        started_at: Some(time_of(started)),
        finished_at: Some(time_of(run.finished_ns)),
        signal: None,
    };
    api::ContainerState { terminated: Some(ended), ..Default::default() }
}

/// Says why a container that should run does not.
fn explain(facts: &Facts<'_>, container: &api::Container, status: &mut api::ContainerStatus, restarts: bool) {
    let Some(failure) = facts.memory.failures.get(&container.name) else { return };
    let state = status.state.take().unwrap_or_default();
    if state.running.is_some() || (state.terminated.is_some() && !restarts) || facts.is_terminal {
        status.state = Some(state);
        return;
    }
    if state.terminated.is_some() {
        status.last_state = Some(state);
    }
    status.state = Some(waiting(&failure.reason, &failure.message));
}

fn mounts(container: &api::Container) -> Option<Vec<api::VolumeMountStatus>> {
    let mounts: Vec<_> = list(&container.volume_mounts)
        .iter()
        .map(|mount| api::VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: (mount.read_only == Some(true)).then(|| {
                let wanted = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
                if wanted == "IfPossible" { "Disabled".to_owned() } else { wanted.to_owned() }
            }),
            ..Default::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// What a running container was promised and what it has.
fn resources(container: &api::Container, run: &Instance, status: &mut api::ContainerStatus) {
    let spec = container.resources.clone().unwrap_or_default();
    status.allocated_resources = spec.requests.clone().filter(|requests| !requests.is_empty());
    let mut actual = api::ResourceRequirements { claims: None, ..spec };
    if let Some(limits) = &run.limits {
        let own = actual.limits.as_mut();
        if let Some(own) = own {
            if own.contains_key("cpu") && limits.cpu_quota > 0 && limits.cpu_period > 0 {
                let milli = limits.cpu_quota.saturating_mul(1000) / limits.cpu_period;
                if milli > 10 {
                    own.insert("cpu".into(), quantity_of_milli(milli));
                }
            }
            if limits.memory_bytes > 0
                && own.get("memory").and_then(bytes).is_some_and(|bytes| bytes != limits.memory_bytes)
            {
                own.insert("memory".into(), Quantity(limits.memory_bytes.to_string()));
            }
        }
    }
    status.resources = Some(actual);
}

fn quantity_of_milli(milli: i64) -> Quantity {
    Quantity(minik_apimachinery::quantity::Quantity::from_milli(milli).to_string())
}

fn bytes(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<minik_apimachinery::quantity::Quantity>().ok().map(|quantity| quantity.value())
}
