//! Listeners: sockets of our own and inherited ones, TLS, HTTP/1.1 and HTTP/2 on each connection.

use crate::api::Api;
use crate::authn::Peer;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use minik_component::Shutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How long a client may take for its handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// Requests at once over one connection: upstream's number; a client of many watches has many.
const STREAMS: u32 = 250;
/// Connections at once: far above what a cluster has, far below what the process may open.
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
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let server = Server {
            api: api.clone(),
            acceptor: acceptor.clone(),
            permits: permits.clone(),
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
                        let (api, acceptor, shutdown) =
                            (self.api.clone(), self.acceptor.clone(), self.shutdown.clone());
                        open.spawn(async move {
                            connection(api, stream, source, acceptor, shutdown).await;
                            drop(permit);
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
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = Peer(certificate.map(|certificate| Arc::new(certificate.clone().into_owned())));
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<_, Infallible>(api.answer(request, &peer, Some(source)).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(1 << 20)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let connection = std::pin::pin!(connection);
    serve_until(connection, shutdown, source).await;
}

/// Serves a connection; at the server's end no new request is taken, and the last ones are finished.
async fn serve_until<C>(mut connection: std::pin::Pin<&mut C>, shutdown: Shutdown, source: SocketAddr)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut asked = false;
    loop {
        // Cancel-safe: the connection is polled again where it was.
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%source, %error, "a connection broke");
                }
                return;
            }
            () = shutdown.requested(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
