//! The shim's loop: calls of the runtime, output of containers, and their ends.

use crate::cgroup::{Cgroup, Trees};
use crate::container::{Container, Start};
use crate::frame::{self, FrameError, Inbox};
use crate::pause::Pause;
use crate::protocol::{Answer, Call, Event, Message, Process, Refusal, Request};
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

mod work;

/// How long a shim waits for who wants a sandbox of it: its runtime or zygote may have been killed, and nobody will come.
const WANTED_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// What there is to read.
#[derive(Debug, Clone)]
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Start(usize),
    Output(String, usize),
}

struct Connection {
    socket: OwnedFd,
    inbox: Inbox,
}

struct Server {
    listener: UnixListener,
    signals: OwnedFd,
    own_pid_namespace: OwnedFd,
    trees: Trees,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    sandbox: Option<Sandbox>,
    containers: BTreeMap<String, Container>,
    starts: Vec<Start>,
    /// Processes that were started by `Exec`, by pid.
    execs: BTreeMap<i32, String>,
    end: bool,
}

struct Sandbox {
    pause: Pause,
    cgroup: Cgroup,
    process: Process,
    /// Whether the pause process runs still.
    alive: bool,
}

/// Serves until it is told to end.
///
/// # Errors
/// When the kernel refuses what the shim itself needs.
pub fn run(listener: UnixListener, _sandbox: String) -> std::io::Result<()> {
    set_up()?;
    minik_fault::point("shim.born");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut server = Server {
        listener,
        signals: sys::signalfd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE])?,
        own_pid_namespace: rustix::fs::open("/proc/self/ns/pid", flags, Mode::empty())?,
        trees: Trees::detect()?,
        connections: BTreeMap::new(),
        next_connection: 0,
        sandbox: None,
        containers: BTreeMap::new(),
        starts: Vec::new(),
        execs: BTreeMap::new(),
        end: false,
    };
    server.listener.set_nonblocking(true)?;
    while !server.end {
        let sources = server.wait()?;
        server.end = sources.is_empty() && server.is_unwanted();
        for source in sources {
            server.handle(source);
        }
    }
    Ok(())
}

/// Makes the forked process one of its own.
fn set_up() -> std::io::Result<()> {
    sys::reset_signals();
    sys::set_name(c"minik-shim");
    // The runtime's session and what it writes to must be able to end without the shim.
    rustix::process::setsid()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    (0..3).try_for_each(|number| sys::dup_onto(&null, number))?;
    rustix::process::chdir("/")?;
    // What a container without its own PID namespace leaves behind is reaped here.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0])?;
    Ok(())
}

impl Server {
    /// Whether nobody wants anything of it.
    fn is_unwanted(&self) -> bool {
        self.connections.is_empty() && self.sandbox.is_none()
    }

    fn wait(&self) -> std::io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        let mut add = |source, fd| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        };
        for (index, start) in self.starts.iter().enumerate().rev() {
            add(Source::Start(index), start.socket.as_fd());
        }
        for (name, container) in &self.containers {
            for (index, (_, output)) in container.outputs.iter().enumerate().rev() {
                add(Source::Output(name.clone(), index), output.as_fd());
            }
        }
        // Ends come after the output that came before them.
        add(Source::Signals, self.signals.as_fd());
        for (number, connection) in &self.connections {
            add(Source::Connection(*number), connection.socket.as_fd());
        }
        match poll(&mut fds, self.is_unwanted().then_some(&WANTED_WITHIN)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|(source, _)| source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => {
                if let Ok((stream, _)) = self.listener.accept()
                    && stream.set_nonblocking(true).is_ok()
                {
                    let connection = Connection { socket: stream.into(), inbox: Inbox::default() };
                    self.connections.insert(self.next_connection, connection);
                    self.next_connection += 1;
                }
            }
            Source::Signals => {
                let mut buffer = [0; 1024];
                let _ = rustix::io::read(&self.signals, &mut buffer);
                self.reap();
            }
            Source::Connection(number) => self.read(number),
            // Sources come with the highest index first, so that one that goes leaves the others in place.
            Source::Start(index) => self.advance(index),
            Source::Output(name, index) => {
                if let Some(container) = self.containers.get_mut(&name)
                    && !container.read(index)
                    && index < container.outputs.len()
                {
                    container.outputs.remove(index);
                }
            }
        }
    }

    fn read(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.inbox.fill(&connection.socket) {
            Ok(()) | Err(FrameError::Socket(Errno::AGAIN)) => {}
            Err(_) => return self.hang_up(number),
        }
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            match connection.inbox.take::<Call>() {
                Ok(Some((call, fds))) => self.call(number, call, fds),
                Ok(None) => return,
                Err(_) => return self.hang_up(number),
            }
        }
    }

    fn hang_up(&mut self, number: u64) {
        self.connections.remove(&number);
        // A runtime that died before it made the sandbox will never come back for it.
        self.end |= self.is_unwanted();
    }

    fn send(&mut self, number: u64, message: &Message, fds: &[OwnedFd]) {
        let Some(connection) = self.connections.get(&number) else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        // One that does not read loses its connection, and learns the state when it connects again.
        if frame::send(&connection.socket, message, &fds).is_err() {
            self.connections.remove(&number);
        }
    }

    fn event(&mut self, event: Event) {
        let message = Message::Event(event);
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.send(number, &message, &[]);
        }
    }

    fn answer(&mut self, asked: (u64, u64), result: Result<Answer, Refusal>) {
        self.answer_with(asked, result, &[]);
    }

    fn answer_with(&mut self, asked: (u64, u64), result: Result<Answer, Refusal>, fds: &[OwnedFd]) {
        let (number, id) = asked;
        self.send(number, &Message::Answer { id, result }, fds);
    }

    fn call(&mut self, number: u64, call: Call, fds: Vec<OwnedFd>) {
        let asked = (number, call.id);
        // A start is answered later, when it is known what came of it.
        let result = match call.request {
            Request::CreateSandbox(spec) => return self.create_sandbox(&spec, asked),
            Request::State => return self.answer(asked, Ok(Answer::State(Box::new(self.state())))),
            Request::Start(spec) => match self.start(*spec, asked) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Request::Exec(spec) => match self.exec(&spec, fds, asked) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Request::Attach { container } => match self.attach(&container, fds) {
                Ok(stdin) => return self.answer_with(asked, Ok(Answer::Done), &Vec::from_iter(stdin)),
                Err(refusal) => Err(refusal),
            },
            Request::Signal { container, signal } => self.signal(&container, signal),
            Request::Kill { container } => self.kill(&container),
            Request::KillExec { exec } => self.kill_exec(&exec),
            Request::Resize { container, columns, rows } => self.resize(&container, columns, rows),
            Request::ReopenLog { container } => self.reopen_log(&container),
            Request::Remove { container } => self.remove(&container),
            Request::Shutdown => {
                self.shut_down();
                Ok(())
            }
        };
        self.answer(asked, result.map(|()| Answer::Done));
    }
}
