//! `minik supervise`: starts a cluster's processes, watches them, starts them again.
//!
//! ```text
//!  cluster.json ──> units ──> one task a unit: adopt or spawn ──> pidfd ──> ended ──> backoff ──> spawn
//!                                  │ state                          ^ stop, turn by turn
//!                                  └──> Report (watch channel) ──> control socket <── minikctl
//! ```
//! If it ends, the processes run on; another one finds them by what was written down and adopts them.

pub(crate) mod control;
pub(crate) mod process;

use crate::cgroup::Cgroups;
use crate::config::{ClusterConfig, make_private_dir};
use crate::error::{Error, Result, file};
use crate::layout::{Layout, Roots};
use crate::spawn::{Spawn, inherited};
use crate::units::{LAST_TURN, Unit, units};
use crate::{network, pki, routes};
use control::{Ask, Report, UnitState};
use jiff::Timestamp;
use minik_component::{Shutdown, TelemetryFlags, chain};
use process::Process;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The first pause before a process is started again, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that ran for this long starts over with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

/// The supervisor's name among the processes.
pub(crate) const SUPERVISOR: &str = "supervise";

/// Flags of `minik supervise`.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Folder of all clusters' lasting files
    #[arg(long, value_name = "DIR")]
    pub state_root: PathBuf,
    /// Folder of all clusters' passing files
    #[arg(long, value_name = "DIR")]
    pub run_root: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// Supervises until a stop is asked for over the socket, or until `shutdown`, which leaves the processes running.
///
/// # Errors
/// When there is no such cluster, another supervisor has it, or the kernel refuses what it needs.
pub async fn run(flags: Flags, shutdown: Shutdown) -> Result<()> {
    let layout = Roots { state: flags.state_root, run: flags.run_root }.cluster(&flags.cluster)?;
    let config = ClusterConfig::load(&layout)?.ok_or(Error::Unknown { name: flags.cluster })?;
    let _lock = only_one(&layout)?;
    let control = control::listen(&layout, inherited())?;
    let shared = Arc::new(Shared::new(layout, config)?);
    let mut tasks = JoinSet::new();
    shared.reload(&mut tasks)?;
    let routes = follow_routes(&shared, &shutdown)?;
    let mut renewal = tokio::time::interval(LOOK_EVERY);
    let (ask, mut asked) = mpsc::channel(control::MOST_ASKED);
    let serving = control::serve(control, shared.report.clone(), ask);
    tokio::pin!(serving, routes);
    loop {
        // Cancel-safe: a tick, a request or an ended task is not lost; the server is one future that is polled on.
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            result = &mut serving => result?,
            () = &mut routes => return Ok(()),
            _ = renewal.tick() => renew(&shared),
            Some((ask, taken)) = asked.recv() => {
                match ask {
                    Ask::Follow => {}
                    Ask::Stop => shared.stop(),
                    Ask::Reload => if let Err(error) = shared.reload(&mut tasks) {
                        tracing::error!(error = chain(&error), "cannot read the description again");
                        continue;
                    },
                }
                // Whoever asked may have gone.
                let _ = taken.send(());
            }
            ended = tasks.join_next() => match ended {
                // All have stopped: the last report goes out, and the work is done.
                None => {
                    shared.report.send_modify(|report| report.stopped = true);
                    control::flush(&mut serving).await;
                    return Ok(());
                }
                Some(Ok(())) => {}
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }
}

/// Routes to the Pods on other machines, where there can be any; ends with `shutdown` only.
fn follow_routes(shared: &Shared, shutdown: &Shutdown) -> Result<impl Future<Output = ()>> {
    let config = shared.config();
    let client = match config.joined.is_some() || config.api_address.is_some() {
        true => Some(minik_client::connect(&pki::admin_access(&shared.layout, &config)?, "default")?),
        false => None,
    };
    let (cluster, shutdown) = (shared.layout.name.clone(), shutdown.clone());
    Ok(async move {
        match client {
            Some(client) => routes::follow(config, cluster, client, shutdown).await,
            None => shutdown.requested().await,
        }
    })
}

/// Holds the lock that makes this the only supervisor of the cluster.
fn only_one(layout: &Layout) -> Result<File> {
    let path = layout.run.join("supervise.lock");
    make_private_dir(&layout.run)?;
    let held = File::options().create(true).append(true).open(&path).map_err(file("open", &path))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)
        .map_err(file("lock (another supervisor runs)", &path))?;
    Ok(held)
}

