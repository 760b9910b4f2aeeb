//! Worlds in processes of their own. What one leaves behind in its process would be another's chance (tokio counts its
//! runtimes, and takes its own chance from that); and a new cluster is the same for all of them, and dear.
//!
//! ```text
//!  each ── fork ──> an era: a new cluster comes to rest ── fork ──> a world: takes the seed's chance, is lived, is told
//! ```
//!
//! So the first process, whose state is the same each time, is forked for each era of seeds, and that process for each
//! world, in the middle of its runtime: beside its thread there is only the one that waits for its end.

use super::{Outcome, live, parts};
use crate::cluster::{STACK_BYTES, Sim};
use crate::entropy;
use anyhow::{Context, anyhow, ensure};
use futures::FutureExt;
use minik_component::Plant;
use minik_fake_nodes::Lost;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Seeds that begin with the same cluster.
const ERA: u64 = 64;
/// How long a new cluster takes to come to rest, in its time: its nodes have been well for long.
const REST: Duration = Duration::from_secs(150);
/// What a world takes at most; many times what the longest took without optimization.
const MOST_CPU_SECONDS: u64 = 120;
/// It waits for nothing that takes time: one that takes so much longer than its CPU hangs.
const MOST_SECONDS: u32 = 1200;
/// What fits into a pipe that nobody reads yet.
const MOST_TEXT: usize = 32 << 10;

/// A world to be lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct World {
    /// Its seed.
    pub seed: u64,
    /// A defect that is switched on.
    pub plant: Option<Plant>,
}

/// What a process says of a world: its place in the list, and the trace or what was wrong.
type Told = (usize, Result<u64, String>);

/// Lives through worlds on all processors, each in a process of its own; `ended` is told what came of each as it ends, and
/// may say that no more are wanted. To be called from the only thread of a process.
///
/// # Errors
/// When processes cannot be made, this one has other threads, or a new cluster does not come to be.
pub fn each(
    worlds: &[World],
    mut ended: impl FnMut(World, Outcome) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    ensure!(threads == 1, "a process of {threads} threads cannot be forked");
    let mut eras = BTreeMap::<u64, Vec<usize>>::new();
    for (at, world) in worlds.iter().enumerate() {
        eras.entry(world.seed / ERA).or_default().push(at);
    }
    for (era, members) in eras {
        let (reads, tells) = io::pipe()?;
        let Some(pid) = fork()? else {
            drop(reads);
            // In a fresh thread no hash map was made yet, so that the keys of all are of the seed.
            std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                let told = thread.spawn_scoped(scope, || live_era(era, worlds, &members, &tells));
                let told = told.map(|thread| thread.join());
                if !matches!(told, Ok(Ok(Ok(())))) {
                    eprintln!("era {era}: {told:?}");
                }
            });
            exit();
        };
        drop(tells);
        let mut missing = members.len();
        for line in BufReader::new(reads).lines() {
            let (at, outcome): Told = serde_json::from_str(&line?)?;
            missing -= 1;
            if ended(worlds[at], outcome.map_err(|error| anyhow!(error))).is_break() {
                // SAFETY: a call without memory; the process is this one's child, not waited for yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                wait(pid)?;
                return Ok(());
            }
        }
        let status = wait(pid)?.1;
        ensure!(missing == 0, "the cluster of era {era} ended with the status {status:#x}");
    }
    Ok(())
}

