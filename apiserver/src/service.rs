//! The running server: the store, the API over it, and the listeners.

use crate::api::{Api, OpenError, Settings};
use crate::authn::{BoundObject, TokenError, Tokens};
use crate::bootstrap::{self, Authentication};
use crate::config::{Config, Flags};
use crate::counted::ObjectCounts;
use crate::http::InFlight;
use crate::proxy::{KubeletFiles, Kubelets};
use crate::server;
use crate::world::View;
use minik_component::Shutdown;
use minik_component::tls::{self, KeyPairFiles, TlsError};
use minik_storage::{Embedded, Measured, Storage, StorageError, tend};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Between two messages to watchers of how far the caches are.
const PROGRESS: Duration = Duration::from_secs(10);

/// Why a server ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum ApiserverError {
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StorageError),
    /// The API cannot be made over it.
    #[error("cannot serve what is stored")]
    Open(#[from] Box<OpenError>),
    /// Certificates or keys cannot be used.
    #[error("cannot use the certificates")]
    Tls(#[from] TlsError),
    /// Token keys cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A socket that was handed over cannot be used.
    #[error("cannot use an inherited socket")]
    Inherited(#[source] std::io::Error),
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended before its time.
    #[error("the apiserver's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Serves the API until `shutdown`.
///
/// # Errors
/// When something that it needs cannot be opened, or a part ends before its time.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ApiserverError> {
    let flags = &config.flags;
    let (listeners, address) = listen(flags).await?;
    let tls = tls_config(flags)?;
    let storage = open_storage(&config).await?;
    let api = open_api(&config, storage.clone(), address).await?;
    if let Some(listening) = &config.listening {
        listening.send_replace(Some(address));
    }
    tracing::info!(%address, "serving");
    // What feeds the requests that are still under way ends after them.
    let behind = Shutdown::new();
    let mut parts = spawn_parts(&api, storage, &behind);
    let (maker, prepared, ending, facts) = (api.clone(), api.clone(), shutdown.clone(), facts(flags)?);
    let bootstrapping = tokio::spawn(async move {
        bootstrap::run(maker, facts, move || prepared.set_prepared(), ending).await;
    });
    let (closing, asked) = (api.clone(), shutdown.clone());
    let close = async move {
        asked.requested().await;
        closing.set_ending();
        closing.world().close();
    };
    let serving = server::serve(api, listeners, Arc::new(tls), shutdown.clone());
    // Cancel-safe: whichever part ends before its time ends the server.
    let result = tokio::select! {
        ((), ()) = async { tokio::join!(serving, close) } => Ok(()),
        Some(ended) = parts.join_next() => Err(ApiserverError::Ended(ended.unwrap_or("part"))),
    };
    shutdown.request();
    if bootstrapping.await.is_err() {
        tracing::error!("making the objects of a new cluster ended in a defect");
    }
    behind.request();
    while parts.join_next().await.is_some() {}
    result
}

/// All of a server but its sockets, for a cluster in one process: feeds and tends the API, makes the objects of a new
/// cluster, until `shutdown`.
pub async fn run_within(api: Api, storage: Arc<dyn Storage>, shutdown: Shutdown) {
    let mut parts = spawn_parts(&api, storage, &shutdown);
    let prepared = api.clone();
    bootstrap::run(api, Authentication::default(), move || prepared.set_prepared(), shutdown).await;
    while parts.join_next().await.is_some() {}
}

/// What runs beside the requests; a part that ends says its name.
fn spawn_parts(api: &Api, storage: Arc<dyn Storage>, behind: &Shutdown) -> JoinSet<&'static str> {
    let mut parts = JoinSet::new();
    let (world, ending) = (api.world().clone(), behind.clone());
    parts.spawn(async move {
        world.feed(ending).await;
        "watch over the store"
    });
    let ending = behind.clone();
    parts.spawn(async move {
        tend(storage, ending).await;
        "tending of the store"
    });
    let (world, ending) = (api.world().clone(), behind.clone());
    parts.spawn(async move {
        let mut ticks = tokio::time::interval(PROGRESS);
        loop {
            // Cancel-safe: a tick that is lost is followed by another.
            tokio::select! {
                biased;
                () = ending.requested() => return "bookmarks",
                _ = ticks.tick() => world.tell_progress(),
            }
        }
    });
    parts
}

/// The sockets, and the address of the first: inherited ones, and our own unless one of those is it.
async fn listen(flags: &Flags) -> Result<(Vec<TcpListener>, SocketAddr), ApiserverError> {
    let mut listeners = server::inherited().map_err(ApiserverError::Inherited)?;
    let wanted = flags.address();
    let is_wanted = |listener: &TcpListener| listener.local_addr().is_ok_and(|own| own == wanted);
    if !listeners.iter().any(is_wanted) {
        let bound = TcpListener::bind(wanted).await;
        let bound = bound.map_err(|source| ApiserverError::Listen { address: wanted, source })?;
        listeners.insert(0, bound);
    }
    let first = listeners.iter().find(|listener| is_wanted(listener)).or_else(|| listeners.first());
    let address = first.and_then(|listener| listener.local_addr().ok()).unwrap_or(wanted);
    Ok((listeners, address))
}

fn tls_config(flags: &Flags) -> Result<rustls::ServerConfig, ApiserverError> {
    let pair = KeyPairFiles::load(&flags.tls_cert_file, &flags.tls_private_key_file)?;
    let roots = tls::roots(tls::read_certs(&flags.client_ca_file)?)?;
    Ok(tls::server(pair, Some(roots))?)
}

async fn open_storage(config: &Config) -> Result<Arc<dyn Storage>, ApiserverError> {
    let flags = &config.flags;
    let storage: Arc<dyn Storage> = match &flags.data_dir {
        Some(folder) => Arc::new(Embedded::open(folder, flags.storage_quota_bytes, config.clock.clone())?),
        None => Arc::new(flags.etcd.connect().await?),
    };
    let prefix = flags.etcd.prefix();
    let label = move |key: &str| {
        let rest = key.strip_prefix(&prefix).unwrap_or_default();
        let fits = |folder: &str| {
            rest.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut resources = minik_registry::all().iter().map(|strategy| strategy.resource());
        let known = resources.find(|one| one.storage_prefix.is_some_and(fits));
        known.map_or(("", ""), |resource| (resource.group, resource.plural))
    };
    Ok(Arc::new(Measured::new(storage, Box::new(label), &config.metrics)?))
}

async fn open_api(
    config: &Config,
    storage: Arc<dyn Storage>,
    address: SocketAddr,
) -> Result<Api, ApiserverError> {
    let flags = &config.flags;
    let file = |path: &Path, source| ApiserverError::File { path: path.display().to_string(), source };
    let audit = flags
        .audit()
        .map_err(|source| file(flags.audit_log_path.as_deref().unwrap_or_else(|| Path::new("-")), source))?;
    // Tokens are bound to objects that can be looked up once the API is there.
    let objects: Arc<OnceLock<View>> = Arc::default();
    let seen = objects.clone();
    let alive = move |folder: &str, namespace: &str, object: &BoundObject| {
        seen.get().and_then(|view| view.get(folder, namespace, &object.name)).is_some_and(|stored| {
            object.uid.is_empty() || stored["metadata"]["uid"].as_str() == Some(&object.uid)
        })
    };
    let tokens = Tokens::load(
        &flags.service_account_issuer,
        &flags.api_audiences,
        &flags.service_account_signing_key_file,
        &flags.service_account_key_file,
        Box::new(alive),
    )?;
    let settings = Settings {
        prefix: flags.etcd.prefix().trim_end_matches('/').to_owned(),
        service_ranges: flags.service_cluster_ip_range.clone(),
        node_ports: flags.service_node_port_range.clone(),
        event_ttl: i64::try_from(flags.event_ttl.as_secs()).unwrap_or(i64::MAX),
        min_request_timeout: Duration::from_secs(flags.min_request_timeout),
        advertised: flags.advertised(address.port()).to_string(),
        clock: config.clock.clone(),
        chance: config.chance.clone(),
        metrics: config.metrics.clone(),
        kubelets: kubelets(flags)?,
        audit,
        bootstrap_tokens: flags.enable_bootstrap_token_auth,
        in_flight: InFlight {
            reading: flags.max_requests_inflight,
            writing: flags.max_mutating_requests_inflight,
        },
    };
    let make_tokens = move |view: View| {
        // Set once, here.
        let _ = objects.set(view);
        Arc::new(tokens)
    };
    let api = Api::open(storage, settings, Some(Box::new(make_tokens))).await.map_err(Box::new)?;
    config.metrics.register(Box::new(ObjectCounts::new(api.world().clone())?))?;
    Ok(api)
}

/// How kubelets are reached, when we have something to show them.
fn kubelets(flags: &Flags) -> Result<Kubelets, ApiserverError> {
    let identity = flags.kubelet_client_certificate.clone().zip(flags.kubelet_client_key.clone());
    match (identity, flags.kubelet_certificate_authority.clone()) {
        (Some(identity), Some(ca)) => Ok(Kubelets::new(&KubeletFiles { identity, ca })?),
        _ => Ok(Kubelets::none()),
    }
}

/// What other servers are told of our certificates.
fn facts(flags: &Flags) -> Result<Authentication, ApiserverError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|source| ApiserverError::File { path: path.display().to_string(), source })
    };
    Ok(Authentication {
        client_ca: Some(read(&flags.client_ca_file)?),
        requestheader_ca: flags.requestheader_client_ca_file.as_deref().map(read).transpose()?,
    })
}
