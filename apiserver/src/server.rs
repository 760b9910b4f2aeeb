//! Listeners: sockets of our own and inherited ones, TLS, HTTP/1.1 and HTTP/2 on each connection.

use crate::api::Api;
use crate::authn::Peer;
use http::Request;
use hyper::body::Incoming;
use minik_component::Shutdown;
use minik_component::serve::{Limits, Sources, converse, most_connections};
use std::net::SocketAddr;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once: far above what a cluster has.
const CONNECTIONS: usize = 16_000;
/// How long requests under way may take when the server ends.
const DRAIN: Duration = Duration::from_secs(10);
/// A pause after accept failed: the process is out of files, and others must close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sockets that were opened for us by who started us (systemd's convention: from file 3 on).
///
/// # Errors
/// When one is no listening socket.
pub fn inherited() -> std::io::Result<Vec<TcpListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let (Some(pid), Some(count)) = (number("LISTEN_PID"), number("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid != std::process::id() {
        return Ok(Vec::new());
    }
    (0..count as i32)
        .map(|index| {
            // SAFETY: by the convention these files are open, and ours alone; this is called once.
            let listener = unsafe { std::net::TcpListener::from_raw_fd(3 + index) };
            listener.set_nonblocking(true)?;
            rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
            TcpListener::from_std(listener)
        })
        .collect()
}

/// Serves connections of all listeners until `shutdown`, then lets requests under way end.
pub async fn serve(
    api: Api,
    listeners: Vec<TcpListener>,
    tls: Arc<rustls::ServerConfig>,
    shutdown: Shutdown,
) {
    let acceptor = TlsAcceptor::from(tls);
    let most = most_connections(CONNECTIONS);
    let (permits, sources) = (Arc::new(Semaphore::new(most)), Sources::new(most / 2));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let server = Server {
            api: api.clone(),
            acceptor: acceptor.clone(),
            permits: permits.clone(),
            sources: sources.clone(),
            shutdown: shutdown.clone(),
        };
        accepting.spawn(server.accept(listener));
    }
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a listener ended");
        }
    }
}

struct Server {
    api: Api,
    acceptor: TlsAcceptor,
    permits: Arc<Semaphore>,
    sources: Sources,
    shutdown: Shutdown,
}

impl Server {
    /// Takes connections of one listener; gives up those that do not end in time.
    async fn accept(self, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            // Cancel-safe: accept, acquire and join_next lose nothing when dropped.
            tokio::select! {
                () = self.shutdown.requested() => break,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                // The semaphore is never closed.
                Ok((permit, accepted)) = next(&self.permits, &listener) => match accepted {
                    Ok((stream, source)) => {
                        let Some(place) = self.sources.enter(source.ip()) else { continue };
                        let (api, acceptor, shutdown) =
                            (self.api.clone(), self.acceptor.clone(), self.shutdown.clone());
                        open.spawn(async move {
                            connection(api, stream, source, acceptor, shutdown).await;
                            drop((permit, place));
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        let ends = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, ends).await.is_err() {
            tracing::warn!("some requests did not end in time and are broken off");
        }
    }
}

type Accepted = std::io::Result<(TcpStream, SocketAddr)>;

async fn next(
    permits: &Arc<Semaphore>,
    listener: &TcpListener,
) -> Result<(OwnedSemaphorePermit, Accepted), tokio::sync::AcquireError> {
    let permit = permits.clone().acquire_owned().await?;
    Ok((permit, listener.accept().await))
}

async fn connection(
    api: Api,
    stream: TcpStream,
    source: SocketAddr,
    acceptor: TlsAcceptor,
    shutdown: Shutdown,
) {
    // Small frames of watches go out at once; a socket that cannot is as good as closed.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%source, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%source, "a handshake took too long"),
    };
    let peer = Peer::of(stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()));
    let answer = move |request: Request<Incoming>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { api.answer(request, &peer, Some(source)).await }
    };
    if let Err(error) = converse(stream, answer, Limits::default(), &shutdown).await {
        tracing::debug!(%source, error, "a connection broke");
    }
}
