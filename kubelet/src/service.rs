//! The running kubelet: what is started, in which order, and what ends it.

use crate::api::{Api, ApiError, Auth, State};
use crate::certificates::Keeper;
use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::containers::sandbox::Resolver;
use crate::containers::services::ServiceObject;
use crate::dispatch::{Dispatcher, Mailboxes};
use crate::images::Images;
use crate::metrics::Metrics;
use crate::names;
use crate::node::{HealthLook, Machine, NodeFacts, NodeKeeper, NodeObject, NodeUpdate, machine};
use crate::objects::Objects;
use crate::pod::PodObject;
use crate::runtime::{GrpcRuntime, Runtime};
use crate::status::writer::StatusWriter;
use crate::upkeep::Upkeep;
use crate::volumes::Volumes;
use crate::watches::Watches;
use crate::worker::Context;
use futures::StreamExt;
use minik_client::{Backoff, EventApi, EventRecorder, Informer, Reporter, Source};
use minik_component::{Shutdown, chain};
use minik_cri::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// A runtime that tells no events is asked this often.
const RELIST_EVERY: Duration = Duration::from_secs(1);

/// Why a kubelet ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The runtime's endpoint is malformed.
    #[error("--container-runtime-endpoint cannot be used")]
    Endpoint(#[source] minik_cri::ConnectError),
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The node has no address.
    #[error("the node has no address: give one by --node-ip")]
    NoAddress,
    /// The node's API cannot be served.
    #[error("cannot serve the node's API")]
    Api(#[from] ApiError),
    /// A part of it ended before its time.
    #[error("the kubelet's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Carries out the node's Pods until `shutdown`; containers run on.
///
/// # Errors
/// When the runtime's endpoint is malformed, the node has no address, or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), KubeletError> {
    // Cancel-safe: nothing was begun yet.
    let runtime = tokio::select! {
        () = shutdown.requested() => return Ok(()),
        runtime = connect(&config) => Arc::new(runtime?),
    };
    let version = tokio::select! {
        () = shutdown.requested() => return Ok(()),
        version = first_version(&config, &*runtime) => version,
    };
    run_with(config, client, runtime, version, shutdown).await
}

async fn connect(config: &Config) -> Result<GrpcRuntime, KubeletError> {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        match minik_cri::connect(&config.runtime_endpoint).await {
            Ok(channel) => return Ok(GrpcRuntime::new(channel)),
            Err(error @ minik_cri::ConnectError::Endpoint(_)) => return Err(KubeletError::Endpoint(error)),
            Err(error) => {
                tracing::info!(error = chain(&error), "waiting for the runtime");
                tokio::time::sleep(backoff.next(&*config.chance)).await;
            }
        }
    }
}

async fn first_version(config: &Config, runtime: &dyn Runtime) -> v1::VersionResponse {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        match runtime.version().await {
            Ok(version) => return version,
            Err(error) => {
                tracing::info!(%error, "waiting for the runtime");
                tokio::time::sleep(backoff.next(&*config.chance)).await;
            }
        }
    }
}

fn facts(
    config: &Config,
    version: &v1::VersionResponse,
    features: v1::StatusResponse,
    port: u16,
) -> Result<NodeFacts, KubeletError> {
    let given = config.node_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ips = match given.is_empty() {
        false => given,
        true => vec![machine::default_address().ok_or(KubeletError::NoAddress)?.to_string()],
    };
    // The folder is made if need be, so that its file system can be told.
    let _ = std::fs::create_dir_all(&config.root_dir);
    Ok(NodeFacts {
        name: config.node_name.clone(),
        machine: Machine::read(config.cpu.as_deref(), config.memory.as_deref()),
        ips,
        port,
        max_pods: config.max_pods,
        runtime: (version.runtime_name.clone(), version.runtime_version.clone()),
        labels: config.labels.clone(),
        taints: config.taints.clone(),
        pod_cidr: config.pod_cidr.clone(),
        thresholds: config.thresholds,
        features,
        file_system: machine::file_system(&config.root_dir).unwrap_or_default(),
    })
}

