//! What a new process does between its fork and its program: the child's side of a start.
//!
//! It tells the shim over its end of a socket pair how far it came: the descriptor of its terminal, then [`Report::Ready`] just
//! before it becomes the program, or in words why it could not.

use crate::cgroup::Cgroup;
use crate::frame;
use crate::pause::{Pause, SHM};
use crate::protocol::{ContainerSpec, ProcessSpec};
use crate::rootfs;
use crate::seccomp::{self, SeccompError};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The terminal's descriptor comes with this.
    Terminal,
    /// The program starts now.
    Ready,
    /// It cannot, in words.
    Failed(String),
}

/// What the shim answers when the child is in its cgroup.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go;

/// Why a program could not be started. All are final.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Its root could not be built.
    #[error("error mounting the container's root: {0}")]
    Mount(#[from] crate::mounts::MountError),
    /// The kernel refused.
    #[error("cannot {0}: {1}")]
    System(&'static str, Errno),
    /// The working folder is no folder of the container.
    #[error("chdir to cwd ({0:?}) set in config.json failed: it is outside of the container's root")]
    Outside(String),
    /// The working folder cannot be entered.
    #[error("chdir to cwd ({0:?}) set in config.json failed: {1}")]
    Cwd(String, Words),
    /// Its system calls cannot be restricted.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// There is no such program.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// The path leads to no program.
    #[error("exec: {0:?}: stat {0}: {1}")]
    Absent(String, Words),
    /// It is something else.
    #[error("exec: {0:?}: {1}")]
    Program(String, Words),
    /// Nothing is to be run.
    #[error("no command specified")]
    Empty,
    /// A string has a null byte in it.
    #[error("exec: argument or variable with a null byte")]
    Null,
    /// The shim has gone, or says something else.
    #[error("the shim does not answer")]
    Shim,
}

/// The kernel's words for an error, in small letters as programs of this field say them.
#[derive(Debug)]
pub struct Words(Errno);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Errno::NOENT => "no such file or directory",
            Errno::ACCESS => "permission denied",
            Errno::PERM => "operation not permitted",
            Errno::NOTDIR => "not a directory",
            Errno::ISDIR => "is a directory",
            Errno::NOEXEC => "exec format error",
            Errno::LOOP => "too many levels of symbolic links",
            Errno::TOOBIG => "argument list too long",
            other => return write!(f, "{other}"),
        })
    }
}

/// Descriptors of a process without a terminal: stdin, stdout, stderr.
pub type Stdio = [OwnedFd; 3];

/// What a new process is born with.
pub struct Birth<'a> {
    /// The socket to the shim.
    pub shim: OwnedFd,
    /// Its stdio, unless it has a terminal.
    pub stdio: Option<Stdio>,
    /// The sandbox's pause process.
    pub pause: &'a Pause,
}

/// Becomes a container's first process. The PID and mount namespaces are there already.
pub fn container(birth: Birth<'_>, spec: &ContainerSpec, cgroup: &Cgroup) -> ! {
    let shim = birth.shim;
    let prepared =
        enter_sandbox(birth.pause, spec, cgroup).and_then(|()| prepare(&shim, birth.stdio, &spec.process));
    finish(&shim, prepared)
}

/// Becomes another process of a container, whose namespaces it joins through the container's first process.
pub fn exec(birth: Birth<'_>, target: &OwnedFd, process: &ProcessSpec) -> ! {
    let shim = birth.shim;
    let prepared = enter_container(target).and_then(|()| prepare(&shim, birth.stdio, process));
    finish(&shim, prepared)
}

fn finish(shim: &OwnedFd, prepared: Result<Program, InitError>) -> ! {
    let program = prepared.and_then(|program| {
        minik_fault::point("init.ready");
        let Ok(()) = frame::send(shim, &Report::Ready, &[]) else { return Err(InitError::Shim) };
        minik_fault::point("init.told");
        Ok(program)
    });
    match program {
        Ok(program) => {
            let error = sys::exec(&program.path, &program.args, &program.env);
            // The shim believes that it runs: only the container's log can tell otherwise, as with other runtimes.
            let words = format!("exec {}: {}\n", program.path.to_string_lossy(), Words(error));
            let _ = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
            sys::exit(255)
        }
        Err(error) => {
            let _ = frame::send(shim, &Report::Failed(error.to_string()), &[]);
            sys::exit(128)
        }
    }
}

fn join(namespace: &OwnedFd) -> Result<(), InitError> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), None)
        .map_err(|error| InitError::System("join the sandbox's namespaces", error))
}

