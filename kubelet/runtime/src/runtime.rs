//! Sandboxes and containers: what there is, and what can be done with it.
//!
//! State is in memory, changed under one lock that is never held across an await, and copied to small files at each
//! change. Calls for one sandbox or container take turns by a lock of its own.

use crate::config::Config;
use crate::images::{ImageError, Store};
use crate::network::{Network, NetworkError, PodIdentity};
use crate::record::{ContainerRecord, Phase, Records, SandboxRecord};
use crate::shims::{Shim, ShimError, Shims};
use crate::spec::SpecError;
use crate::users::UserError;
use minik_component::{Chance, Clock};
use minik_cri::v1;
use minik_shim::cgroup::{CgroupError, Trees};
use minik_shim::protocol::Exit;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::task::TaskTracker;

mod containers;
mod events;
mod exec;
mod recover;
mod sandboxes;

/// Events that a reader may be behind with. One that is further behind loses its stream and lists anew.
const EVENTS_BEHIND: usize = 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such sandbox. Final.
    #[error("an error occurred when try to find sandbox {0:?}: not found")]
    NoSandbox(String),
    /// There is no such container. Final.
    #[error("an error occurred when try to find container {0:?}: not found")]
    NoContainer(String),
    /// It is not in a state that allows it. Final until that changes.
    #[error("{0}")]
    State(String),
    /// Something is asked for that is not there or not built yet. Final.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no such user. Final.
    #[error(transparent)]
    User(#[from] UserError),
    /// The image, or the root over it. As the source says.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The network. As the source says.
    #[error("failed to setup network for sandbox {sandbox:?}: {source}")]
    Network {
        /// The sandbox.
        sandbox: String,
        /// Why.
        source: NetworkError,
    },
    /// The shim. As the source says.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// Its cgroup. As the source says.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file of the runtime. Retryable.
    #[error("cannot {attempt}: {source}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A container's program cannot be started. Final.
    #[error("failed to create shim task: OCI runtime create failed: {0}")]
    Start(minik_shim::protocol::Refusal),
    /// A command's program cannot be started. Final.
    #[error(
        "failed to exec in container: failed to start exec {id:?}: OCI runtime exec failed: exec failed: {refusal}"
    )]
    Exec {
        /// The command's id.
        id: String,
        /// Why.
        refusal: minik_shim::protocol::Refusal,
    },
    /// It did not end in time. Retryable.
    #[error("{0}")]
    TimedOut(String),
}

/// Whether a shim's refusal is about the program itself.
fn of_program(error: &ShimError) -> Option<&minik_shim::protocol::Refusal> {
    match error {
        ShimError::Refused(refusal) if refusal.kind == minik_shim::protocol::RefusalKind::Start => {
            Some(refusal)
        }
        _ => None,
    }
}

/// A file that could not be used.
pub(crate) fn file(attempt: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::File { attempt, source }
}

/// The runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

/// What every part of it uses.
pub struct Inner {
    /// Images.
    pub images: Arc<Store>,
    /// The Pods' network.
    pub network: Network,
    shims: Shims,
    trees: Trees,
    sandbox_records: Records,
    container_records: Records,
    /// An empty folder over which every container's root is mounted, each in its own mount namespace.
    mountpoint: PathBuf,
    boot: String,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    /// Who waits for the end of a command, by the command's id, with its sandbox.
    execs: Mutex<BTreeMap<String, (String, oneshot::Sender<Exit>)>>,
    /// Everything that runs beside the calls.
    pub tasks: TaskTracker,
}

impl std::ops::Deref for Runtime {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Something that happened to a container or, with its own id, to a sandbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container or sandbox.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// What.
    pub kind: v1::ContainerEventType,
    /// When, in nanoseconds since 1970.
    pub at_ns: i64,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
}

struct Sandbox {
    record: SandboxRecord,
    shim: Option<Shim>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Becomes true when its shim has gone.
    gone: watch::Sender<bool>,
}

impl Sandbox {
    fn new(record: SandboxRecord, shim: Option<Shim>) -> Sandbox {
        Sandbox { record, shim, turn: Arc::default(), gone: watch::Sender::new(false) }
    }
}

struct Container {
    record: ContainerRecord,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Becomes true when it has ended.
    ended: watch::Sender<bool>,
}

impl Container {
    fn new(record: ContainerRecord) -> Container {
        let ended = record.phase == Phase::Exited;
        Container { record, turn: Arc::default(), ended: watch::Sender::new(ended) }
    }
}

