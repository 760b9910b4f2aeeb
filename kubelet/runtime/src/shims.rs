//! Shims as the runtime sees them: the zygote that forks them, and the connection to each.

use minik_shim::frame::{self, FrameError, Inbox};
use minik_shim::protocol::{Answer, Call, Event, Message, Refusal, Request};
use minik_shim::zygote::{Spawn, Spawned};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// How long a shim may take to answer: a start waits for mounts and, in version 1 of cgroups, for the kernel.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why a shim could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The zygote cannot be started. Retryable.
    #[error("cannot start the zygote from {path}")]
    Zygote {
        /// The shim's program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The zygote has no shim to give. Retryable.
    #[error("cannot fork a shim: {0}")]
    Fork(String),
    /// The shim's socket cannot be used. Final for the sandbox.
    #[error("cannot reach the shim")]
    Socket(#[source] io::Error),
    /// The shim has gone. Final for the sandbox.
    #[error("the shim has gone")]
    Gone,
    /// It says nothing. Retryable.
    #[error("the shim does not answer")]
    Silent,
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Shims by their sockets in one folder.
pub struct Shims {
    program: PathBuf,
    folder: OwnedFd,
    path: PathBuf,
    zygote: tokio::sync::Mutex<Option<Zygote>>,
}

struct Zygote {
    stream: UnixStream,
    inbox: Inbox,
    child: Child,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Its socket closes with this, and it ends by that; waiting here would block.
        let _ = self.child.try_wait();
    }
}

impl Shims {
    /// Keeps sockets in `folder`, which is made when absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(program: &Path, folder: &Path) -> io::Result<Shims> {
        std::fs::create_dir_all(folder)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(folder, flags, rustix::fs::Mode::empty())?;
        Ok(Shims {
            program: program.to_owned(),
            folder: fd,
            path: folder.to_owned(),
            zygote: tokio::sync::Mutex::new(None),
        })
    }

    /// A path of the socket that is short enough however deep the folder lies.
    fn socket(&self, sandbox: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{sandbox}", self.folder.as_raw_fd()))
    }

    /// The sandboxes that have a socket.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sockets(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Removes the socket of a shim that has gone.
    pub fn forget(&self, sandbox: &str) {
        // Absent is as good.
        let _ = std::fs::remove_file(self.path.join(sandbox));
    }

    /// Starts the zygote, so that the first Pod does not wait for it.
    ///
    /// # Errors
    /// When the shim's program cannot be read or run.
    pub async fn warm_up(&self) -> Result<(), ShimError> {
        let mut zygote = self.zygote.lock().await;
        if zygote.is_none() {
            *zygote = Some(self.start_zygote()?);
        }
        Ok(())
    }

    fn start_zygote(&self) -> Result<Zygote, ShimError> {
        let failed = |source| ShimError::Zygote { path: self.program.clone(), source };
        let image = sealed_copy(&self.program).map_err(failed)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let child = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .arg0("minik-shim")
            .env_clear()
            .envs(std::env::var_os(minik_fault::VARIABLE).map(|folder| (minik_fault::VARIABLE, folder)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let stream = UnixStream::from_std(ours).map_err(failed)?;
        Ok(Zygote { stream, inbox: Inbox::default(), child })
    }

    /// Forks a shim for a sandbox and connects to it.
    ///
    /// # Errors
    /// When there is no zygote to be had, or it cannot fork.
    pub async fn spawn(&self, sandbox: &str) -> Result<UnixStream, ShimError> {
        let path = self.socket(sandbox);
        let bind =
            || std::os::unix::net::UnixListener::bind(&path).map(OwnedFd::from).map_err(ShimError::Socket);
        let mut listener = bind()?;
        minik_fault::point("runtime.shim.listens");
        let mut slot = self.zygote.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut zygote = match slot.take() {
                Some(zygote) => zygote,
                None => self.start_zygote()?,
            };
            match zygote.ask(sandbox, &listener).await {
                Ok(spawned) => {
                    *slot = Some(zygote);
                    spawned.result.map_err(ShimError::Fork)?;
                    break;
                }
                // It was killed: another one takes its place. A shim that it may have forked has a socket that leads nowhere.
                Err(error) if tries < 2 => {
                    tracing::warn!(error = error.to_string(), "the zygote has gone");
                    self.forget(sandbox);
                    listener = bind()?;
                }
                Err(error) => return Err(error),
            }
        }
        drop(slot);
        minik_fault::point("runtime.shim.forked");
        UnixStream::connect(&path).await.map_err(ShimError::Socket)
    }

    /// Connects to the shim of a sandbox that was made earlier.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn reconnect(&self, sandbox: &str) -> Result<UnixStream, ShimError> {
        UnixStream::connect(self.socket(sandbox)).await.map_err(ShimError::Socket)
    }
}

