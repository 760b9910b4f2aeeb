//! A container as its shim holds it, and the shim's side of a start.

use crate::cgroup::Cgroup;
use crate::frame::{self, FrameError, Inbox};
use crate::init::{self, Birth, Go, Report, Stdio};
use crate::log::{Log, Stream};
use crate::pause::Pause;
use crate::protocol::{ContainerSpec, ContainerState, PidNamespace, ProcessSpec, Refusal, RefusalKind};
use crate::sys::{self, Fork};
use crate::time::now_ns;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How long a client that attached may leave output unread before it is cut off.
const ATTACHED_WITHIN: Duration = Duration::from_secs(1);

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its program's environment, for further processes in it.
    pub process: ProcessSpec,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Where its output goes.
    pub log: Log,
    /// Where its output comes from.
    pub outputs: Vec<(Stream, OwnedFd)>,
    /// The other end of its stdin.
    pub stdin: Option<OwnedFd>,
    /// Whether the first that attaches takes its stdin with it.
    pub stdin_once: bool,
    /// Its terminal.
    pub terminal: Option<OwnedFd>,
    /// Who else wants its output.
    pub attached: Vec<Vec<OwnedFd>>,
    /// Its first process, while that runs.
    pub pidfd: Option<OwnedFd>,
    /// How it is.
    pub state: ContainerState,
}

impl Container {
    /// Takes what is to be read from one of its outputs. Gives whether there may be more later.
    pub fn read(&mut self, output: usize) -> bool {
        let Some((stream, fd)) = self.outputs.get(output) else { return false };
        let stream = *stream;
        let mut buffer = [0; 32 * 1024];
        let count = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return true,
            // A terminal whose last program has gone.
            Err(_) => return false,
        };
        self.log.write(stream, &buffer[..count], now_ns());
        self.attached.retain(|fds| {
            let fd = if stream == Stream::Stderr { fds.get(1) } else { fds.first() };
            fd.is_none_or(|fd| write_within(fd, &buffer[..count], ATTACHED_WITHIN))
        });
        true
    }

    /// Takes what is left in its outputs and closes them.
    pub fn drain(&mut self) {
        for output in 0..self.outputs.len() {
            loop {
                let mut ready =
                    [rustix::event::PollFd::new(&self.outputs[output].1, rustix::event::PollFlags::IN)];
                let readable = rustix::event::poll(&mut ready, Some(&rustix::event::Timespec::default()));
                if !matches!(readable, Ok(count) if count > 0) || !self.read(output) {
                    break;
                }
            }
        }
        self.log.finish(now_ns());
        self.outputs.clear();
        self.attached.clear();
        (self.stdin, self.terminal, self.pidfd) = (None, None, None);
    }
}

/// Writes all, waiting for a reader at most so long. Gives whether it went.
fn write_within(fd: &OwnedFd, mut bytes: &[u8], limit: Duration) -> bool {
    let wait = rustix::event::Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::OUT)];
                if !matches!(rustix::event::poll(&mut ready, Some(&wait)), Ok(1)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// A program that is being started.
#[derive(Debug)]
pub struct Start {
    /// The connection that asked for it, and the call's number.
    pub asked: (u64, u64),
    /// The container.
    pub container: String,
    /// The id of the process, when it is not the container's first.
    pub exec: Option<String>,
    /// Its pid.
    pub pid: i32,
    /// The socket to it.
    pub socket: OwnedFd,
    /// Its terminal, as soon as it told.
    pub terminal: Option<OwnedFd>,
    inbox: Inbox,
    ready: bool,
    failure: Option<String>,
}

/// How far a start came.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not known yet.
    Pending,
    /// The program runs, or ran.
    Runs,
    /// It could not be started.
    Failed(String),
}

impl Start {
    fn new(asked: (u64, u64), container: &str, exec: Option<&str>, pid: i32, socket: OwnedFd) -> Start {
        Start {
            asked,
            container: container.to_owned(),
            exec: exec.map(str::to_owned),
            pid,
            socket,
            terminal: None,
            inbox: Inbox::default(),
            ready: false,
            failure: None,
        }
    }

