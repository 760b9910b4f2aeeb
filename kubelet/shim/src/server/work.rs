//! What the calls do, and what happens when processes end.

use super::{Sandbox, Server};
use crate::cgroup::Limits;
use crate::container::{self, Container, Progress, Surroundings, refused};
use crate::init::{self, Stdio};
use crate::log::Stream;
use crate::pause::Pause;
use crate::protocol::{
    Answer, ContainerSpec, ContainerState, Event, ExecSpec, Exit, PidNamespace, ProcessSpec, Refusal,
    RefusalKind, SandboxSpec, State, VERSION,
};
use crate::time::{now_ns, process};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use std::os::fd::{AsFd, OwnedFd};

/// The CPU weight of a shim and its pause process: they hardly run.
const SANDBOX_CPU_SHARES: i64 = 2;

fn not_found(what: &str, name: &str) -> Refusal {
    Refusal { kind: RefusalKind::NotFound, message: format!("{what} {name:?} not found") }
}

fn wrong_state(message: String) -> Refusal {
    Refusal { kind: RefusalKind::State, message }
}

/// The exit code that a shell would show.
fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

fn exit(status: WaitStatus, oom_killed: bool) -> Exit {
    Exit { code: exit_code(status), oom_killed, finished_at_ns: now_ns() }
}