fn enter_sandbox(pause: &Pause, spec: &ContainerSpec, cgroup: &Cgroup) -> Result<(), InitError> {
    for namespace in [&pause.ipc, &pause.uts, &pause.net].into_iter().flatten() {
        join(namespace)?;
    }
    minik_fault::point("init.joined");
    // Whoever has the host's IPC namespace has the host's shared memory with it.
    let shm = pause.ipc.is_some().then_some((&pause.mount, SHM));
    if let Some(value) = spec.oom_score_adj {
        set_oom_score(value);
    }
    let sources = rootfs::take_sources(spec, shm, cgroup)?;
    minik_fault::point("init.sources");
    if cgroup.is_unified() {
        sys::unshare_cgroup().map_err(|error| InitError::System("leave the cgroup namespace", error))?;
    }
    rootfs::enter(spec, sources)?;
    Ok(())
}

/// Without CAP_SYS_RESOURCE the score cannot go below what it was: then it stays as it is.
pub fn set_oom_score(value: i32) {
    let _ = std::fs::write("/proc/self/oom_score_adj", value.to_string());
}

fn enter_container(target: &OwnedFd) -> Result<(), InitError> {
    use rustix::thread::ThreadNameSpaceType as Kind;
    let kinds = Kind::INTER_PROCESS_COMMUNICATION
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::NETWORK
        | Kind::CONTROL_GROUP
        | Kind::MOUNT;
    rustix::thread::move_into_thread_name_spaces(target.as_fd(), kinds)
        .map_err(|error| InitError::System("join the container's namespaces", error))
}

/// A program, found.
struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

fn prepare(shim: &OwnedFd, stdio: Option<Stdio>, process: &ProcessSpec) -> Result<Program, InitError> {
    let system = |attempt| move |error| InitError::System(attempt, error);
    sys::reset_signals();
    rustix::process::setsid().map_err(system("start a session"))?;
    connect_stdio(shim, stdio, process)?;
    minik_fault::point("init.connected");
    // The shim puts this process into its cgroup meanwhile; nothing of the container may run before it is there.
    let mut inbox = frame::Inbox::default();
    frame::receive::<Go>(shim, &mut inbox).map_err(|_| InitError::Shim)?;
    minik_fault::point("init.goes");
    for (kind, soft, hard) in &process.rlimits {
        sys::set_rlimit(*kind, *soft, *hard).map_err(system("set a resource limit"))?;
    }
    let mut env = process.env.clone();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(process.uid)));
    }
    let filters = match &process.seccomp {
        crate::protocol::Seccomp::Unconfined => None,
        crate::protocol::Seccomp::RuntimeDefault => {
            Some(seccomp::runtime_default(process.capabilities.bounding)?)
        }
        crate::protocol::Seccomp::Profile(text) => Some(seccomp::profile(text)?),
    };
    // What the host has open must not be reached by /proc/self/fd/N, neither as a working folder nor as a program.
    sys::close_others(shim.as_raw_fd());
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    let entered = rustix::process::chdir(cwd);
    give_up(process)?;
    if entered.is_err() {
        rustix::process::chdir(cwd).map_err(|error| InitError::Cwd(cwd.to_owned(), Words(error)))?;
    }
    stands_inside(cwd)?;
    let program = find_program(process, &env)?;
    minik_fault::point("init.user");
    restrict(process, filters.as_ref())?;
    sys::close_from(3, true);
    Ok(program)
}

/// The kernel names a folder that cannot be reached from the root otherwise than by a path.
fn stands_inside(cwd: &str) -> Result<(), InitError> {
    let name =
        rustix::process::getcwd(Vec::new()).map_err(|error| InitError::Cwd(cwd.to_owned(), Words(error)))?;
    if name.as_bytes().starts_with(b"/") { Ok(()) } else { Err(InitError::Outside(cwd.to_owned())) }
}

fn connect_stdio(shim: &OwnedFd, stdio: Option<Stdio>, process: &ProcessSpec) -> Result<(), InitError> {
    let system = |attempt| move |error| InitError::System(attempt, error);
    let stdio = match stdio {
        Some(stdio) => stdio,
        None => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let master =
                rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(system("open a terminal"))?;
            rustix::pty::unlockpt(&master).map_err(system("unlock the terminal"))?;
            let peer = sys::terminal_peer(&master).map_err(system("open the terminal"))?;
            rustix::process::ioctl_tiocsctty(&peer).map_err(system("take the terminal"))?;
            frame::send(shim, &Report::Terminal, &[master.as_fd()]).map_err(|_| InitError::Shim)?;
            let copy = || peer.try_clone().map_err(|_| InitError::System("copy the terminal", Errno::MFILE));
            [copy()?, copy()?, peer]
        }
    };
    for (number, fd) in (0..).zip(&stdio) {
        // So that the program can open /dev/stdout whoever it runs as; pipes of the host need not allow it.
        let owner = rustix::fs::Uid::from_raw(process.uid);
        let _ = rustix::fs::fchown(fd, Some(owner), Some(rustix::fs::Gid::from_raw(process.gid)));
        sys::dup_onto(fd, number).map_err(system("set up stdio"))?;
    }
    Ok(())
}

