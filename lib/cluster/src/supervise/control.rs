//! The supervisor's socket: one line of JSON asks, lines of JSON answer, one a change.
//!
//! Only root (or the cluster's owner) can reach it: its folder's and its own mode say so.

use crate::error::{Error, Result, file, system};
use crate::layout::Layout;
use crate::supervise::SUPERVISOR;
use crate::supervise::process::Process;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// How long a request may take to arrive.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long the last report may take to be delivered.
const FLUSH_WITHIN: Duration = Duration::from_millis(200);
/// Connections at a time: a few `minikctl`.
const MOST_CONNECTIONS: usize = 32;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ask {
    /// The state, now and at each change.
    Follow,
    /// Stop everything; the state at each change until all is stopped.
    Stop,
    /// Read the description again, stop what is no longer in it and start what is new; then as [`Ask::Follow`].
    Reload,
}

/// A request on its way to the supervisor, and who waits until it is taken up.
pub(crate) type Asked = (Ask, oneshot::Sender<()>);
/// Requests that wait: a connection has one at a time.
pub(crate) const MOST_ASKED: usize = MOST_CONNECTIONS;

/// The state of all processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By name; those too that are to be started, or still to be stopped.
    pub units: BTreeMap<String, UnitState>,
    /// All were stopped on request.
    pub stopped: bool,
}

/// The state of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitState {
    /// Its id while it runs.
    pub pid: Option<i32>,
    /// How often it was started or found running.
    pub starts: u32,
    /// How it ended the last time.
    pub last_end: Option<String>,
    /// When it is stopped.
    #[serde(skip)]
    pub(crate) stop_turn: u8,
}

/// The socket: inherited, or made anew.
pub(crate) fn listen(layout: &Layout, inherited: Vec<OwnedFd>) -> Result<UnixListener> {
    let listener = match inherited.into_iter().next() {
        Some(fd) => std::os::unix::net::UnixListener::from(fd),
        None => bind(layout)?,
    };
    listener.set_nonblocking(true).map_err(system("use the control socket"))?;
    UnixListener::from_std(listener).map_err(system("use the control socket"))
}

/// Makes the socket; nobody else serves it.
pub(crate) fn bind(layout: &Layout) -> Result<std::os::unix::net::UnixListener> {
    let path = layout.control();
    crate::config::make_private_dir(&layout.run)?;
    // What a supervisor that is gone left behind.
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(file("listen on", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(file("protect", &path))?;
    Ok(listener)
}

/// Serves for ever.
pub(crate) async fn serve(
    listener: UnixListener,
    report: watch::Sender<Report>,
    asked: mpsc::Sender<Asked>,
) -> Result<()> {
    let mut open = JoinSet::new();
    loop {
        // Cancel-safe: accept and join_next lose nothing.
        tokio::select! {
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < MOST_CONNECTIONS => {
                let (stream, _) = accepted.map_err(system("accept on the control socket"))?;
                open.spawn(answer(stream, report.subscribe(), asked.clone()));
            }
        }
    }
}

/// Lets answers that are under way go out.
pub(crate) async fn flush(serving: &mut Pin<&mut impl Future<Output = Result<()>>>) {
    // Nobody may be listening any more; then there is nothing to wait for.
    let _ = tokio::time::timeout(FLUSH_WITHIN, serving).await;
}

/// One connection: whoever breaks it off has nothing to be told.
async fn answer(stream: UnixStream, mut report: watch::Receiver<Report>, asked: mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let came = tokio::time::timeout(ASK_WITHIN, BufReader::new(read).read_line(&mut line)).await;
    let (Ok(Ok(_)), Ok(ask)) = (came, serde_json::from_str::<Ask>(&line)) else { return };
    let (taken, wait) = oneshot::channel();
    if ask != Ask::Follow && (asked.send((ask, taken)).await.is_err() || wait.await.is_err()) {
        return;
    }
    loop {
        let now = report.borrow_and_update().clone();
        let Ok(mut text) = serde_json::to_vec(&now) else { return };
        text.push(b'\n');
        if write.write_all(&text).await.is_err() || now.stopped || report.changed().await.is_err() {
            return;
        }
    }
}

/// A client's side: the reports that follow a request.
pub(crate) struct Reports {
    lines: tokio::io::Lines<BufReader<UnixStream>>,
}

impl Reports {
    /// Asks the cluster's supervisor; `None` when none runs.
    pub async fn ask(layout: &Layout, ask: Ask) -> Result<Option<Reports>> {
        let path = layout.control();
        // A socket outlives its supervisor where a child of it holds it open.
        if Process::recall(&layout.pid(SUPERVISOR)).is_none() {
            return Ok(None);
        }
        let mut stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(file("connect to", &path)(error)),
        };
        let mut text =
            serde_json::to_vec(&ask).map_err(|source| Error::Format { path: path.clone(), source })?;
        text.push(b'\n');
        stream.write_all(&text).await.map_err(file("ask", &path))?;
        Ok(Some(Reports { lines: BufReader::new(stream).lines() }))
    }

    /// The report as it is now, which comes at once.
    pub async fn first(&mut self) -> Result<Option<Report>> {
        let late = |_| Error::Late {
            what: "the supervisor did not answer",
            seconds: ASK_WITHIN.as_secs(),
            state: "its socket is open".to_owned(),
        };
        tokio::time::timeout(ASK_WITHIN, self.next()).await.map_err(late)?
    }

    /// The next report; `None` when the supervisor has ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Report>> {
        let line = self.lines.next_line().await.map_err(system("read the supervisor's answer"))?;
        let parse = |line: String| serde_json::from_str(&line);
        line.map(parse)
            .transpose()
            .map_err(|source| Error::Format { path: "the supervisor's answer".into(), source })
    }
}
