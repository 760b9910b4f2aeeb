//! The running proxy: informers note which Services changed, one loop renders those and writes the differences.

use crate::book::{Book, Change};
use crate::config::{Config, NodePorts};
use crate::health::{Health, ServicePorts};
use crate::kernel::{self, Kernel};
use crate::metrics::Metrics;
use crate::objects::{Node, Service, ServiceRange, Slice};
use crate::rules::{self, Entry, Frontend, Place, Value, unspecified};
use jiff::Timestamp;
use minik_client::{Backoff, Informer, ObjectKey, Source};
use minik_component::ops::{self, Ops};
use minik_component::{Shutdown, chain};
use minik_net::conntrack::Conntrack;
use minik_net::nftables::Family;
use minik_net::{NetNs, Netlink};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Services and slices that are another proxy's work, or nobody's.
const OURS: &str = "!service.kubernetes.io/service-proxy-name";
const OUR_SLICES: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Changes whose cause is longer ago were not made while this proxy ran.
const MEASURED_WITHIN: Duration = Duration::from_secs(60 * 60);
const UDP: u8 = 17;

/// Why a proxy ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An endpoint cannot be served.
    #[error("cannot serve {what} on {address}")]
    Endpoint {
        /// Health or metrics.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The kernel cannot be spoken to.
    #[error("cannot reach the kernel's packet filter")]
    Kernel(#[from] minik_net::Error),
    /// A part of it ended before its time.
    #[error("the proxy's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Removes a proxy's rules from the calling process's network namespace.
///
/// # Errors
/// When the kernel refuses it.
pub fn clean_up(table: &str) -> Result<(), ProxyError> {
    Ok(Kernel::clean_up(&NetNs::current()?, table)?)
}

/// Keeps the kernel's rules what Services ask for until `shutdown`. The rules stay.
///
/// # Errors
/// When an endpoint cannot be served, the kernel cannot be reached or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), ProxyError> {
    let metrics = Metrics::new(&config.metrics)?;
    let patience = (config.sync_period * 2).max(Duration::from_secs(10));
    let health = Arc::new(Health::new(config.clock.clone(), patience, metrics.clone()));
    let mut parts = JoinSet::new();
    serve(&config, &health, &mut parts, &shutdown).await?;
    let dirty = Arc::new(Dirty::new(config.clone(), metrics.clone(), health.clone()));
    let stores = start_informers(&config, &client, &dirty, &shutdown, &mut parts);
    let ns = match &config.netns {
        Some(ns) => ns.try_clone()?,
        None => NetNs::current()?,
    };
    let work = async {
        // Cancel-safe: waiting only.
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = stores.synced() => {}
        }
        let kernel = Kernel::open(ns.try_clone()?, config.settings.clone())?;
        let ports = ServicePorts::new(health.clone(), config.netns.clone());
        let mut proxy = Proxy {
            config,
            metrics,
            health,
            stores,
            dirty,
            ns,
            ports,
            kernel: Some(kernel),
            book: Book::default(),
        };
        proxy.follow(&shutdown).await
    };
    // Cancel-safe: whichever ends first ends the proxy.
    tokio::select! {
        result = work => result,
        Some(_) = parts.join_next() => match shutdown.is_requested() {
            true => Ok(()),
            false => Err(ProxyError::Ended("informer or endpoint")),
        },
    }
}

async fn serve(
    config: &Config,
    health: &Arc<Health>,
    parts: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), ProxyError> {
    let bind = async |what, address| {
        TcpListener::bind(address).await.map_err(|source| ProxyError::Endpoint { what, address, source })
    };
    if let Some(address) = config.healthz_address {
        let health = health.clone();
        let answer = Arc::new(move |method: &_, path: &_| health.answer(method, path));
        parts.spawn(ops::answer(bind("health", address).await?, answer, shutdown.clone()));
    }
    if let Some(address) = config.metrics_address {
        let ops = Ops::new(config.metrics.clone());
        let answer = Arc::new(move |method: &_, path: &_| ops.answer(method, path));
        parts.spawn(ops::answer(bind("metrics", address).await?, answer, shutdown.clone()));
    }
    Ok(())
}