/// The kubelet with a given runtime.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_with(
    config: Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    version: v1::VersionResponse,
    shutdown: Shutdown,
) -> Result<(), KubeletError> {
    let api = match &config.api {
        Some(api) => Some(Api::bind(api).await?),
        None => None,
    };
    let facts = facts(
        &config,
        &version,
        runtime.status().await.unwrap_or_default(),
        api.as_ref().map_or(0, Api::port),
    )?;
    let reporter =
        Reporter { component: "kubelet".into(), instance: config.node_name.clone(), api: EventApi::Core };
    let (recorder, events) = EventRecorder::new(reporter, config.clock.clone(), config.chance.clone());
    let writer = StatusWriter::new(config.chance.clone());
    let changed = Arc::new(Notify::new());
    let node_name = config.node_name.clone();
    let notify = changed.clone();
    let pods =
        Informer::<PodObject>::builder(Source::fields("/api/v1/pods", format!("spec.nodeName={node_name}")))
            .on_change(move |_| notify.notify_one());
    let (told, mut told_seen) = watch::channel(NodeUpdate::default());
    let own_node = Source::fields("/api/v1/nodes", format!("metadata.name={node_name}"));
    let nodes = Informer::<NodeObject>::builder(own_node).on_change(move |change| {
        let now = change.object().update();
        told.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
    });
    let services = Informer::<ServiceObject>::builder(Source::all("/api/v1/services"));
    let objects = Arc::new(Objects::new(client.clone(), config.clock.clone()));
    let mailboxes = Mailboxes::default();
    let context = Arc::new(Context {
        mailboxes: mailboxes.clone(),
        watches: Watches::new(client.clone(), config.chance.clone(), mailboxes.clone()),
        metrics: Metrics::new(&config.metrics, &config.node_name)?,
        images: Images::new(runtime.clone(), config.clock.clone()),
        volumes: Volumes::new(&config.root_dir, objects.clone()),
        cgroups: Cgroups::discover(config.cgroup_root.as_deref(), config.pod_max_pids),
        resolver: Resolver::parse(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default()),
        runtime: runtime.clone(),
        runtime_name: version.runtime_name.clone(),
        recorder,
        writer: writer.clone(),
        objects,
        services: services.informer(),
        node: facts.clone(),
        config: config.clone(),
    });
    let (pods_seen, nodes_seen) = (pods.informer(), nodes.informer());
    let (health, health_seen) = watch::channel(HealthLook::first(&*runtime).await);
    let (served, served_seen) = watch::channel(!config.certificates.server);
    let certificates = Keeper {
        config: config.certificates.clone(),
        node: facts.name.clone(),
        ips: facts.ips.clone(),
        client: client.clone(),
        registered: told_seen.clone(),
        served,
        clock: config.clock.clone(),
        chance: config.chance.clone(),
    };
    let keeper = NodeKeeper {
        facts,
        recorder: context.recorder.clone(),
        health: health_seen.clone(),
        register: config.register,
        client: client.clone(),
        clock: config.clock.clone(),
        chance: config.chance.clone(),
    };
    let mut parts = JoinSet::new();
    parts.spawn(named("event writer", events.run(client.clone(), shutdown.clone())));
    parts.spawn(named("status writer", writer.run(client.clone(), shutdown.clone())));
    parts.spawn(named("pod informer", pods.run(client.clone(), config.chance.clone(), shutdown.clone())));
    parts.spawn(named("node informer", nodes.run(client.clone(), config.chance.clone(), shutdown.clone())));
    parts.spawn(named(
        "service informer",
        services.run(client.clone(), config.chance.clone(), shutdown.clone()),
    ));
    parts.spawn(named("certificates", certificates.run(shutdown.clone())));
    parts.spawn(named("node keeper", keeper.run(shutdown.clone())));
    let look = HealthLook {
        runtime: runtime.clone(),
        root: config.root_dir.clone(),
        told: health,
        thresholds: config.thresholds,
    };
    parts.spawn(named("health", look.run(shutdown.clone())));
    let follower = Follower { context: context.clone(), mailboxes: mailboxes.clone() };
    parts.spawn(named("runtime events", follower.run(shutdown.clone())));
    let upkeep = Upkeep { context: context.clone(), mailboxes: mailboxes.clone(), health: health_seen };
    parts.spawn(named("upkeep", upkeep.run(shutdown.clone())));
    let teller = runtime.clone();
    let (range, range_end) = (
        async move {
            while told_seen.changed().await.is_ok() {
                let cidr = told_seen.borrow_and_update().pod_cidr.clone();
                if let Some(cidr) = cidr
                    && let Err(error) = teller.set_pod_cidr(&cidr).await
                {
                    tracing::warn!(%error, cidr, "cannot tell the runtime its range of addresses");
                }
            }
        },
        shutdown.clone(),
    );
    parts.spawn(named("pod range", async move {
        // Cancel-safe: told again after a restart.
        tokio::select! { () = range => range_end.requested().await, () = range_end.requested() => {} }
    }));
    if let Some(api) = api {
        let auth = Auth::new(client.clone(), config.clock.clone());
        let state = Arc::new(State { context: context.clone(), mailboxes: mailboxes.clone(), auth });
        parts.spawn(named("node API", api.serve(state, served_seen, shutdown.clone())));
    }
    let dispatcher = Dispatcher {
        context: context.clone(),
        pods: pods_seen.clone(),
        nodes: nodes_seen.clone(),
        changed,
        mailboxes,
        workers: JoinSet::new(),
    };
    let (services_seen, end) = (context.services.clone(), shutdown.clone());
    parts.spawn(named("dispatcher", async move {
        let synced = async {
            pods_seen.synced().await;
            services_seen.synced().await;
            nodes_seen.synced().await;
        };
        // Cancel-safe: waiting only.
        tokio::select! { () = synced => dispatcher.run(end).await, () = end.requested() => {} }
    }));
    let first = parts.join_next().await;
    if shutdown.is_requested() {
        while parts.join_next().await.is_some() {}
        return Ok(());
    }
    match first {
        Some(Ok(name)) => Err(KubeletError::Ended(name)),
        Some(Err(_)) | None => Err(KubeletError::Ended("part")),
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Follows the runtime's events.
struct Follower {
    context: Arc<Context>,
    mailboxes: Mailboxes,
}

impl Follower {
    async fn run(self, shutdown: Shutdown) {
        // Cancel-safe: after a restart everything is looked at.
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let config = &self.context.config;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        loop {
            match self.context.runtime.events().await {
                Ok(mut events) => {
                    backoff.reset();
                    // What happened before the stream began was not told by it.
                    self.mailboxes.look_all();
                    while let Some(event) = events.next().await {
                        match event {
                            Ok(event) => self.told(&event),
                            Err(error) => {
                                tracing::info!(%error, "the runtime's events ended");
                                break;
                            }
                        }
                    }
                }
                Err(error) if error.code == tonic::Code::Unimplemented => {
                    tracing::info!("the runtime tells no events; asking it every second");
                    self.relist().await;
                }
                Err(error) => tracing::info!(%error, "cannot follow the runtime's events yet"),
            }
            tokio::time::sleep(backoff.next(&*config.chance)).await;
        }
    }

    fn told(&self, event: &v1::ContainerEventResponse) {
        let of_sandbox = event.pod_sandbox_status.as_ref().and_then(|status| {
            let metadata = status.metadata.as_ref().map(|metadata| metadata.uid.clone());
            status.labels.get(names::POD_UID).cloned().or(metadata)
        });
        let of_container =
            || event.containers_statuses.iter().find_map(|status| status.labels.get(names::POD_UID).cloned());
        match of_sandbox.or_else(of_container).filter(|uid| !uid.is_empty()) {
            Some(uid) => self.mailboxes.look(&uid),
            None => self.mailboxes.look_all(),
        }
    }

    /// Asks a runtime that tells no events; looks at what has changed.
    async fn relist(&self) {
        let mut before: BTreeMap<String, (String, i32)> = BTreeMap::new();
        loop {
            let runtime = &self.context.runtime;
            let Ok((sandboxes, containers)) =
                futures::try_join!(runtime.sandboxes(None), runtime.containers(None))
            else {
                return;
            };
            let uid = |labels: &std::collections::HashMap<String, String>| {
                labels.get(names::POD_UID).cloned().unwrap_or_default()
            };
            let now: BTreeMap<String, (String, i32)> = sandboxes
                .iter()
                .map(|one| (one.id.clone(), (uid(&one.labels), one.state)))
                .chain(containers.iter().map(|one| (one.id.clone(), (uid(&one.labels), one.state))))
                .collect();
            for (id, (uid, state)) in now.iter().chain(&before) {
                if now.get(id).map(|one| one.1) != Some(*state)
                    || before.get(id).map(|one| one.1) != Some(*state)
                {
                    self.mailboxes.look(uid);
                }
            }
            before = now;
            tokio::time::sleep(RELIST_EVERY).await;
        }
    }
}