fn renew(shared: &Shared) {
    match pki::ensure(&shared.layout, &shared.config(), Timestamp::now()) {
        Ok(true) => tracing::info!("renewed certificates"),
        Ok(false) => {}
        Err(error) => tracing::error!(error = chain(&error), "cannot renew the certificates"),
    }
}

/// What shall stop.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// Units of this and earlier turns.
    turn: Option<u8>,
    /// Units that are no longer in the description.
    gone: BTreeSet<String>,
}

/// What all units' tasks share.
struct Shared {
    layout: Layout,
    config: Mutex<Arc<ClusterConfig>>,
    cgroups: Cgroups,
    /// The API's listening sockets: whoever connects while the apiserver starts waits in their queue.
    sockets: OnceLock<Vec<OwnedFd>>,
    report: watch::Sender<Report>,
    stop: watch::Sender<Stop>,
}

impl Shared {
    fn new(layout: Layout, config: ClusterConfig) -> Result<Shared> {
        let cgroups = Cgroups::of(&layout.name)?;
        let (report, stop) = (watch::Sender::new(Report::default()), watch::Sender::new(Stop::default()));
        let config = Mutex::new(Arc::new(config));
        Ok(Shared { layout, config, cgroups, sockets: OnceLock::new(), report, stop })
    }