    /// Takes what the child has told.
    pub fn advance(&mut self) -> Progress {
        loop {
            match self.inbox.take::<Report>() {
                Ok(Some((Report::Terminal, mut fds))) => self.terminal = fds.pop(),
                Ok(Some((Report::Ready, _))) => self.ready = true,
                Ok(Some((Report::Failed(words), _))) => self.failure = Some(words),
                Ok(None) => match self.inbox.fill(&self.socket) {
                    Ok(()) => {}
                    Err(FrameError::Socket(Errno::AGAIN)) => return Progress::Pending,
                    Err(_) => return self.end(),
                },
                Err(_) => return self.end(),
            }
        }
    }

    fn end(&mut self) -> Progress {
        match (self.failure.take(), self.ready) {
            (Some(words), _) => Progress::Failed(words),
            (None, true) => Progress::Runs,
            (None, false) => Progress::Failed("the process was killed before its program started".to_owned()),
        }
    }
}

/// A refusal by the kernel.
pub fn refused(attempt: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal { kind: RefusalKind::System, message: format!("cannot {attempt}: {error}") }
}

/// The namespaces around the shim that a start needs.
pub struct Surroundings<'a> {
    /// The sandbox's pause process.
    pub pause: &'a Pause,
    /// The shim's own PID namespace.
    pub own_pid_namespace: &'a OwnedFd,
    /// The PID namespace of another container, when the new one joins it.
    pub target: Option<OwnedFd>,
}

fn forked(
    around: &Surroundings<'_>,
    join: Option<&OwnedFd>,
    flags: i32,
    cgroup: Option<&OwnedFd>,
) -> Result<Fork, Refusal> {
    let enter = |namespace: &OwnedFd| {
        let kind = rustix::thread::LinkNameSpaceType::ProcessID;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
            .map_err(|error| refused("join the PID namespace", error))
    };
    if let Some(namespace) = join {
        enter(namespace)?;
    }
    let fork = sys::fork(flags, cgroup.map(AsFd::as_fd)).map_err(|error| refused("fork", error));
    if let (Some(_), Ok(Fork::Parent(_)) | Err(_)) = (join, &fork) {
        enter(around.own_pid_namespace)?;
    }
    fork
}

/// In version 2 a child is born in its cgroup.
fn cgroup_folder(cgroup: &Cgroup) -> Result<Option<OwnedFd>, Refusal> {
    let Some(path) = cgroup.folder("").filter(|_| cgroup.is_unified()) else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(Some).map_err(|error| refused("open the cgroup", error))
}

fn sockets() -> Result<(OwnedFd, OwnedFd), Refusal> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| refused("make sockets", error))
}