/// Makes a new cluster, and lives through worlds that begin with it. Returns in the process of the era alone.
fn live_era(era: u64, worlds: &[World], members: &[usize], tells: &PipeWriter) -> anyhow::Result<()> {
    bind_to_parent()?;
    name_machine();
    entropy::seed(era);
    let runtime = Sim::runtime()?;
    runtime.block_on(async {
        let lost = Lost::default();
        let sim = Sim::start(era, parts(lost.clone(), era % 2 == 1)?).await?;
        sim.account().await?;
        // bounded: in the simulation's time
        tokio::time::sleep(REST).await;
        let Some((world, tells)) = fork_worlds(worlds, members, tells)? else { return Ok(()) };
        let told = AssertUnwindSafe(live(sim, &lost, world)).catch_unwind().await;
        tell(tells, told.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
    })
}

/// Forks a process for each world, as many at a time as there are processors, and tells what came of each. Returns with a
/// world and who is to be told in the process of a world, with nothing in the era's.
fn fork_worlds(
    worlds: &[World],
    members: &[usize],
    mut tells: &PipeWriter,
) -> anyhow::Result<Option<(World, PipeWriter)>> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut members, mut alive) = (members.iter(), BTreeMap::new());
    loop {
        while alive.len() < most {
            let Some(at) = members.next() else { break };
            let (reads, leaves) = io::pipe()?;
            match fork()? {
                None => {
                    bind_to_parent()?;
                    limit(libc::RLIMIT_CPU, MOST_CPU_SECONDS)?;
                    // SAFETY: a call without memory.
                    unsafe { libc::alarm(MOST_SECONDS) };
                    return Ok(Some((worlds[*at], leaves)));
                }
                Some(pid) => drop(alive.insert(pid, (*at, reads))),
            }
        }
        if alive.is_empty() {
            return Ok(None);
        }
        let (pid, status) = wait(-1)?;
        let Some((at, reads)) = alive.remove(&pid) else { continue };
        let told: Told = (at, left(reads, status).map_err(|error| format!("{error:#}")));
        tells.write_all(format!("{}\n", serde_json::to_string(&told)?).as_bytes())?;
    }
}

/// Leaves what came of a world, and ends its process.
fn tell(mut tells: PipeWriter, outcome: Outcome) -> ! {
    let mut text = match outcome {
        Ok(trace) => format!("+{trace}"),
        Err(error) => format!("-{error:#}"),
    };
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    if let Err(error) = tells.write_all(text.as_bytes()) {
        eprintln!("what came of a world is lost: {error}");
    }
    exit()
}

/// What a process left of its world.
fn left(mut reads: PipeReader, status: i32) -> Outcome {
    let mut text = String::new();
    reads.read_to_string(&mut text)?;
    match text.split_at_checked(1) {
        Some(("+", trace)) => Ok(trace.parse()?),
        Some((_, error)) => Err(anyhow!("{error}")),
        None => Err(anyhow!("its process ended with the status {status:#x}, or took too long")),
    }
}

/// Gives the new process, or nothing in the new process.
fn fork() -> anyhow::Result<Option<i32>> {
    io::stdout().flush()?;
    // SAFETY: this is the only thread (`each` has looked), or in an era the only one beside one that waits for its end, so
    // the child lacks none that holds a lock.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()).context("cannot fork"),
    }
}

/// Ends this process at once: what it has open and would flush is its parent's.
fn exit() -> ! {
    // SAFETY: ends the process; nothing is left that could be used.
    unsafe { libc::_exit(0) }
}

/// This process ends with its parent.
fn bind_to_parent() -> anyhow::Result<()> {
    // SAFETY: a call without memory.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    ensure!(done == 0, "cannot bind a process to its parent: {}", io::Error::last_os_error());
    Ok(())
}

/// Gives the machine the same name everywhere, for this thread and its children: servers write it down. Who may not do so
/// lives in the same worlds with other names.
fn name_machine() {
    const NAME: &str = "sim";
    // SAFETY: a call without memory, and one that reads as many bytes as `NAME` has.
    unsafe {
        if libc::unshare(libc::CLONE_NEWUTS) == 0 {
            libc::sethostname(NAME.as_ptr().cast(), NAME.len());
        }
    }
}

fn limit(what: libc::__rlimit_resource_t, most: u64) -> anyhow::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    let done = unsafe {
        libc::getrlimit(what, &mut limit)
            | libc::setrlimit(what, &libc::rlimit { rlim_cur: most.min(limit.rlim_max), ..limit })
    };
    ensure!(done == 0, "cannot set a limit: {}", io::Error::last_os_error());
    Ok(())
}

/// Waits for a process to end, or for any.
fn wait(pid: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(pid, &mut status, 0) } {
        pid if pid > 0 => Ok((pid, status)),
        _ => Err(io::Error::last_os_error()),
    }
}