impl Zygote {
    async fn ask(&mut self, sandbox: &str, listener: &OwnedFd) -> Result<Spawned, ShimError> {
        send(&self.stream, &Spawn { sandbox: sandbox.to_owned() }, std::slice::from_ref(listener)).await?;
        loop {
            match self.inbox.take::<Spawned>() {
                Ok(Some((spawned, _))) => return Ok(spawned),
                Ok(None) => fill(&self.stream, &mut self.inbox).await?,
                Err(_) => return Err(ShimError::Gone),
            }
        }
    }
}

/// The program in memory: it stays the same while the file is replaced, and nobody can change it.
fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let bytes = std::fs::read(program)?;
    let fd = memfd_create("minik-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, &bytes)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    // A descriptor that can write keeps a program from being run.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

async fn send(
    stream: &UnixStream,
    message: &impl serde::Serialize,
    fds: &[OwnedFd],
) -> Result<(), ShimError> {
    let bytes =
        frame::encode(message, fds.len()).map_err(|error| ShimError::Socket(io::Error::other(error)))?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while sent < bytes.len() {
        let with = if sent == 0 { fds.as_slice() } else { &[] };
        let some = || frame::send_some(stream, &bytes[sent..], with).map_err(io::Error::from);
        match stream.async_io(Interest::WRITABLE, some).await {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(ShimError::Gone),
        }
    }
    Ok(())
}

async fn fill(stream: &UnixStream, inbox: &mut Inbox) -> Result<(), ShimError> {
    let some = || match inbox.fill(stream) {
        Ok(()) => Ok(()),
        Err(FrameError::Socket(Errno::AGAIN)) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(io::Error::other(error)),
    };
    stream.async_io(Interest::READABLE, some).await.map_err(|_| ShimError::Gone)
}

type Waiting = HashMap<u64, oneshot::Sender<(Result<Answer, Refusal>, Vec<OwnedFd>)>>;

/// A connected shim.
#[derive(Clone)]
pub struct Shim(Arc<Connected>);

struct Connected {
    stream: UnixStream,
    /// One message at a time goes out.
    sending: tokio::sync::Mutex<()>,
    /// Who waits for an answer; none once the shim has gone.
    waiting: Mutex<Option<Waiting>>,
    next: AtomicU64,
    /// Whether it has told that its pause process has ended.
    is_unpaused: AtomicBool,
}

impl Shim {
    /// Takes a connection. Somebody must run [`Shim::listen`] for calls to be answered.
    pub fn new(stream: UnixStream) -> Shim {
        Shim(Arc::new(Connected {
            stream,
            sending: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
            is_unpaused: AtomicBool::new(false),
        }))
    }

    /// Whether nobody answers any more.
    pub fn is_gone(&self) -> bool {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Whether its pause process has ended.
    pub fn is_unpaused(&self) -> bool {
        self.0.is_unpaused.load(Ordering::Acquire)
    }

    /// Hands out answers, and events to `event`, until the shim goes.
    pub async fn listen(&self, mut event: impl FnMut(Event)) {
        let mut inbox = Inbox::default();
        loop {
            match inbox.take::<Message>() {
                Ok(Some((Message::Answer { id, result }, fds))) => {
                    let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(waiter) = waiting.as_mut().and_then(|waiting| waiting.remove(&id)) {
                        // Whoever asked may have gone.
                        let _ = waiter.send((result, fds));
                    }
                }
                Ok(Some((Message::Event(happened), _))) => {
                    if matches!(happened, Event::PauseExited { .. }) {
                        self.0.is_unpaused.store(true, Ordering::Release);
                    }
                    event(happened);
                }
                Ok(None) => {
                    if fill(&self.0.stream, &mut inbox).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(error = error.to_string(), "a shim says what cannot be understood");
                    break;
                }
            }
        }
        // Whoever waits learns by this that no answer comes.
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks something.
    ///
    /// # Errors
    /// When the shim refuses, or has gone.
    pub async fn call(&self, request: Request) -> Result<Answer, ShimError> {
        self.call_with(request, Vec::new()).await.map(|(answer, _)| answer)
    }

    /// Asks something with descriptors, and gives those that come with the answer.
    ///
    /// # Errors
    /// When the shim refuses, or has gone.
    pub async fn call_with(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>), ShimError> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(ShimError::Gone),
        };
        {
            let _turn = self.0.sending.lock().await;
            send(&self.0.stream, &Call { id, request }, &fds).await?;
        }
        drop(fds);
        match tokio::time::timeout(ANSWER_WITHIN, receiver).await {
            Ok(Ok((result, fds))) => Ok((result?, fds)),
            Ok(Err(_)) => Err(ShimError::Gone),
            Err(_) => Err(ShimError::Silent),
        }
    }
}
