//! Who writes, watches and asks while processes are killed, and what must be true of what they saw.
//!
//! ```text
//!  Writer ── create, delete ──> API: what was acknowledged, with its resourceVersion; what may have happened
//!  Watcher ── watch, resume where it broke ──> API: every event, in order; a relist only after 410
//!  Asker ── GET ──> a Service's address, as often as there are answers: what was not answered
//! ```

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two writes: a cluster that is killed all the time should have something else to do as well.
const WRITE_EVERY: Duration = Duration::from_millis(4);
/// How long one call may take: who was killed does not answer.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How often the first list is tried.
const LIST_TRIES: usize = 10;
/// How long a connection may take, which the kernel's rules alone make: no rule is missing for longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long the program behind it may take to answer: it has to answer, not to be fast.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Every so manieth write is a deletion.
const DELETE_EVERY: usize = 3;
/// The last write; whoever has seen it has seen all.
const LAST: &str = "last";

/// What the writer was told.
#[derive(Debug, Default)]
struct Written {
    /// Created, by name, with the resourceVersion.
    created: BTreeMap<String, u64>,
    /// Deleted.
    deleted: BTreeSet<String>,
    /// Deletions and creations that nobody answered.
    unknown: BTreeSet<String>,
}

/// What the watcher saw.
#[derive(Debug, Default)]
struct Watched {
    /// What there is, with its resourceVersion.
    state: BTreeMap<String, u64>,
    /// Creations, by name.
    added: BTreeMap<String, u64>,
    /// Deletions.
    deleted: BTreeSet<String>,
    /// How often the watch was begun anew where it broke, and by a list.
    resumed: usize,
    relisted: usize,
}

/// Both, running.
pub struct History {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<Written>>,
    watcher: JoinHandle<Result<Watched>>,
    client: ClientMaker,
}

/// Makes a client in the runtime of a thread of its own.
pub type ClientMaker = Arc<dyn Fn() -> Result<kube::Client> + Send + Sync>;

fn threaded<T: Send + 'static>(
    work: impl AsyncFnOnce() -> Result<T> + Send + 'static,
) -> JoinHandle<Result<T>> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
    })
}

fn revision(map: &ConfigMap) -> Result<u64> {
    map.metadata.resource_version.as_deref().context("no resourceVersion")?.parse().context("resourceVersion")
}

fn name(map: &ConfigMap) -> String {
    map.metadata.name.clone().unwrap_or_default()
}

/// A call with a limit.
async fn call<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    Ok(tokio::time::timeout(CALL_WITHIN, call).await??)
}

impl History {
    /// Begins to write and to watch ConfigMaps of the namespace `default`.
    pub fn begin(client: ClientMaker) -> History {
        let stop = Arc::new(AtomicBool::new(false));
        let (listed, listing) = std::sync::mpsc::channel();
        let make = client.clone();
        let watcher = threaded(async move || watch(Api::default_namespaced(make()?), listed).await);
        // What is written from here on is told by the watch. A watcher that has failed already says so in the end.
        let _ = listing.recv();
        let (ended, make) = (stop.clone(), client.clone());
        let writer = threaded(async move || write(Api::default_namespaced(make()?), &ended).await);
        History { stop, writer, watcher, client }
    }

    /// Ends both and compares what they saw with what there is. Gives it in words.
    pub fn end(self) -> Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        let watched = self.watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        let client = self.client.clone();
        let there =
            threaded(async move || list(&Api::default_namespaced(client()?)).await.map(|(there, _)| there));
        let there = there.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        written.compare(&there)?;
        watched.compare(&written, &there)?;
        Ok(format!(
            "{} created, {} deleted, {} not answered; the watch was resumed {} times, relisted {} times",
            written.created.len(),
            written.deleted.len(),
            written.unknown.len(),
            watched.resumed,
            watched.relisted
        ))
    }
}

impl Written {
    /// Every acknowledged write is there.
    fn compare(&self, there: &BTreeMap<String, u64>) -> Result<()> {
        for (name, revision) in &self.created {
            let is_deleted = self.deleted.contains(name);
            match there.get(name) {
                Some(found) => {
                    ensure!(!is_deleted, "{name} was deleted, and is there");
                    ensure!(found == revision, "{name} was created at {revision}, and is of {found}");
                }
                None => {
                    ensure!(is_deleted || self.unknown.contains(name), "{name} was created, and is not there")
                }
            }
        }
        let all = self.created.keys().chain(&self.unknown).collect::<BTreeSet<_>>();
        match there.keys().find(|name| !all.contains(name)) {
            Some(name) => bail!("{name} is there, and nobody wrote it"),
            None => Ok(()),
        }
    }
}

impl Watched {
    /// What was watched is what there is; and without a relist nothing on the way there is missing.
    fn compare(&self, written: &Written, there: &BTreeMap<String, u64>) -> Result<()> {
        ensure!(self.state == *there, "the watch led to another state than a list shows");
        if self.relisted > 0 {
            return Ok(());
        }
        for (name, revision) in &written.created {
            let seen = self.added.get(name);
            ensure!(seen == Some(revision), "{name} was created at {revision}; the watch told {seen:?}");
        }
        let missing = written.deleted.iter().find(|name| !self.deleted.contains(*name));
        ensure!(missing.is_none(), "{missing:?} was deleted; the watch did not tell it");
        Ok(())
    }
}