/// What changed and is not written yet.
struct Dirty {
    state: Mutex<DirtyState>,
    wake: Notify,
    config: Config,
    metrics: Metrics,
    health: Arc<Health>,
}

#[derive(Default)]
struct DirtyState {
    services: HashSet<ObjectKey>,
    node: bool,
    triggered: Vec<Timestamp>,
    endpoint_changes: u64,
    service_changes: u64,
    /// The slices of each Service.
    slices: HashMap<ObjectKey, BTreeSet<Arc<str>>>,
}

impl Dirty {
    fn new(config: Config, metrics: Metrics, health: Arc<Health>) -> Dirty {
        Dirty { state: Mutex::default(), wake: Notify::new(), config, metrics, health }
    }

    fn state(&self) -> MutexGuard<'_, DirtyState> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut DirtyState)) {
        {
            let mut state = self.state();
            change(&mut state);
            self.metrics.endpoint_changes_pending.set(state.endpoint_changes as i64);
            self.metrics.service_changes_pending.set(state.service_changes as i64);
        }
        self.health.queued();
        self.metrics.last_queued.set(self.config.clock.now().as_millisecond() as f64 / 1000.0);
        self.wake.notify_one();
    }

    fn service(&self, change: &minik_client::Change<Service>) {
        self.note(|state| {
            state.service_changes += 1;
            state.services.insert(change.object().metadata.key());
        });
    }

    fn slice(&self, change: &minik_client::Change<Slice>) {
        use minik_client::Change;
        let (before, after) = match change {
            Change::Added(slice) => (None, Some(slice)),
            Change::Updated { old, new } => (Some(old), Some(new)),
            Change::Deleted(slice) => (Some(slice), None),
        };
        self.note(|state| {
            state.endpoint_changes += 1;
            if let Some(slice) = before {
                let key = slice.service_key();
                if let Some(names) = state.slices.get_mut(&key) {
                    names.remove(&slice.metadata.name);
                    if names.is_empty() {
                        state.slices.remove(&key);
                    }
                }
                state.services.insert(key);
            }
            if let Some(slice) = after {
                let key = slice.service_key();
                state.slices.entry(key.clone()).or_default().insert(slice.metadata.name.clone());
                state.services.insert(key);
                state.triggered.extend(slice.triggered);
            }
        });
    }

    fn node(&self, change: &minik_client::Change<Node>) {
        use minik_client::Change;
        if let Change::Updated { old, new } = change
            && (&old.zone, &old.addresses, old.leaving) == (&new.zone, &new.addresses, new.leaving)
        {
            return;
        }
        self.health.leaving(matches!(change, Change::Deleted(_)) || change.object().leaving);
        self.note(|state| state.node = true);
    }
}

struct Stores {
    services: Informer<Service>,
    slices: Informer<Slice>,
    ranges: Informer<ServiceRange>,
    node: Option<Informer<Node>>,
}

impl Stores {
    async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.ranges.synced().await;
        if let Some(node) = &self.node {
            node.synced().await;
        }
    }
}

