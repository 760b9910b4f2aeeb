//! What the runtime and a shim say to each other over the shim's unix socket.
//!
//! A message is a length and the number of file descriptors that come with it (two little-endian `u32`), then JSON.
//! Calls carry a number that their answer repeats; events carry none and go to everyone who is connected. Fields that
//! one side does not know are skipped and absent ones have defaults, so that a shim outlives its runtime's version.

use crate::cgroup::{CgroupSpec, Limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The version of this protocol.
pub const VERSION: u32 = 1;
/// Bytes before the JSON of a message.
pub const HEADER_BYTES: usize = 8;
/// The largest message: a container's environment is at most a megabyte or so.
pub const MOST_BYTES: usize = 8 * 1024 * 1024;
/// File descriptors that may come with one message.
pub const MOST_FDS: usize = 4;

/// A call of the runtime.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// The number that the answer repeats.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the runtime can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Make the sandbox's namespaces and start its pause process.
    CreateSandbox(Box<SandboxSpec>),
    /// Tell everything that is known.
    State,
    /// Start a container. Answered when its program runs, or could not be started.
    Start(Box<ContainerSpec>),
    /// Start another process in a container. With it come the descriptors of its stdin, stdout and stderr, unless it
    /// gets a terminal: then the terminal's descriptor comes with the answer.
    Exec(ExecSpec),
    /// Send a signal to a container's first process.
    Signal {
        /// The container.
        container: String,
        /// The signal's number.
        signal: i32,
    },
    /// Kill everything in a container.
    Kill {
        /// The container.
        container: String,
    },
    /// Kill a process that was started by `Exec`.
    KillExec {
        /// Its id.
        exec: String,
    },
    /// Set the size of a container's terminal.
    Resize {
        /// The container.
        container: String,
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// Open the container's log file anew: it was moved away.
    ReopenLog {
        /// The container.
        container: String,
    },
    /// Copy a container's output. With it come descriptors for stdout and stderr (one for a terminal); with the answer
    /// comes one for stdin, if the container has one.
    Attach {
        /// The container.
        container: String,
    },
    /// Forget a container that has ended.
    Remove {
        /// The container.
        container: String,
    },
    /// Kill everything, and the pause process, and end.
    Shutdown,
}

/// What a shim sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a call.
    Answer {
        /// The call's number.
        id: u64,
        /// What came of it.
        result: Result<Answer, Refusal>,
    },
    /// Something happened.
    Event(Event),
}

/// A successful answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The sandbox is there, or the program runs.
    Started(Process),
    /// Everything that is known.
    State(Box<State>),
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// In words.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// There is no such container, process or sandbox.
    NotFound,
    /// It is not in a state that allows it.
    State,
    /// The program could not be started.
    Start,
    /// The kernel refused.
    System,
}

/// What happened without being asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container ended; its log is complete.
    Exited {
        /// The container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A process that was started by `Exec` ended.
    ExecExited {
        /// Its id.
        exec: String,
        /// How.
        exit: Exit,
    },
    /// The pause process ended: the sandbox is lost.
    PauseExited {
        /// How.
        exit: Exit,
    },
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The kernel ended something in the container for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When, in nanoseconds since 1970.
    pub finished_at_ns: i64,
}

/// A process, as it can be recognized again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id in the shim's PID namespace.
    pub pid: i32,
    /// Its start time in clock ticks since boot: a pid alone is used again.
    pub start_ticks: u64,
    /// When it started, in nanoseconds since 1970.
    pub started_at_ns: i64,
}

/// Everything that a shim knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// The shim's protocol version.
    pub version: u32,
    /// The shim itself.
    pub shim_pid: i32,
    /// The pause process, unless it has ended or was never started.
    pub pause: Option<Process>,
    /// The containers that were started and not removed.
    pub containers: BTreeMap<String, ContainerState>,
}

/// A container's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Its program is being started.
    Starting,
    /// It runs.
    Running(Process),
    /// It ended.
    Exited {
        /// Its first process.
        process: Process,
        /// How.
        exit: Exit,
    },
}

/// A Pod's sandbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Its id.
    pub id: String,
    /// Its hostname; empty with the host's network.
    pub hostname: String,
    /// Whether it stays in the runtime's network namespace.
    pub host_network: bool,
    /// Whether it stays in the runtime's IPC namespace.
    pub host_ipc: bool,
    /// Whether it stays in the runtime's PID namespace.
    pub host_pid: bool,
    /// Kernel parameters of its namespaces (`net.ipv4.…`).
    pub sysctls: BTreeMap<String, String>,
    /// Where shim and pause process live.
    pub cgroup: CgroupSpec,
    /// The size of the `/dev/shm` that its containers share.
    pub shm_bytes: u64,
    /// How readily the kernel kills shim and pause process for memory.
    pub oom_score_adj: i32,
}

/// A container to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Its id.
    pub id: String,
    /// Its root.
    pub rootfs: RootfsSpec,
    /// Its first process.
    pub process: ProcessSpec,
    /// What is mounted into it, parents first.
    pub mounts: Vec<MountSpec>,
    /// Devices beside the ones that every container has.
    pub devices: Vec<DeviceSpec>,
    /// Paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
    /// Whether it sees all devices and may write to `/sys` and to cgroups.
    pub privileged: bool,
    /// Whose PID namespace it gets.
    pub pid: PidNamespace,
    /// Its cgroup.
    pub cgroup: CgroupSpec,
    /// What it may use.
    pub limits: Limits,
    /// How readily the kernel kills it for memory.
    pub oom_score_adj: Option<i32>,
    /// Where its output goes, in CRI's log format; absent drops it.
    pub log_path: Option<PathBuf>,
    /// Whether it has a stdin.
    pub stdin: bool,
    /// Whether its stdin ends with the first that attaches to it.
    pub stdin_once: bool,
}

/// The parts of a container's root.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsSpec {
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Its own writes.
    pub upper: PathBuf,
    /// The overlay's work folder.
    pub work: PathBuf,
    /// An empty folder over which it is mounted, in the container's own mount namespace.
    pub mountpoint: PathBuf,
    /// Whether nothing can be written to it.
    pub readonly: bool,
}

/// Whose PID namespace a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidNamespace {
    /// One of its own.
    #[default]
    Own,
    /// The sandbox's.
    Pod,
    /// The runtime's.
    Host,
    /// That of another container of the Pod.
    Container(String),
}

/// A process in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// Its working folder; made when absent.
    pub cwd: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Capabilities, as bits by number.
    pub capabilities: Capabilities,
    /// Whether programs that it starts never gain privileges.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Resource limits: kind as `setrlimit(2)` numbers it, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
}

/// Sets of capabilities, as bits by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What can ever be had; effective and permitted start with it.
    pub bounding: u64,
    /// What programs that are not root keep.
    pub ambient: u64,
}

/// Which system calls a process may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// What container runtimes allow by default.
    RuntimeDefault,
    /// What a profile (JSON, in the form that container runtimes share) says.
    Profile(String),
}

/// Something of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Whether it cannot be written there.
    pub readonly: bool,
    /// Whether mounts below it cannot be written either.
    pub recursive_readonly: bool,
    /// What happens to later mounts on either side.
    pub propagation: Propagation,
}

/// What happens to mounts that are made later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// They stay on their side.
    #[default]
    Private,
    /// The container sees the host's.
    HostToContainer,
    /// Both see each other's.
    Bidirectional,
}

/// A device in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSpec {
    /// Path on the host; a folder stands for all devices in it.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Another process in a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// The container.
    pub container: String,
    /// The id of this process, as events name it.
    pub exec: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
}
