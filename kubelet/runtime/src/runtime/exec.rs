//! Commands in running containers.

use super::{Runtime, RuntimeError};
use crate::record::Phase;
use crate::shims::{Shim, ShimError};
use minik_shim::protocol::{Answer, ExecSpec, Exit, Request};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// The most output that a command's answer holds; what comes after it is dropped.
const MOST_OUTPUT_BYTES: usize = 8 * 1024 * 1024;
/// How long output may still come after the command has ended: something that it left behind may hold the pipe.
const OUTPUT_WITHIN: Duration = Duration::from_secs(2);

/// What came of a command.
#[derive(Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub code: i32,
}

/// A command that was started.
pub(crate) struct Running {
    /// Its id.
    pub id: String,
    /// The shim that owns it.
    pub shim: Shim,
    /// Tells how it ended.
    pub exit: oneshot::Receiver<Exit>,
    /// Its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

impl Runtime {
    /// Starts a command in a container. `stdio` is its stdin, stdout and stderr; without it, it gets a terminal.
    pub(crate) async fn start_exec(
        &self,
        container: &str,
        args: Vec<String>,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<Running, RuntimeError> {
        let record = self.container(container)?;
        if record.phase != Phase::Running {
            return Err(RuntimeError::State(format!("container {:?} is not running", record.id)));
        }
        let shim = self.shim(&record.sandbox)?;
        let id = self.new_id();
        let (sender, exit) = oneshot::channel();
        let waiter = (record.sandbox.clone(), sender);
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), waiter);
        let terminal = stdio.is_none();
        let spec = ExecSpec { container: record.id, exec: id.clone(), args, terminal };
        let fds = stdio.map(Vec::from).unwrap_or_default();
        match shim.call_with(Request::Exec(spec), fds).await {
            Ok((Answer::Started(_), mut fds)) => Ok(Running { id, shim, exit, terminal: fds.pop() }),
            other => {
                self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                match other {
                    Err(error) => Err(match super::of_program(&error) {
                        Some(refusal) => RuntimeError::Exec { id, refusal: refusal.clone() },
                        None => error.into(),
                    }),
                    Ok(_) => Err(RuntimeError::State("the shim answers something else".to_owned())),
                }
            }
        }
    }

    /// Copies a container's output into the given descriptors. Gives its shim, its id, and its stdin if it has one.
    pub(crate) async fn attach(
        &self,
        container: &str,
        outputs: Vec<OwnedFd>,
    ) -> Result<(Shim, String, Option<OwnedFd>), RuntimeError> {
        let record = self.container(container)?;
        let shim = self.shim(&record.sandbox)?;
        let request = Request::Attach { container: record.id.clone() };
        let (_, mut stdin) = shim.call_with(request, outputs).await?;
        Ok((shim, record.id, stdin.pop()))
    }

    /// Runs a command in a container and waits for its end; zero waits for ever.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time: it is killed then.
    pub async fn exec_sync(
        &self,
        container: &str,
        args: Vec<String>,
        limit: Duration,
    ) -> Result<Output, RuntimeError> {
        let failed = |source| RuntimeError::File { attempt: "make pipes", source };
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let (stdout, out) = reader().map_err(failed)?;
        let (stderr, err) = reader().map_err(failed)?;
        let null = null.map_err(|error| failed(error.into()))?;
        let mut running = self.start_exec(container, args, Some([null, out, err])).await?;
        let (mut stdout, mut stderr) = (Collected::new(stdout), Collected::new(stderr));
        let wait = async {
            let exit = async {
                let exit = (&mut running.exit).await;
                exit.map_err(|_| RuntimeError::from(ShimError::Gone))
            };
            tokio::pin!(exit);
            loop {
                // Cancel-safe: what was read is in the collections, and the exit is pinned.
                tokio::select! {
                    exit = &mut exit => break exit,
                    () = stdout.more(), if !stdout.ended => {}
                    () = stderr.more(), if !stderr.ended => {}
                }
            }
        };
        let exit = if limit.is_zero() {
            wait.await?
        } else {
            match tokio::time::timeout(limit, wait).await {
                Ok(exit) => exit?,
                Err(_) => {
                    // It may have ended just now.
                    let _ = running.shim.call(Request::KillExec { exec: running.id }).await;
                    let words = format!(
                        "failed to exec in container: timeout {limit:?} exceeded: context deadline exceeded"
                    );
                    return Err(RuntimeError::TimedOut(words));
                }
            }
        };
        let rest = async {
            while !stdout.ended {
                stdout.more().await;
            }
            while !stderr.ended {
                stderr.more().await;
            }
        };
        // What is left behind keeps its pipe; what has come by then is the answer.
        let _ = tokio::time::timeout(OUTPUT_WITHIN, rest).await;
        Ok(Output { stdout: stdout.bytes, stderr: stderr.bytes, code: exit.code })
    }
}

fn reader() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

struct Collected {
    pipe: pipe::Receiver,
    bytes: Vec<u8>,
    ended: bool,
}

impl Collected {
    fn new(pipe: pipe::Receiver) -> Collected {
        Collected { pipe, bytes: Vec::new(), ended: false }
    }

    async fn more(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => self.ended = true,
            Ok(count) => {
                let room = MOST_OUTPUT_BYTES.saturating_sub(self.bytes.len());
                self.bytes.extend_from_slice(&buffer[..count.min(room)]);
            }
        }
    }
}