/// Becomes the user, with what it may ever have.
fn give_up(process: &ProcessSpec) -> Result<(), InitError> {
    let system = |attempt| move |error| InitError::System(attempt, error);
    let wanted = process.capabilities.bounding;
    for capability in 0..64 {
        let keep = wanted & (1 << capability) != 0;
        // The first number that the kernel does not know ends it.
        if !keep && sys::prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]).is_err() {
            break;
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).map_err(system("keep capabilities"))?;
    sys::set_ids(process.uid, process.gid, &process.groups).map_err(system("become the user"))
}

/// The last steps: capabilities, privileges, system calls.
fn restrict(process: &ProcessSpec, filters: Option<&seccomp::Filters>) -> Result<(), InitError> {
    let system = |attempt| move |error| InitError::System(attempt, error);
    let ambient = process.capabilities.ambient;
    // What this process itself never had cannot be given on.
    let own = own_permitted();
    // Only a process with privileges may do this without giving up new ones, so it comes before they go.
    if let (Some(filters), false) = (filters, process.no_new_privileges) {
        sys::set_capabilities(own, own, 0).map_err(system("set capabilities"))?;
        filters.install()?;
    }
    let wanted = process.capabilities.bounding & own;
    let effective = if process.uid == 0 { wanted } else { ambient & own };
    sys::set_capabilities(effective, effective, ambient & own).map_err(system("set capabilities"))?;
    sys::prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0]).map_err(system("set capabilities"))?;
    for capability in (0..64).filter(|capability| ambient & own & (1 << capability) != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
        sys::prctl(libc::PR_CAP_AMBIENT, [raise, capability, 0, 0]).map_err(system("set capabilities"))?;
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map_err(system("give up new privileges"))?;
        if let Some(filters) = filters {
            filters.install()?;
        }
    }
    Ok(())
}

fn own_permitted() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
}

fn home(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    });
    found.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

fn find_program(process: &ProcessSpec, env: &[String]) -> Result<Program, InitError> {
    let name = process.args.first().filter(|name| !name.is_empty()).ok_or(InitError::Empty)?;
    let path = if name.contains('/') {
        match runnable(Path::new(name)) {
            Ok(()) => PathBuf::from(name),
            Err(error @ (Errno::ACCESS | Errno::ISDIR)) => {
                return Err(InitError::Program(name.clone(), Words(error)));
            }
            Err(error) => return Err(InitError::Absent(name.clone(), Words(error))),
        }
    } else {
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
        let places =
            path.split(':').map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name));
        let mut denied = false;
        let found = places.into_iter().find(|place| match runnable(place) {
            Ok(()) => true,
            Err(error) => {
                denied |= error == Errno::ACCESS;
                false
            }
        });
        match found {
            Some(found) => found,
            None if denied => return Err(InitError::Program(name.clone(), Words(Errno::ACCESS))),
            None => return Err(InitError::NotInPath(name.clone())),
        }
    };
    let strings = |strings: &[String]| {
        strings.iter().map(|string| CString::new(string.as_str())).collect::<Result<Vec<_>, _>>()
    };
    Ok(Program {
        path: CString::new(path.as_os_str().as_bytes()).map_err(|_| InitError::Null)?,
        args: strings(&process.args).map_err(|_| InitError::Null)?,
        env: strings(env).map_err(|_| InitError::Null)?,
    })
}

fn runnable(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], path: &str, expected: Result<&str, &str>) {
        let process = ProcessSpec {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..ProcessSpec::default()
        };
        let found = find_program(&process, &[format!("PATH={path}")]);
        let found =
            found.map(|program| program.path.into_string().unwrap()).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{args:?}");
    }

    #[test]
    fn programs_are_found_or_refused_in_the_usual_words() {
        check(&["sh"], "/absent:/bin", Ok("/bin/sh"));
        check(&["/bin/sh"], "", Ok("/bin/sh"));
        check(&["nope"], "/bin", Err("exec: \"nope\": executable file not found in $PATH"));
        check(&["/nope"], "/bin", Err("exec: \"/nope\": stat /nope: no such file or directory"));
        check(&["/etc/passwd"], "/bin", Err("exec: \"/etc/passwd\": permission denied"));
        check(&["/etc"], "/bin", Err("exec: \"/etc\": is a directory"));
        check(&["passwd"], "/etc", Err("exec: \"passwd\": permission denied"));
        check(&[], "/bin", Err("no command specified"));
    }
}