fn start_informers(
    config: &Config,
    client: &kube::Client,
    dirty: &Arc<Dirty>,
    shutdown: &Shutdown,
    parts: &mut JoinSet<()>,
) -> Stores {
    let source = |path, selector: &str| Source { label_selector: selector.to_owned(), ..Source::all(path) };
    let noted = dirty.clone();
    let services = Informer::<Service>::builder(source("/api/v1/services", OURS))
        .on_change(move |change| noted.service(change));
    let noted = dirty.clone();
    let slices = Informer::<Slice>::builder(source("/apis/discovery.k8s.io/v1/endpointslices", OUR_SLICES))
        .on_change(move |change| noted.slice(change));
    let noted = dirty.clone();
    let ranges = Informer::<ServiceRange>::builder(Source::all("/apis/networking.k8s.io/v1/servicecidrs"))
        .on_change(move |_| noted.note(|_| {}));
    let noted = dirty.clone();
    let name = format!("metadata.name={}", config.node);
    let node = (!config.node.is_empty()).then(|| {
        Informer::<Node>::builder(Source::fields("/api/v1/nodes", name))
            .on_change(move |change| noted.node(change))
    });
    let stores = Stores {
        services: services.informer(),
        slices: slices.informer(),
        ranges: ranges.informer(),
        node: node.as_ref().map(|node| node.informer()),
    };
    parts.spawn(services.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(slices.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(ranges.run(client.clone(), config.chance.clone(), shutdown.clone()));
    if let Some(node) = node {
        parts.spawn(node.run(client.clone(), config.chance.clone(), shutdown.clone()));
    }
    stores
}

struct Proxy {
    config: Config,
    metrics: Metrics,
    health: Arc<Health>,
    stores: Stores,
    dirty: Arc<Dirty>,
    ns: NetNs,
    ports: ServicePorts,
    /// Away while a blocking thread has it.
    kernel: Option<Kernel>,
    book: Book,
}

impl Proxy {
    /// Writes all, then what changes.
    async fn follow(&mut self, shutdown: &Shutdown) -> Result<(), ProxyError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut generation = None;
        loop {
            let began = self.config.clock.elapsed();
            let written = match generation {
                None => self.write_all().await,
                Some(_) => self.write_changes().await,
            };
            let wait = match written {
                Ok(()) => {
                    backoff.reset();
                    generation = self.blocking(Kernel::generation).await.ok();
                    let seconds = (self.config.clock.elapsed() - began).as_secs_f64();
                    self.metrics.sync_seconds.observe(seconds);
                    self.metrics.last_sync.set(self.config.clock.now().as_millisecond() as f64 / 1000.0);
                    self.config.min_sync_period.saturating_sub(self.config.clock.elapsed() - began)
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    generation = None;
                    let wait = backoff.next(&*self.config.chance);
                    tracing::warn!(
                        error = chain(&error),
                        ?wait,
                        "the kernel refused the rules; reading it again"
                    );
                    wait
                }
            };
            // Cancel-safe: both arms only wait.
            tokio::select! { () = shutdown.requested() => return Ok(()), () = tokio::time::sleep(wait) => {} }
            if generation.is_none() {
                continue;
            }
            // Cancel-safe: a notice that was not taken is kept.
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.dirty.wake.notified() => {}
                () = tokio::time::sleep(self.config.sync_period) => {
                    // Nothing is read while nobody changed anything anywhere.
                    if self.blocking(Kernel::generation).await.ok() != generation || self.ranges_matter() {
                        generation = None;
                    }
                }
            }
        }
    }

    /// Works with the kernel on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Kernel) -> minik_net::Result<T> + Send + 'static,
    ) -> Result<T, minik_net::Error> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open(self.ns.try_clone()?, self.config.settings.clone())?,
        };
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut kernel);
            (kernel, result)
        });
        match done.await {
            Ok((kernel, result)) => {
                self.kernel = Some(kernel);
                result
            }
            // A task that panicked must not go unseen.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(minik_net::Error::Socket(std::io::Error::other(error))),
            },
        }
    }

    /// Reads what stands in the kernel and makes it what all Services ask for.
    async fn write_all(&mut self) -> Result<(), minik_net::Error> {
        let there = Arc::new(self.blocking(Kernel::read).await?);
        let taken = self.take();
        let mut keys: HashSet<ObjectKey> = self.book.owners().into_iter().collect();
        keys.extend(self.stores.services.list().iter().map(|service| service.metadata.key()));
        self.render(&keys, &|_, frontend, list, slot| match there.get(&Entry::Slot(frontend, list, slot)) {
            Some(Value::Endpoint(endpoint)) => Some(*endpoint),
            _ => None,
        });
        let changes = self.book.difference(&there);
        tracing::info!(there = there.len(), changes = changes.len(), "rules read");
        drop(there);
        let everything = self.stores.services.list().iter().map(|service| service.metadata.key()).collect();
        self.commit(changes, true, everything).await?;
        self.measured(taken);
        Ok(())
    }

    async fn write_changes(&mut self) -> Result<(), minik_net::Error> {
        let taken = self.take();
        let mut keys = taken.services.clone();
        if taken.node {
            keys.extend(self.book.owners());
            keys.extend(self.stores.services.list().iter().map(|service| service.metadata.key()));
        }
        let changes = self.render(&keys, &|_, _, _, _| None);
        let conntrack = changes.iter().any(kernel::stales_flows);
        self.commit(changes, conntrack, keys).await?;
        self.measured(taken);
        Ok(())
    }

    fn take(&self) -> DirtyState {
        let mut state = self.dirty.state();
        let slices = std::mem::take(&mut state.slices);
        let taken = std::mem::take(&mut *state);
        state.slices = slices;
        taken
    }

    /// Renders Services anew; `slots` says where endpoints stand if the book does not know.
    fn render(
        &mut self,
        keys: &HashSet<ObjectKey>,
        slots: &dyn Fn(&ObjectKey, Frontend, rules::List, u16) -> Option<rules::Endpoint>,
    ) -> Vec<Change> {
        let place = self.place();
        // What belongs to no Service has an owner that no Service's key can be.
        let mut changes = self.book.set(&ObjectKey::default(), self.general(&place));
        for key in keys.iter().filter(|key| **key != ObjectKey::default()) {
            let service = self.stores.services.get(key);
            let slices = self.slices(key);
            let wanted = service.as_ref().map_or_else(Vec::new, |service| {
                let book = &self.book;
                rules::render(service, &slices, &place, &|frontend, list, slot| {
                    book.slot(key, frontend, list, slot).or_else(|| slots(key, frontend, list, slot))
                })
            });
            changes.extend(self.book.set(key, wanted));
            let port = service.as_ref().and_then(|service| service.health_check_port);
            let port = port.filter(|_| !place.node.is_empty());
            if let Err(error) = self.ports.set(key, port, rules::local_ready(&slices, &place)) {
                tracing::warn!(service = %key, error = chain(&error), "cannot serve the Service's health");
            }
        }
        changes
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<Slice>> {
        let state = self.dirty.state();
        let names = state.slices.get(key).into_iter().flatten();
        names.filter_map(|name| self.stores.slices.get(&ObjectKey::new(&key.namespace, name))).collect()
    }

    fn place(&self) -> Place {
        let key = ObjectKey::cluster(&self.config.node);
        let node = self.stores.node.as_ref().and_then(|node| node.get(&key));
        Place {
            node: self.config.node.clone(),
            zone: node.as_ref().map(|node| node.zone.clone()).unwrap_or_default(),
            addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
        }
    }

    /// What belongs to no Service, sorted.
    fn general(&self, place: &Place) -> Vec<(Entry, Value)> {
        let ranges = self.stores.ranges.list();
        let ranges = ranges.iter().flat_map(|range| &range.spec.cidrs).filter_map(|cidr| cidr.parse().ok());
        let ranges = rules::widest(ranges.collect()).into_iter().map(Entry::ServiceRange);
        let addresses = self.node_ports(place).into_iter().map(Entry::NodePortAddress);
        let entries: BTreeSet<Entry> = addresses.chain(ranges).collect();
        entries.into_iter().map(|entry| (entry, Value::Present)).collect()
    }

    /// The addresses that NodePorts listen on; none where they listen on all.
    fn node_ports(&self, place: &Place) -> BTreeSet<IpAddr> {
        let mut found = BTreeSet::new();
        for ports in &self.config.settings.node_ports {
            match ports {
                NodePorts::Primary => found.extend(&place.addresses),
                NodePorts::Range(range) if range.prefix_len() > 0 => {
                    let local = Netlink::open_in(&self.ns).and_then(|mut netlink| netlink.addresses());
                    let local = local.unwrap_or_default().into_iter().map(|address| address.cidr.address());
                    found.extend(local.filter(|address| range.contains(*address)));
                }
                NodePorts::Range(_) => {}
            }
        }
        let all = |v4| self.config.settings.all_addresses(if v4 { Family::Ip } else { Family::Ip6 });
        found.retain(|address| !address.is_loopback() && !all(address.is_ipv4()));
        found
    }

    /// Whether local addresses are looked up, which come and go unseen.
    fn ranges_matter(&self) -> bool {
        let mut ports = self.config.settings.node_ports.iter();
        ports.any(|ports| matches!(ports, NodePorts::Range(range) if range.prefix_len() > 0))
    }

    async fn commit(
        &mut self,
        changes: Vec<Change>,
        conntrack: bool,
        keys: HashSet<ObjectKey>,
    ) -> Result<(), minik_net::Error> {
        if changes.is_empty() && !conntrack {
            return Ok(());
        }
        let affinity = changes.iter().any(|change| kernel::takes_endpoint(&self.book, change));
        self.blocking(move |kernel| kernel.apply(&changes)).await?;
        if affinity {
            let book = std::mem::take(&mut self.book);
            let done = self.blocking(move |kernel| {
                let result = kernel.forget_affinity(|of, endpoint| {
                    let node_port = Frontend { address: unspecified(of.address.is_ipv4()), ..of };
                    let of = if book.get(&Entry::Sticky(of)).is_some() { of } else { node_port };
                    book.sends_to(of, endpoint)
                });
                Ok((book, result))
            });
            let (book, result) = done.await?;
            self.book = book;
            result?;
        }
        if conntrack {
            self.forget_flows(&keys).await;
        }
        Ok(())
    }

    /// Forgets connections over UDP that none of a Service's endpoints answers: the kernel would send on to them for as
    /// long as the client goes on.
    async fn forget_flows(&mut self, keys: &HashSet<ObjectKey>) {
        let mut answering = HashMap::new();
        for key in keys {
            if let Some(service) = self.stores.services.get(key) {
                answering.extend(rules::datagram_flows(&service, &self.slices(key)));
            }
        }
        if answering.is_empty() {
            return;
        }
        let ns = self.ns.try_clone();
        let forgotten = self.blocking(move |_| {
            let mut conntrack = Conntrack::open_in(&ns?)?;
            let stale = conntrack.flows(|flow| {
                let by = |address| {
                    answering.get(&Frontend {
                        address,
                        protocol: crate::objects::Protocol::Udp,
                        port: flow.port,
                    })
                };
                let expected = by(flow.destination).or_else(|| by(unspecified(flow.destination.is_ipv4())));
                flow.protocol == UDP && expected.is_some_and(|expected| !expected.contains(&flow.answers))
            })?;
            stale.iter().try_for_each(|flow| conntrack.forget(flow))?;
            Ok(stale.len())
        });
        match forgotten.await {
            Ok(count) => self.metrics.flows_forgotten.inc_by(count as u64),
            Err(error) => tracing::warn!(error = chain(&error), "cannot forget stale connections"),
        }
    }

    /// Notes that what was taken is written.
    fn measured(&self, taken: DirtyState) {
        self.metrics.endpoint_changes.inc_by(taken.endpoint_changes);
        self.metrics.service_changes.inc_by(taken.service_changes);
        let state = self.dirty.state();
        self.metrics.endpoint_changes_pending.set(state.endpoint_changes as i64);
        self.metrics.service_changes_pending.set(state.service_changes as i64);
        if state.services.is_empty() && !state.node {
            self.health.updated();
        }
        drop(state);
        let now = self.config.clock.now();
        for triggered in taken.triggered {
            let passed = Duration::try_from(now.duration_since(triggered)).unwrap_or_default();
            if passed < MEASURED_WITHIN {
                self.metrics.programming_seconds.observe(passed.as_secs_f64());
            }
        }
    }
}