async fn write(api: Api<ConfigMap>, stop: &AtomicBool) -> Result<Written> {
    let mut written = Written::default();
    let mut pace = tokio::time::interval(WRITE_EVERY);
    for number in 0usize.. {
        pace.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let oldest = written
            .created
            .keys()
            .find(|name| !written.deleted.contains(*name) && !written.unknown.contains(*name));
        match oldest.cloned().filter(|_| number % DELETE_EVERY == DELETE_EVERY - 1) {
            Some(name) => match call(api.delete(&name, &DeleteParams::default())).await {
                Ok(_) => drop(written.deleted.insert(name)),
                Err(_) => drop(written.unknown.insert(name)),
            },
            None => {
                let name = format!("w{number:06}");
                match call(api.create(&PostParams::default(), &of_name(&name))).await {
                    Ok(made) => drop(written.created.insert(name, revision(&made)?)),
                    Err(_) => drop(written.unknown.insert(name)),
                }
            }
        }
    }
    let mut pace = tokio::time::interval(RETRY_EVERY);
    for _ in 0..1000 {
        pace.tick().await;
        match call(api.create(&PostParams::default(), &of_name(LAST))).await {
            Ok(made) => {
                written.created.insert(LAST.to_owned(), revision(&made)?);
                return Ok(written);
            }
            // The one before it was taken after all.
            Err(error) if format!("{error:#}").contains("already exists") => {
                written.unknown.insert(LAST.to_owned());
                return Ok(written);
            }
            Err(_) => {}
        }
    }
    bail!("the last write is not taken")
}

fn of_name(name: &str) -> ConfigMap {
    let metadata = kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([("written".into(), name.into())])),
        ..Default::default()
    }
}

/// The ConfigMaps that tests write, and the list's resourceVersion.
async fn list(api: &Api<ConfigMap>) -> Result<(BTreeMap<String, u64>, String)> {
    let found = call(api.list(&ListParams::default())).await?;
    let revision_of_list =
        found.metadata.resource_version.clone().context("a list without resourceVersion")?;
    let ours = found.items.iter().filter(|map| is_ours(&name(map)));
    let all = ours.map(|map| Ok((name(map), revision(map)?))).collect::<Result<_>>()?;
    Ok((all, revision_of_list))
}

fn is_ours(name: &str) -> bool {
    name == LAST || name.starts_with('w')
}

/// Lists and watches; drops `listed` once it has begun.
async fn watch(api: Api<ConfigMap>, listed: std::sync::mpsc::Sender<()>) -> Result<Watched> {
    let mut watched = Watched::default();
    let mut pace = tokio::time::interval(RETRY_EVERY);
    let mut first = list(&api).await;
    for _ in 0..LIST_TRIES {
        if first.is_ok() {
            break;
        }
        pace.tick().await;
        first = list(&api).await;
    }
    let (state, mut from) = first?;
    drop(listed);
    watched.state = state;
    for _ in 0..10_000 {
        pace.tick().await;
        let Ok(stream) = api.watch(&WatchParams::default(), &from).await else { continue };
        watched.resumed += 1;
        let mut stream = stream.boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(WatchEvent::Error(status))) if status.code == 410 => {
                    // The retries are bounded by the loop around this.
                    if let Ok((state, revision)) = list(&api).await {
                        (watched.state, from) = (state, revision);
                        watched.relisted += 1;
                    }
                    break;
                }
                Ok(Some(WatchEvent::Bookmark(mark))) => from = mark.metadata.resource_version,
                Ok(Some(event)) => watched.take(event, &mut from)?,
                Ok(None) | Err(_) => break,
            }
            if watched.state.contains_key(LAST) {
                return Ok(watched);
            }
        }
    }
    bail!("the last write was not seen; the watch was resumed {} times", watched.resumed)
}

impl Watched {
    fn take(&mut self, event: WatchEvent<ConfigMap>, from: &mut String) -> Result<()> {
        let (map, is_deletion) = match event {
            WatchEvent::Added(map) | WatchEvent::Modified(map) => (map, false),
            WatchEvent::Deleted(map) => (map, true),
            other => bail!("the watch tells {other:?}"),
        };
        let (at, name) = (revision(&map)?, name(&map));
        ensure!(at > from.parse::<u64>()?, "{name}'s event at {at} comes after {from}");
        *from = at.to_string();
        if !is_ours(&name) {
            return Ok(());
        }
        if is_deletion {
            ensure!(self.state.remove(&name).is_some(), "{name} was deleted, and was not there");
            self.deleted.insert(name);
        } else {
            self.added.insert(name.clone(), at);
            self.state.insert(name, at);
        }
        Ok(())
    }
}

/// Asks a Service over HTTP, again and again.
pub struct Asker {
    stop: Arc<AtomicBool>,
    /// Whether an answer that does not come counts.
    strict: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    refused: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Asker {
    /// Begins to ask.
    pub fn begin(address: SocketAddr) -> Asker {
        let (stop, strict) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let (answered, refused) = (Arc::new(AtomicU64::new(0)), Arc::<Mutex<Vec<String>>>::default());
        let (ended, counts, good, bad) = (stop.clone(), strict.clone(), answered.clone(), refused.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match ask(address) {
                    Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if counts.load(Ordering::Relaxed) => {
                        let at = good.load(Ordering::Relaxed);
                        bad.lock()
                            .expect("nobody panics with it")
                            .push(format!("after {at} answers: {error:#}"));
                    }
                    Err(_) => {}
                }
            }
        });
        Asker { stop, strict, answered, refused, thread }
    }

    /// From here on its Pods may die, so that it may have to wait.
    pub fn forgive(&self) {
        self.strict.store(false, Ordering::Relaxed);
    }

    /// What was not answered so far.
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().expect("nobody panics with it").clone()
    }

    /// Ends. Gives how many answers there were.
    pub fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the asker panicked"))?;
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

fn ask(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN).context("connecting")?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET /name HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading")?;
    ensure!(answer.contains(" 200 ") && answer.contains("web-"), "{answer:?}");
    Ok(())
}
