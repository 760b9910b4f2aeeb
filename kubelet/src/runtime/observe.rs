//! Looking at what the runtime has of a Pod.

use super::{Runtime, RuntimeError};
use crate::core::view::{Instance, Limits, PodView, SandboxView, State};
use crate::logs;
use crate::names;
use minik_cri::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most of a container's last words.
const MESSAGE_BYTES: usize = 4096;
/// The most of its log that stands for last words.
const MESSAGE_LOG_BYTES: usize = 2048;
const MESSAGE_LOG_LINES: usize = 80;

/// Looks at one Pod; what cannot have changed is not asked for again.
#[derive(Default)]
pub struct Observer {
    sandboxes: HashMap<String, SandboxView>,
    instances: HashMap<String, Instance>,
}

impl Observer {
    /// What the runtime has of the Pod now.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn observe(&mut self, runtime: &dyn Runtime, uid: &str) -> Result<PodView, RuntimeError> {
        let (sandboxes, containers) =
            futures::try_join!(runtime.sandboxes(Some(uid)), runtime.containers(Some(uid)))?;
        let mut view = PodView::default();
        for sandbox in sandboxes {
            if let Some(sandbox) = self.sandbox(runtime, &sandbox).await? {
                view.sandboxes.push(sandbox);
            }
        }
        for container in containers {
            if let Some(instance) = self.instance(runtime, &container).await? {
                view.instances.push(instance);
            }
        }
        view.sort();
        self.sandboxes.retain(|id, _| view.sandboxes.iter().any(|one| one.id == *id));
        self.instances.retain(|id, _| view.instances.iter().any(|one| one.id == *id));
        Ok(view)
    }

    /// Forgets what is known of a run whose limits were changed.
    pub fn forget(&mut self, id: &str) {
        self.instances.remove(id);
    }

    async fn sandbox(
        &mut self,
        runtime: &dyn Runtime,
        listed: &v1::PodSandbox,
    ) -> Result<Option<SandboxView>, RuntimeError> {
        let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
        if let Some(known) = self.sandboxes.get(&listed.id)
            && known.ready == ready
            && (!ready || known.host_network || !known.ips.is_empty())
        {
            return Ok(Some(known.clone()));
        }
        let status = match runtime.sandbox_status(&listed.id).await {
            Ok(status) => status,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        };
        let view = sandbox_view(&status);
        self.sandboxes.insert(view.id.clone(), view.clone());
        Ok(Some(view))
    }

    async fn instance(
        &mut self,
        runtime: &dyn Runtime,
        listed: &v1::Container,
    ) -> Result<Option<Instance>, RuntimeError> {
        if let Some(known) = self.instances.get(&listed.id).filter(|known| known.state == state(listed.state))
        {
            return Ok(Some(known.clone()));
        }
        let status = match runtime.container_status(&listed.id).await {
            Ok(status) => status,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut view = instance_view(&status, &listed.pod_sandbox_id);
        if view.state == State::Exited {
            view.message = last_words(&view).await;
        }
        self.instances.insert(view.id.clone(), view.clone());
        Ok(Some(view))
    }
}

fn state(state: i32) -> State {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    }
}

fn sandbox_view(status: &v1::PodSandboxStatus) -> SandboxView {
    let network = status.network.clone().unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|one| one.ip);
    let options = status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
    let options = options.and_then(|namespaces| namespaces.options.as_ref());
    SandboxView {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        created_ns: status.created_at,
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        host_network: options.is_some_and(|one| one.network == v1::NamespaceMode::Node as i32),
    }
}

fn instance_view(status: &v1::ContainerStatus, sandbox_id: &str) -> Instance {
    let metadata = status.metadata.clone().unwrap_or_default();
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let linux = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let limits = status.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    let image = status.image.clone().unwrap_or_default();
    Instance {
        id: status.id.clone(),
        name: status.labels.get(names::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        attempt: annotation(names::RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        sandbox_id: sandbox_id.to_owned(),
        state: state(status.state),
        created_ns: status.created_at,
        started_ns: status.started_at,
        finished_ns: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_ref: status.image_ref.clone(),
        log_path: status.log_path.clone(),
        hash: annotation(names::HASH),
        user: linux.map(|user| (user.uid, user.gid, user.supplemental_groups.clone())),
        limits: limits.map(|one| Limits {
            cpu_shares: one.cpu_shares,
            cpu_quota: one.cpu_quota,
            cpu_period: one.cpu_period,
            memory_bytes: one.memory_limit_in_bytes,
        }),
        annotations: status.annotations.clone().into_iter().collect(),
    }
}

/// What an ended container leaves to be told: its message file, else its log if it failed and wants so, else the
/// runtime's words.
async fn last_words(run: &Instance) -> String {
    let annotation = |name: &str| run.annotations.get(name).map(String::as_str).unwrap_or_default();
    let file = annotation(names::MESSAGE_FILE);
    let mut words = Vec::new();
    if !file.is_empty() {
        words = logs::end_of_file(file.as_ref(), MESSAGE_BYTES).await.unwrap_or_default();
    }
    if words.is_empty() && run.exit_code != 0 && annotation(names::MESSAGE_POLICY) == "FallbackToLogsOnError"
    {
        let log = run.log_path.as_ref();
        words = logs::last_words(log, MESSAGE_LOG_LINES, MESSAGE_LOG_BYTES).await.unwrap_or_default();
    }
    match words.is_empty() {
        true => run.message.clone(),
        false => String::from_utf8_lossy(&words).into_owned(),
    }
}

/// A Pod that the runtime has: identity, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuntimePod {
    /// Its identity.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All Pods that the runtime has anything of.
///
/// # Errors
/// When it does not answer.
pub async fn orphan_pods(runtime: &dyn Runtime) -> Result<BTreeSet<RuntimePod>, RuntimeError> {
    let (sandboxes, containers) = futures::try_join!(runtime.sandboxes(None), runtime.containers(None))?;
    let of = |labels: &HashMap<String, String>| {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        RuntimePod {
            uid: label(names::POD_UID),
            namespace: label(names::POD_NAMESPACE),
            name: label(names::POD_NAME),
        }
    };
    let all = sandboxes.iter().map(|one| of(&one.labels)).chain(containers.iter().map(|one| of(&one.labels)));
    let by_uid: BTreeMap<String, RuntimePod> =
        all.filter(|pod| !pod.uid.is_empty()).map(|pod| (pod.uid.clone(), pod)).collect();
    Ok(by_uid.into_values().collect())
}
