//! The pause process: it holds the sandbox's namespaces and, where containers share its PID namespace, reaps.
//!
//! It is forked from the shim without an exec, gives up every privilege and descriptor, and sees an empty file system
//! but for the `/dev/shm` that the Pod's containers share.

use crate::mounts::{MountError, attach, tmpfs};
use crate::protocol::SandboxSpec;
use crate::sys::{self, Fork};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The user that the pause process becomes: nobody's.
const PAUSE_ID: u32 = 65535;
/// Where the shared memory of the Pod lies in the pause process's root.
pub const SHM: &str = "/shm";

/// A running pause process and the namespaces that it holds.
#[derive(Debug)]
pub struct Pause {
    /// Its pid.
    pub pid: i32,
    /// The network namespace, unless it is the host's.
    pub net: Option<OwnedFd>,
    /// The IPC namespace, unless it is the host's.
    pub ipc: Option<OwnedFd>,
    /// The UTS namespace, unless the network is the host's.
    pub uts: Option<OwnedFd>,
    /// The PID namespace, unless it is the host's.
    pub pid_namespace: Option<OwnedFd>,
    /// The mount namespace, in which [`SHM`] is.
    pub mount: OwnedFd,
}

/// Why there is no sandbox. Final.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The kernel refused.
    #[error("cannot {0}: {1}")]
    System(&'static str, Errno),
    /// The pause process could not set itself up.
    #[error("{0}")]
    Setup(String),
}

impl Pause {
    /// Starts it.
    ///
    /// # Errors
    /// When the kernel refuses the namespaces, or a parameter of theirs.
    pub fn start(spec: &SandboxSpec) -> Result<Pause, PauseError> {
        let mut flags = libc::CLONE_NEWNS;
        let wanted = [
            (libc::CLONE_NEWNET | libc::CLONE_NEWUTS, !spec.host_network),
            (libc::CLONE_NEWIPC, !spec.host_ipc),
            (libc::CLONE_NEWPID, !spec.host_pid),
        ];
        wanted.iter().filter(|(_, wanted)| *wanted).for_each(|(flag, _)| flags |= flag);
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| PauseError::System("make a pipe", error))?;
        match sys::fork(flags, None).map_err(|error| PauseError::System("make namespaces", error))? {
            Fork::Child => {
                drop(reader);
                run(spec, writer)
            }
            Fork::Parent(pid) => {
                drop(writer);
                let mut words = String::new();
                let _ = std::io::Read::read_to_string(&mut File::from(reader), &mut words);
                if words != READY {
                    return Err(PauseError::Setup(match words.as_str() {
                        "" => "the pause process ended at once".to_owned(),
                        _ => words,
                    }));
                }
                Pause::open(pid, spec)
            }
        }
    }

    fn open(pid: i32, spec: &SandboxSpec) -> Result<Pause, PauseError> {
        let open = |kind: &str| {
            rustix::fs::open(
                format!("/proc/{pid}/ns/{kind}"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|error| PauseError::System("open the sandbox's namespaces", error))
        };
        let unless = |host: bool, kind| if host { Ok(None) } else { open(kind).map(Some) };
        Ok(Pause {
            pid,
            net: unless(spec.host_network, "net")?,
            ipc: unless(spec.host_ipc, "ipc")?,
            uts: unless(spec.host_network, "uts")?,
            pid_namespace: unless(spec.host_pid, "pid")?,
            mount: open("mnt")?,
        })
    }
}

const READY: &str = "ready";

fn run(spec: &SandboxSpec, report: OwnedFd) -> ! {
    let words = match set_up(spec) {
        Ok(()) => READY.to_owned(),
        Err(error) => error.to_string(),
    };
    minik_fault::point("pause.ready");
    // A shim that was killed before it could be watched reads nothing any more, and nobody else knows this process.
    let told = rustix::io::write(&report, words.as_bytes());
    minik_fault::point("pause.told");
    drop(report);
    if words != READY || told.is_err() {
        sys::exit(1);
    }
    // Nobody else has anything to do with its descriptors: none is needed any more.
    sys::close_from(0, false);
    sys::reset_signals();
    let signals = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT];
    sys::block_signals(&signals);
    loop {
        match sys::wait_for_signal(&signals) {
            libc::SIGCHLD => reap(),
            _ => sys::exit(0),
        }
    }
}

fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

fn set_up(spec: &SandboxSpec) -> Result<(), PauseError> {
    let system = |attempt| move |error| PauseError::System(attempt, error);
    if !spec.host_network {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(system("set the hostname"))?;
    }
    minik_fault::point("pause.named");
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)?;
    }
    empty_root(spec.shm_bytes).map_err(|error| PauseError::Setup(error.to_string()))?;
    minik_fault::point("pause.root");
    sys::set_name(c"pause");
    for capability in 0..64 {
        // The first number that the kernel does not know ends it.
        if sys::prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]).is_err() {
            break;
        }
    }
    sys::set_ids(PAUSE_ID, PAUSE_ID, &[]).map_err(system("give up privileges"))?;
    sys::set_capabilities(0, 0, 0).map_err(system("give up capabilities"))?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map_err(system("give up new privileges"))?;
    // A sandbox without its shim is lost; a change of user forgets this, so it comes last.
    sys::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0])
        .map_err(system("be told of the shim's end"))?;
    Ok(())
}

/// Sets a kernel parameter of the namespaces that this process is in.
fn set_sysctl(name: &str, value: &str) -> Result<(), PauseError> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value)
        .map_err(|error| PauseError::Setup(format!("cannot set the sysctl {name:?} to {value:?}: {error}")))
}

fn empty_root(shm_bytes: u64) -> Result<(), MountError> {
    let failed = |attempt: &'static str| move |error| MountError::new(attempt, Path::new("/"), error);
    crate::rootfs::leave_chroot()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make mounts private below"))?;
    let root = tmpfs(&[("mode", "0755"), ("size", "4k")], 0)?;
    // Any folder does to hang it on: it becomes the root at once.
    let proc = rustix::fs::openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open"))?;
    attach(&root, &proc, Path::new("/"))?;
    rustix::fs::mkdirat(&root, &SHM[1..], Mode::from_raw_mode(0o755)).map_err(failed("make a folder in"))?;
    let shm = tmpfs(
        &[("mode", "1777"), ("size", &shm_bytes.to_string())],
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
    )?;
    let point = rustix::fs::openat(&root, &SHM[1..], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open a folder in"))?;
    attach(&shm, &point, Path::new(SHM))?;
    sys::mount_setattr(&root, libc::MOUNT_ATTR_RDONLY, 0, 0, false).map_err(failed("close"))?;
    rustix::process::fchdir(root.as_fd()).map_err(failed("enter"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("change"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave"))?;
    rustix::process::chdir("/").map_err(failed("enter"))
}