    /// The description as it is now.
    fn config(&self) -> Arc<ClusterConfig> {
        // It is replaced as a whole.
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts what is in the description and has no task yet, and stops what is no longer in it.
    fn reload(self: &Arc<Shared>, tasks: &mut JoinSet<()>) -> Result<()> {
        if let Some(config) = ClusterConfig::load(&self.layout)? {
            *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        }
        let wanted = units(&self.layout, &self.config());
        let kept: BTreeSet<String> = self.report.borrow().units.keys().cloned().collect();
        let gone =
            kept.iter().filter(|name| !wanted.iter().any(|unit| unit.name == **name)).cloned().collect();
        self.stop.send_modify(|stop| stop.gone = gone);
        for unit in wanted.into_iter().filter(|unit| !kept.contains(&unit.name)) {
            self.state(&unit, |state| state.stop_turn = unit.stop_turn);
            tasks.spawn(keep(self.clone(), unit));
        }
        Ok(())
    }

    fn stop(&self) {
        self.stop.send_if_modified(|stop| stop.turn.is_none() && stop.turn.replace(0).is_none());
    }

    fn state(&self, unit: &Unit, change: impl FnOnce(&mut UnitState)) {
        self.report.send_modify(|report| change(report.units.entry(unit.name.clone()).or_default()));
    }

    /// The sockets, opened when they are first needed: an adopted apiserver has its own.
    fn api_sockets(&self) -> Result<&[OwnedFd]> {
        if let Some(sockets) = self.sockets.get() {
            return Ok(sockets);
        }
        let sockets = network::api_sockets(&self.layout, &self.config())?;
        Ok(self.sockets.get_or_init(|| sockets))
    }

    fn spawn(&self, unit: &Unit) -> Result<Process> {
        let log = self.layout.log(&unit.name);
        let out = File::options().create(true).append(true).open(&log).map_err(file("open", &log))?;
        let program = self.config().programs.join("minik");
        let short = unit.name.rsplit('/').next().unwrap_or(&unit.name);
        let (cgroups, namespaces) = match &unit.node {
            None => (self.cgroups.enter(&format!("control-plane/{short}"))?, Vec::new()),
            Some(node) => {
                let pins = ["net", "cgroup", "mnt"].map(|kind| self.layout.node(node).pin(kind));
                let open = |pin: &PathBuf| File::open(pin).map_err(file("open", pin));
                (self.cgroups.enter_node(node, short)?, pins.iter().map(open).collect::<Result<_>>()?)
            }
        };
        let sockets = if unit.listens { self.api_sockets()? } else { &[] };
        let spawn = Spawn {
            program: &program,
            args: &unit.args,
            log: &out,
            cgroups: &cgroups,
            namespaces: &namespaces,
            sockets,
        };
        let (pid, pidfd) = spawn.start().map_err(file("start", &program))?;
        let process = Process::watch(pid, pidfd)?;
        // One that has ended at once cannot be looked at; it is started again like any other.
        if let Err(error) = process.remember(&self.layout.pid(&unit.name)) {
            tracing::warn!(unit = unit.name, error = chain(&error), "cannot write down who the process is");
        }
        Ok(process)
    }
}

/// Keeps one unit running until its turn to stop.
async fn keep(shared: Arc<Shared>, unit: Unit) {
    let mut stop = shared.stop.subscribe();
    let mut pause = FIRST_PAUSE;
    let mut found = Process::recall(&shared.layout.pid(&unit.name));
    loop {
        let adopted = found.is_some();
        let started = found.take().map_or_else(|| shared.spawn(&unit), Ok);
        let began = tokio::time::Instant::now();
        let end = match started {
            Err(error) => chain(&error),
            Ok(process) => {
                tracing::info!(unit = unit.name, pid = process.pid.as_raw_nonzero(), adopted, "runs");
                shared.state(&unit, |state| {
                    state.pid = Some(process.pid.as_raw_nonzero().get());
                    state.starts += 1;
                });
                // Cancel-safe: both only wait.
                tokio::select! {
                    end = process.ended() => end,
                    () = turn_comes(&mut stop, &unit) => {
                        terminate(&unit, &process).await;
                        break;
                    }
                }
            }
        };
        tracing::warn!(unit = unit.name, end, "ended");
        shared.state(&unit, |state| (state.pid, state.last_end) = (None, Some(end)));
        pause = if began.elapsed() > HEALTHY_AFTER { FIRST_PAUSE } else { pause };
        // Cancel-safe: both only wait.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = turn_comes(&mut stop, &unit) => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if let Err(error) = process::forget(&shared.layout.pid(&unit.name)) {
        tracing::warn!(unit = unit.name, error = chain(&error), "cannot forget the process");
    }
    if stop.borrow().gone.contains(&unit.name) {
        shared.report.send_modify(|report| drop(report.units.remove(&unit.name)));
    } else {
        shared.state(&unit, |state| state.pid = None);
    }
    next_turn(&shared);
}

async fn turn_comes(stop: &mut watch::Receiver<Stop>, unit: &Unit) {
    let ours =
        |stop: &Stop| stop.turn.is_some_and(|now| now >= unit.stop_turn) || stop.gone.contains(&unit.name);
    // The sender lives in what all tasks share.
    let _ = stop.wait_for(ours).await;
}

/// When all of a turn are gone, the next one's turn comes.
fn next_turn(shared: &Shared) {
    let report = shared.report.borrow();
    let running = report.units.values().filter(|state| state.pid.is_some());
    let next = running.map(|state| state.stop_turn).min().unwrap_or(LAST_TURN);
    shared.stop.send_if_modified(|stop| match &mut stop.turn {
        Some(turn) if *turn < next => {
            *turn = next;
            true
        }
        _ => false,
    });
}

/// Asks it to end, and makes it end.
async fn terminate(unit: &Unit, process: &Process) {
    let signal = |signal| {
        if let Err(error) = process.signal(signal) {
            tracing::error!(unit = unit.name, error = chain(&error), "cannot end it");
        }
    };
    signal(Signal::TERM);
    if tokio::time::timeout(END_WITHIN, process.ended()).await.is_err() {
        tracing::warn!(unit = unit.name, "does not end by itself; killing it");
        signal(Signal::KILL);
        process.ended().await;
    }
    tracing::info!(unit = unit.name, "stopped");
}
