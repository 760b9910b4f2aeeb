//! The running server: informers feed the index, sockets are answered from it.

use crate::config::Config;
use crate::forward::{Forwarder, Upstream};
use crate::handler::{Handler, Names};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::objects::{Service, Slice};
use crate::publish::{self, Publisher};
use crate::zone::Zone;
use hickory_server::Server;
use minik_client::{Informer, Source};
use minik_component::Shutdown;
use minik_component::ops::{self, Ops};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A TCP client that says nothing for this long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait to be written to one TCP client.
const TCP_ANSWERS: usize = 32;
/// How often a port that is free over UDP is tried to be had over TCP too.
const PORT_TRIES: usize = 20;

/// Why a server ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("cannot serve names on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The endpoint of health and metrics cannot be served.
    #[error("cannot serve health and metrics on {address}")]
    Endpoint {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended before its time.
    #[error("the DNS server's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Serves names until `shutdown`.
///
/// # Errors
/// When an address cannot be listened on, or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), DnsError> {
    let metrics = Metrics::new(&config.metrics)?;
    let (udp, tcp, address) = bind(config.bind).await?;
    let upstream = Upstream {
        resolv_conf: config.resolv_conf.clone(),
        port: config.upstream_port,
        netns: config.upstream_netns.clone(),
        own: address,
    };
    let names = Arc::new(Names {
        zone: Zone::new(config.domain.clone()),
        index: RwLock::new(Index::default()),
        synced: AtomicBool::new(false),
        forwarder: Forwarder::new(upstream, metrics.clone()),
        chance: config.chance.clone(),
        metrics,
    });
    let mut server = Server::new(Handler(names.clone()));
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
    tracing::info!(%address, domain = %config.domain, "serving names");
    let mut parts = JoinSet::new();
    follow(&config, &client, &names, address, &shutdown, &mut parts);
    let endpoint = serve_ops(&config, names.clone(), shutdown.clone());
    // Cancel-safe: whichever ends first ends the server.
    let ended = tokio::select! {
        () = shutdown.requested() => Ok(()),
        result = endpoint => result,
        _ = server.block_until_done() => Err(DnsError::Ended("socket")),
        Some(_) = parts.join_next() => Err(DnsError::Ended("part that follows the API")),
    };
    if !shutdown.is_requested() {
        return ended;
    }
    // That parts end is what was wished for.
    // Clients are sent elsewhere first: the publisher is done once the slice is gone.
    while parts.join_next().await.is_some() {}
    // Sockets that end now have nobody left to answer.
    let _ = server.shutdown_gracefully().await;
    Ok(())
}

/// Listens over UDP and TCP at the same port.
async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), DnsError> {
    let failed = |source| DnsError::Bind { address, source };
    let mut tries = 0;
    loop {
        tries += 1;
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let chosen = udp.local_addr().map_err(failed)?;
        match TcpListener::bind(chosen).await {
            Ok(tcp) => return Ok((udp, tcp, chosen)),
            Err(_) if address.port() == 0 && tries < PORT_TRIES => {}
            Err(source) => return Err(failed(source)),
        }
    }
}

/// Follows the API, and once all is known lets the server be found.
fn follow(
    config: &Config,
    client: &kube::Client,
    names: &Arc<Names>,
    address: SocketAddr,
    shutdown: &Shutdown,
    parts: &mut JoinSet<()>,
) {
    let (index, changed, own) = (names.clone(), Arc::new(Notify::new()), publish::key(&config.node));
    let services = Informer::<Service>::builder(Source::all("/api/v1/services"))
        .on_change(move |change| index.change(|index| index.service(change)));
    let (index, notify) = (names.clone(), changed.clone());
    let slices = Informer::<Slice>::builder(Source::all("/apis/discovery.k8s.io/v1/endpointslices"))
        .on_change(move |change| {
            index.change(|index| index.slice(change));
            if change.object().metadata.key() == own {
                notify.notify_one();
            }
        });
    let known = (services.informer(), slices.informer());
    parts.spawn(services.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(slices.run(client.clone(), config.chance.clone(), shutdown.clone()));
    let publisher = Publisher {
        client: client.clone(),
        node: config.node.clone(),
        address,
        slices: known.1.clone(),
        changed,
        chance: config.chance.clone(),
    };
    let (names, shutdown) = (names.clone(), shutdown.clone());
    parts.spawn(async move {
        // Cancel-safe: waiting only.
        tokio::select! {
            () = shutdown.requested() => return,
            () = async { known.0.synced().await; known.1.synced().await } => {}
        }
        names.synced.store(true, Ordering::Relaxed);
        tracing::info!("the caches are filled");
        publisher.run(shutdown).await;
    });
}

async fn serve_ops(config: &Config, names: Arc<Names>, shutdown: Shutdown) -> Result<(), DnsError> {
    let Some(address) = config.address else { return std::future::pending().await };
    let unready = move || match names.synced.load(Ordering::Relaxed) {
        true => Vec::new(),
        false => vec!["kubernetes".to_owned()],
    };
    let ops = Ops { metrics: config.metrics.clone(), unready: Arc::new(unready) };
    ops::serve(address, ops, shutdown).await.map_err(|source| DnsError::Endpoint { address, source })?;
    // The wish to end ends it; the server ends by itself.
    std::future::pending().await
}