impl Runtime {
    /// Opens folders, starts the zygote, and finds again what runs.
    ///
    /// # Errors
    /// When a folder or the zygote cannot be had.
    pub async fn open(config: &Config) -> Result<Runtime, RuntimeError> {
        let mountpoint = config.state.join("root");
        std::fs::create_dir_all(&mountpoint).map_err(file("make the state folder"))?;
        let shims = Shims::open(&config.shim, &config.state.join("shims"));
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(file("read the boot's id"))?;
        let network_failed = |source| RuntimeError::Network { sandbox: String::new(), source };
        let records =
            |name: &str| Records::open(config.root.join(name)).map_err(file("make a folder of records"));
        let runtime = Runtime(Arc::new(Inner {
            images: Arc::new(Store::open(config.images.clone())?),
            network: Network::open(config.network.clone()).await.map_err(network_failed)?,
            shims: shims.map_err(file("make the shims' folder"))?,
            trees: Trees::detect().map_err(file("read the mounts"))?,
            sandbox_records: records("sandboxes")?,
            container_records: records("containers")?,
            mountpoint,
            boot: boot.trim().to_owned(),
            clock: config.clock.clone(),
            chance: config.chance.clone(),
            state: Mutex::default(),
            events: broadcast::channel(EVENTS_BEHIND).0,
            execs: Mutex::default(),
            tasks: TaskTracker::new(),
        }));
        runtime.shims.warm_up().await?;
        runtime.recover().await?;
        Ok(runtime)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// The time in nanoseconds since 1970.
    pub fn now(&self) -> i64 {
        self.now_ns()
    }

    /// A cgroup of this machine.
    pub fn cgroup(&self, spec: &minik_shim::cgroup::CgroupSpec) -> minik_shim::cgroup::Cgroup {
        self.trees.cgroup(spec)
    }

    /// An id of 64 hexadecimal digits.
    pub(crate) fn new_id(&self) -> String {
        (0..4).map(|_| format!("{:016x}", self.chance.bits())).collect()
    }

    /// The one sandbox whose id begins so.
    fn sandbox_id(&self, prefix: &str) -> Result<String, RuntimeError> {
        one(&self.state().sandboxes, prefix).ok_or_else(|| RuntimeError::NoSandbox(prefix.to_owned()))
    }

    /// The one container whose id begins so.
    fn container_id(&self, prefix: &str) -> Result<String, RuntimeError> {
        one(&self.state().containers, prefix).ok_or_else(|| RuntimeError::NoContainer(prefix.to_owned()))
    }

    /// Changes a sandbox's record and writes it.
    fn change_sandbox(&self, id: &str, change: impl FnOnce(&mut SandboxRecord)) {
        let mut state = self.state();
        let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
        change(&mut sandbox.record);
        // A cache only: what is lost here is asked of the shim after a restart.
        if let Err(error) = self.sandbox_records.write(id, &sandbox.record) {
            tracing::error!(sandbox = id, error = error.to_string(), "cannot write the record");
        }
    }

    /// Changes a container's record and writes it.
    fn change_container(&self, id: &str, change: impl FnOnce(&mut ContainerRecord)) {
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(id) else { return };
        change(&mut container.record);
        if container.record.phase == Phase::Exited {
            container.ended.send_replace(true);
        }
        if let Err(error) = self.container_records.write(id, &container.record) {
            tracing::error!(container = id, error = error.to_string(), "cannot write the record");
        }
    }

    /// The record of a container.
    ///
    /// # Errors
    /// When there is none.
    pub fn container(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        let id = self.container_id(id)?;
        let state = self.state();
        let container = state.containers.get(&id).ok_or_else(|| RuntimeError::NoContainer(id.clone()))?;
        Ok(container.record.clone())
    }

    /// The record of a sandbox.
    ///
    /// # Errors
    /// When there is none.
    pub fn sandbox(&self, id: &str) -> Result<SandboxRecord, RuntimeError> {
        let id = self.sandbox_id(id)?;
        let state = self.state();
        let sandbox = state.sandboxes.get(&id).ok_or_else(|| RuntimeError::NoSandbox(id.clone()))?;
        Ok(sandbox.record.clone())
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<SandboxRecord> {
        self.state().sandboxes.values().map(|sandbox| sandbox.record.clone()).collect()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<ContainerRecord> {
        self.state().containers.values().map(|container| container.record.clone()).collect()
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, sandbox: &str) -> Vec<ContainerRecord> {
        let state = self.state();
        let of = state.containers.values().filter(|container| container.record.sandbox == sandbox);
        of.map(|container| container.record.clone()).collect()
    }

    fn shim(&self, sandbox: &str) -> Result<Shim, RuntimeError> {
        let state = self.state();
        let found =
            state.sandboxes.get(sandbox).ok_or_else(|| RuntimeError::NoSandbox(sandbox.to_owned()))?;
        found.shim.clone().ok_or_else(|| RuntimeError::State(format!("sandbox {sandbox} is not running")))
    }

    /// What happens from here on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn happened(&self, id: &str, sandbox: &str, kind: v1::ContainerEventType) {
        let event = Event { id: id.to_owned(), sandbox: sandbox.to_owned(), kind, at_ns: self.now_ns() };
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

/// The one key that begins so.
fn one<T>(map: &BTreeMap<String, T>, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return None;
    }
    let mut matching = map.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some((key, _)), None) => Some(key.clone()),
        (Some((key, _)), Some(_)) if key == prefix => Some(key.clone()),
        _ => None,
    }
}

fn identity(record: &SandboxRecord) -> PodIdentity {
    let metadata = record.config.metadata.clone().unwrap_or_default();
    let port = |port: &v1::PortMapping| crate::network::HostPort {
        protocol: port.protocol().as_str_name().to_ascii_lowercase(),
        container_port: u16::try_from(port.container_port).unwrap_or(0),
        host_port: u16::try_from(port.host_port).unwrap_or(0),
        host_ip: port.host_ip.clone(),
    };
    let ports = record.config.port_mappings.iter().filter(|port| port.host_port > 0).map(port).collect();
    PodIdentity {
        sandbox_id: record.id.clone(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        ports,
        annotations: record.config.annotations.clone().into_iter().collect(),
    }
}