/// Puts the child into its cgroup and lets it go on.
fn release(cgroup: &Cgroup, pid: i32, socket: &OwnedFd) -> Result<(), Refusal> {
    let placed = if cgroup.is_unified() { Ok(()) } else { cgroup.attach(pid) };
    minik_fault::point("shim.start.placed");
    let released = placed.map_err(|error| refused("place the process", error)).and_then(|()| {
        // A child that has failed already has closed its end; its report tells why.
        let _ = frame::send(socket, &Go, &[]);
        rustix::io::ioctl_fionbio(socket, true).map_err(|error| refused("use the socket", error))
    });
    if let (Err(_), Some(pid)) = (&released, rustix::process::Pid::from_raw(pid)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    released
}

/// Begins to start a container.
///
/// # Errors
/// When its cgroup, log or pipes cannot be made; what was made of the cgroup is removed.
pub fn begin(
    spec: ContainerSpec,
    cgroup: Cgroup,
    around: &Surroundings<'_>,
    asked: (u64, u64),
) -> Result<(Container, Start), Refusal> {
    cgroup.create(&spec.limits).map_err(|error| refused("make the container's cgroup", error))?;
    let begun = begin_in(&spec, &cgroup, around, asked);
    if begun.is_err() {
        let _ = cgroup.remove();
    }
    let (start, ends, log) = begun?;
    let container = Container {
        process: spec.process,
        cgroup,
        log,
        outputs: ends.outputs,
        stdin: ends.stdin,
        stdin_once: spec.stdin_once,
        terminal: None,
        attached: Vec::new(),
        pidfd: None,
        state: ContainerState::Starting,
    };
    Ok((container, start))
}

fn begin_in(
    spec: &ContainerSpec,
    cgroup: &Cgroup,
    around: &Surroundings<'_>,
    asked: (u64, u64),
) -> Result<(Start, Ends, Log), Refusal> {
    let log =
        Log::open(spec.log_path.as_deref()).map_err(|error| refused("open the container's log", error))?;
    let (stdio, ends) = if spec.process.terminal { (None, Ends::default()) } else { stdio(spec.stdin)? };
    let (ours, theirs) = sockets()?;
    let folder = cgroup_folder(cgroup)?;
    minik_fault::point("shim.start.cgroup");
    let (join, own) = match &spec.pid {
        PidNamespace::Own => (None, libc::CLONE_NEWPID),
        PidNamespace::Host => (None, 0),
        PidNamespace::Pod => (around.pause.pid_namespace.as_ref(), 0),
        PidNamespace::Container(_) => (around.target.as_ref(), 0),
    };
    match forked(around, join, libc::CLONE_NEWNS | own, folder.as_ref())? {
        Fork::Child => {
            drop(ours);
            init::container(Birth { shim: theirs, stdio, pause: around.pause }, spec, cgroup)
        }
        Fork::Parent(pid) => {
            drop((theirs, stdio));
            minik_fault::point("shim.start.forked");
            release(cgroup, pid, &ours)?;
            minik_fault::point("shim.start.released");
            Ok((Start::new(asked, &spec.id, None, pid, ours), ends, log))
        }
    }
}

/// Begins to start another process in a container.
///
/// # Errors
/// When the container does not run, or the kernel refuses.
pub fn begin_exec(
    container: (&str, &Container),
    exec: (&str, ProcessSpec),
    stdio: Option<Stdio>,
    around: &Surroundings<'_>,
    asked: (u64, u64),
) -> Result<Start, Refusal> {
    let ((name, container), (exec, process)) = (container, exec);
    let (Some(target), Some(namespace)) = (&container.pidfd, &around.target) else {
        return Err(Refusal {
            kind: RefusalKind::State,
            message: format!("container {name} is not running"),
        });
    };
    let (ours, theirs) = sockets()?;
    let folder = cgroup_folder(&container.cgroup)?;
    match forked(around, Some(namespace), 0, folder.as_ref())? {
        Fork::Child => {
            drop(ours);
            init::exec(Birth { shim: theirs, stdio, pause: around.pause }, target, &process)
        }
        Fork::Parent(pid) => {
            drop((theirs, stdio));
            minik_fault::point("shim.exec.forked");
            release(&container.cgroup, pid, &ours)?;
            minik_fault::point("shim.exec.released");
            Ok(Start::new(asked, name, Some(exec), pid, ours))
        }
    }
}

/// The shim's ends of a container's stdio.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    outputs: Vec<(Stream, OwnedFd)>,
}

fn stdio(stdin: bool) -> Result<(Option<Stdio>, Ends), Refusal> {
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| refused("make a pipe", error))
    };
    let (input, input_end) = if stdin {
        let (reader, writer) = pipe()?;
        (reader, Some(writer))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        (null.map_err(|error| refused("open /dev/null", error))?, None)
    };
    let ((out_end, out), (err_end, err)) = (pipe()?, pipe()?);
    let outputs = vec![(Stream::Stdout, out_end), (Stream::Stderr, err_end)];
    Ok((Some([input, out, err]), Ends { stdin: input_end, outputs }))
}