fn pid_namespace(pid: i32) -> Result<OwnedFd, Refusal> {
    rustix::fs::open(format!("/proc/{pid}/ns/pid"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| refused("open the PID namespace", error))
}

impl Server {
    pub(super) fn create_sandbox(&mut self, spec: &SandboxSpec, asked: (u64, u64)) {
        if self.sandbox.is_some() {
            let refusal = wrong_state("the sandbox is there already".to_owned());
            return self.answer(asked, Err(refusal));
        }
        init::set_oom_score(spec.oom_score_adj);
        let cgroup = self.trees.cgroup(&spec.cgroup);
        let limits = Limits { cpu_shares: SANDBOX_CPU_SHARES, ..Limits::default() };
        let made = cgroup.create(&limits).map_err(|error| refused("make the sandbox's cgroup", error));
        minik_fault::point("shim.sandbox.cgroup");
        let pause =
            made.and_then(|()| Pause::start(spec).map_err(|error| refused("start the sandbox", error)));
        let pause = match pause {
            Ok(pause) => pause,
            Err(refusal) => {
                let _ = cgroup.remove();
                return self.answer(asked, Err(refusal));
            }
        };
        minik_fault::point("shim.sandbox.paused");
        let running = process(pause.pid);
        // Version 1 takes milliseconds for this, which the network's set-up on the other side takes as well.
        self.answer(asked, Ok(Answer::Started(running.clone())));
        minik_fault::point("shim.sandbox.told");
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let placed = cgroup.attach(pause.pid).and_then(|()| cgroup.attach(own));
        minik_fault::point("shim.sandbox.placed");
        self.sandbox = Some(Sandbox { pause, cgroup, process: running, alive: true });
        if placed.is_err() {
            // Outside its cgroup nothing accounts for it, and nobody could find it: better to have none.
            self.shut_down();
        }
    }

    pub(super) fn state(&self) -> State {
        let pause = self.sandbox.as_ref().filter(|sandbox| sandbox.alive);
        State {
            version: VERSION,
            shim_pid: i32::try_from(std::process::id()).unwrap_or(0),
            pause: pause.map(|sandbox| sandbox.process.clone()),
            containers: self
                .containers
                .iter()
                .map(|(name, container)| (name.clone(), container.state.clone()))
                .collect(),
        }
    }

    fn find(&mut self, name: &str) -> Result<&mut Container, Refusal> {
        self.containers.get_mut(name).ok_or_else(|| not_found("container", name))
    }

    pub(super) fn start(&mut self, spec: ContainerSpec, asked: (u64, u64)) -> Result<(), Refusal> {
        // A runtime that died before it was answered asks again after its restart.
        match self.containers.get(&spec.id).map(|container| &container.state) {
            None => {}
            Some(ContainerState::Running(process)) => {
                let process = process.clone();
                self.answer(asked, Ok(Answer::Started(process)));
                return Ok(());
            }
            Some(ContainerState::Starting) => {
                let starts = self.starts.iter_mut();
                let under_way = starts.filter(|start| start.exec.is_none() && start.container == spec.id);
                under_way.for_each(|start| start.asked = asked);
                return Ok(());
            }
            Some(ContainerState::Exited { .. }) => {
                return Err(wrong_state(format!("container {} was started already", spec.id)));
            }
        }
        let target = match &spec.pid {
            PidNamespace::Container(name) => match self.find(name)?.state {
                ContainerState::Running(ref process) => Some(pid_namespace(process.pid)?),
                _ => return Err(wrong_state(format!("target container {name} is not running"))),
            },
            _ => None,
        };
        let sandbox = self.sandbox.as_ref().filter(|sandbox| sandbox.alive);
        let sandbox = sandbox.ok_or_else(|| wrong_state("the sandbox is not running".to_owned()))?;
        let around =
            Surroundings { pause: &sandbox.pause, own_pid_namespace: &self.own_pid_namespace, target };
        let cgroup = self.trees.cgroup(&spec.cgroup);
        let name = spec.id.clone();
        let (container, start) = container::begin(spec, cgroup, &around, asked)?;
        self.containers.insert(name, container);
        self.starts.push(start);
        Ok(())
    }

    pub(super) fn exec(
        &mut self,
        spec: &ExecSpec,
        fds: Vec<OwnedFd>,
        asked: (u64, u64),
    ) -> Result<(), Refusal> {
        let container =
            self.containers.get(&spec.container).ok_or_else(|| not_found("container", &spec.container))?;
        let ContainerState::Running(running) = &container.state else {
            return Err(wrong_state(format!("container {} is not running", spec.container)));
        };
        let stdio: Option<Stdio> = match spec.terminal {
            true => None,
            false => Some(fds.try_into().map_err(|_| wrong_state("stdio is missing".to_owned()))?),
        };
        let mut env = container.process.env.clone();
        if spec.terminal && !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        let process = ProcessSpec {
            args: spec.args.clone(),
            terminal: spec.terminal,
            env,
            ..container.process.clone()
        };
        let Some(sandbox) = &self.sandbox else {
            return Err(wrong_state("the sandbox is not running".to_owned()));
        };
        let target = Some(pid_namespace(running.pid)?);
        let around =
            Surroundings { pause: &sandbox.pause, own_pid_namespace: &self.own_pid_namespace, target };
        let named = (spec.container.as_str(), container);
        let start = container::begin_exec(named, (&spec.exec, process), stdio, &around, asked)?;
        self.starts.push(start);
        Ok(())
    }

    /// Looks how far a start came, and answers when it is known.
    pub(super) fn advance(&mut self, index: usize) {
        let Some(start) = self.starts.get_mut(index) else { return };
        let progress = start.advance();
        if progress != Progress::Pending {
            self.finish_start(index, progress, None);
        }
    }

    /// Ends a start; with the child's status when that was reaped already.
    fn finish_start(&mut self, index: usize, progress: Progress, status: Option<WaitStatus>) {
        let start = self.starts.remove(index);
        if let Progress::Failed(words) = progress {
            // The words that people and tools know from other runtimes.
            let during = if start.exec.is_none() { "error during container init: " } else { "" };
            let words = format!("unable to start container process: {during}{words}");
            // It has nothing to do any more but to end; until then its cgroup cannot go.
            if status.is_none() {
                let _ = rustix::process::waitpid(Pid::from_raw(start.pid), WaitOptions::empty());
            }
            if start.exec.is_none()
                && let Some(mut container) = self.containers.remove(&start.container)
            {
                container.drain();
                container.cgroup.kill();
                let _ = container.cgroup.remove();
            }
            return self.answer(start.asked, Err(Refusal { kind: RefusalKind::Start, message: words }));
        }
        let running = process(start.pid);
        let mut terminal = Vec::new();
        match &start.exec {
            Some(exec) => {
                self.execs.insert(start.pid, exec.clone());
                terminal.extend(start.terminal);
            }
            None => {
                if let Some(container) = self.containers.get_mut(&start.container) {
                    container.state = ContainerState::Running(running.clone());
                    container.pidfd = Pid::from_raw(start.pid)
                        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
                    if let Some(master) = start.terminal {
                        container.take_terminal(master);
                    }
                }
            }
        }
        minik_fault::point("shim.start.runs");
        self.answer_with(start.asked, Ok(Answer::Started(running)), &terminal);
        minik_fault::point("shim.start.told");
        if let Some(status) = status {
            self.ended(start.pid, status);
        }
    }

    /// Takes the status of every process that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            // Whatever it told is there already: it told it before it ended.
            if let Some(index) = self.starts.iter().position(|start| start.pid == pid) {
                let progress = match self.starts[index].advance() {
                    Progress::Pending => Progress::Failed("its end was held by another process".to_owned()),
                    progress => progress,
                };
                self.finish_start(index, progress, Some(status));
                continue;
            }
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) {
        minik_fault::point("shim.reaped");
        if let Some(exec) = self.execs.remove(&pid) {
            return self.event(Event::ExecExited { exec, exit: exit(status, false) });
        }
        if let Some(sandbox) = &mut self.sandbox
            && sandbox.alive
            && sandbox.process.pid == pid
        {
            sandbox.alive = false;
            return self.event(Event::PauseExited { exit: exit(status, false) });
        }
        let container = self.containers.iter_mut().find(|(_, container)| {
            matches!(&container.state, ContainerState::Running(process) if process.pid == pid)
        });
        // Anything else was left behind by a container and only had to be reaped.
        let Some((name, container)) = container else { return };
        let ContainerState::Running(process) = container.state.clone() else { return };
        // Whoever shares its PID namespace may have left processes; alone, the kernel has killed all.
        container.cgroup.kill();
        container.drain();
        let exit = exit(status, container.cgroup.oom_kills() > 0);
        // What cannot be removed yet is removed with the container.
        let _ = container.cgroup.remove();
        container.state = ContainerState::Exited { process, exit: exit.clone() };
        let container = name.clone();
        minik_fault::point("shim.exited");
        self.event(Event::Exited { container, exit });
        minik_fault::point("shim.exited.told");
    }

    pub(super) fn signal(&mut self, name: &str, signal: i32) -> Result<(), Refusal> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| wrong_state(format!("there is no signal {signal}")))?;
        let container = self.find(name)?;
        let Some(pidfd) = &container.pidfd else {
            return Err(wrong_state(format!("container {name} is not running")));
        };
        let sent = rustix::process::pidfd_send_signal(pidfd, signal);
        minik_fault::point("shim.signalled");
        sent.map_err(|error| refused("send the signal", error))
    }

    pub(super) fn kill(&mut self, name: &str) -> Result<(), Refusal> {
        self.find(name)?.cgroup.kill();
        minik_fault::point("shim.killed");
        Ok(())
    }

    pub(super) fn kill_exec(&mut self, exec: &str) -> Result<(), Refusal> {
        let pid = self.execs.iter().find(|(_, name)| *name == exec).map(|(pid, _)| *pid);
        let pid = pid.and_then(Pid::from_raw).ok_or_else(|| not_found("exec", exec))?;
        // Not reaped yet, so the pid is still its own.
        rustix::process::kill_process(pid, Signal::KILL).map_err(|error| refused("kill the process", error))
    }

    pub(super) fn resize(&mut self, name: &str, columns: u16, rows: u16) -> Result<(), Refusal> {
        let container = self.find(name)?;
        let Some(terminal) = &container.terminal else {
            return Err(wrong_state(format!("container {name} has no terminal")));
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(|error| refused("resize the terminal", error))
    }

    pub(super) fn reopen_log(&mut self, name: &str) -> Result<(), Refusal> {
        self.find(name)?.log.reopen().map_err(|error| refused("open the container's log", error))
    }

    pub(super) fn attach(&mut self, name: &str, fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Refusal> {
        let container = self.find(name)?;
        if !matches!(container.state, ContainerState::Running(_)) {
            return Err(wrong_state(format!("container {name} is not running")));
        }
        for fd in &fds {
            rustix::io::ioctl_fionbio(fd, true).map_err(|error| refused("use what attaches", error))?;
        }
        container.attached.push(fds);
        if container.stdin_once && container.terminal.is_none() {
            return Ok(container.stdin.take());
        }
        let stdin = container.terminal.as_ref().or(container.stdin.as_ref());
        let copy = stdin.map(|stdin| stdin.as_fd().try_clone_to_owned()).transpose();
        copy.map_err(|error| refused("hand over stdin", error))
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Refusal> {
        let container = self.find(name)?;
        if !matches!(container.state, ContainerState::Exited { .. }) {
            return Err(wrong_state(format!("container {name} is running")));
        }
        container.cgroup.remove().map_err(|error| refused("remove the container's cgroup", error))?;
        minik_fault::point("shim.removed");
        self.containers.remove(name);
        Ok(())
    }

    /// Kills everything that is of this sandbox. Its own cgroup is the runtime's to remove: it is in it.
    pub(super) fn shut_down(&mut self) {
        for container in self.containers.values() {
            container.cgroup.kill();
        }
        minik_fault::point("shim.shutdown.killed");
        if let Some(sandbox) = &self.sandbox {
            if let (true, Some(pid)) = (sandbox.alive, Pid::from_raw(sandbox.process.pid)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            let _ = &sandbox.cgroup;
        }
        minik_fault::point("shim.shutdown.paused");
        // Everything that is left has been killed: this waits for it to go.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::empty()) {
            self.ended(pid.as_raw_nonzero().get(), status);
        }
        for container in self.containers.values() {
            let _ = container.cgroup.remove();
        }
        minik_fault::point("shim.shutdown.done");
        self.end = true;
    }
}

impl Container {
    /// Reads from the terminal from here on.
    fn take_terminal(&mut self, master: OwnedFd) {
        if let Ok(copy) = master.try_clone() {
            self.outputs = vec![(Stream::Stdout, copy)];
            self.terminal = Some(master);
        }
    }
}
