//! A `kube::Client` over one HTTP/2 connection.
//!
//! kube's own transport speaks HTTP/1.1 and so opens a connection a watch; this one speaks HTTP/2 only, as every
//! apiserver does, so that hyper's pool shares one connection for everything from the first call on.

use crate::kubeconfig::KubeconfigError;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use minik_component::tls::{self, ClientIdentity, KeyPairFiles, TlsError};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long the head of an answer may take. A watch's head comes at once; its body has no limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);
/// A dead peer is noticed after these two.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(15);

/// How a client shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Not at all.
    None,
    /// A bearer token.
    Token(String),
    /// A bearer token in a file that is read again for each connection's requests.
    TokenFile(PathBuf),
    /// A client certificate and key as PEM.
    Data {
        /// The certificate chain.
        cert: Vec<u8>,
        /// The private key.
        key: Vec<u8>,
    },
    /// A client certificate and key in files that are read again when they change.
    Files {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAccess {
    /// `https://host:port`.
    pub server: String,
    /// The name that its certificate must bear, when it is not the host's.
    pub server_name: Option<String>,
    /// The CA that it must be signed by, as PEM.
    pub ca_pem: Vec<u8>,
    /// Who we are.
    pub identity: Identity,
}

/// What is wrong with an access, or with a call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used. Final.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The address is none. Final.
    #[error("{server:?} is no server address: write https://HOST:PORT")]
    Server {
        /// As given.
        server: String,
    },
    /// A certificate or key cannot be used. Final.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection can be made. Retryable.
    #[error("cannot connect to {server}")]
    Dial {
        /// Where to.
        server: String,
        /// Why.
        source: BoxError,
    },
    /// A call failed; retryable unless the server refused it.
    #[error("the apiserver did not answer as hoped")]
    Call(#[from] kube::Error),
    /// No answer came in time. Retryable.
    #[error("{what}: no answer within {seconds} s")]
    Late {
        /// The call.
        what: String,
        /// The deadline.
        seconds: u64,
    },
}

/// A client of the server that `access` describes; `namespace` is that of calls which name none. No connection is
/// made before the first call.
///
/// # Errors
/// When the address or a certificate cannot be used.
pub fn connect(access: &ServerAccess, namespace: &str) -> Result<kube::Client, ClientError> {
    connect_as(access, namespace, concat!("minik/", env!("CARGO_PKG_VERSION")))
}

/// As [`connect`], with the program's name and version: the server names it as the manager of what it writes.
///
/// # Errors
/// As [`connect`].
pub fn connect_as(
    access: &ServerAccess,
    namespace: &str,
    agent: &'static str,
) -> Result<kube::Client, ClientError> {
    let (base, connector) = prepare(access, &[b"h2"])?;
    let pool = Pool::builder(TokioExecutor::new())
        // Calls that begin together wait for one connection; with a choice of protocols each would make its own.
        .http2_only(true)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        .http2_keep_alive_while_idle(true)
        // Many watches share the connection; a slow one must not hold up the others.
        .http2_initial_connection_window_size(16 << 20)
        .http2_initial_stream_window_size(1 << 20)
        .build(connector);
    Ok(kube::Client::new(Transport { pool, base, identity: access.identity.clone(), agent }, namespace))
}

/// A connection of its own that speaks HTTP/1.1, for what takes a connection over, such as a WebSocket; and the value
/// of the Authorization header, when the identity is a token.
///
/// # Errors
/// When the address or a certificate cannot be used, or no connection can be made.
pub async fn dial(
    access: &ServerAccess,
) -> Result<(impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Option<HeaderValue>), ClientError> {
    let (base, mut connector) = prepare(access, &[b"http/1.1"])?;
    let failed = |source: BoxError| ClientError::Dial { server: access.server.clone(), source };
    let bearer = bearer(&access.identity).map_err(failed)?;
    let stream = connector.call(base).await.map_err(failed)?;
    Ok((stream.into_inner(), bearer))
}

/// The server's address, and what connects to it.
fn prepare(access: &ServerAccess, alpn: &[&[u8]]) -> Result<(Uri, Connector), ClientError> {
    let bad = || ClientError::Server { server: access.server.clone() };
    let base: Uri = access.server.parse().map_err(|_| bad())?;
    if base.scheme_str() != Some("https") || base.host().is_none() {
        return Err(bad());
    }
    let identity = match &access.identity {
        Identity::Data { cert, key } => ClientIdentity::Data { cert: cert.clone(), key: key.clone() },
        Identity::Files { cert, key } => ClientIdentity::Files(KeyPairFiles::load(cert, key)?),
        Identity::None | Identity::Token(_) | Identity::TokenFile(_) => ClientIdentity::None,
    };
    let roots = tls::roots(tls::parse_certs(&access.ca_pem)?)?;
    let config = tls::client(roots, identity, alpn)?;
    let host = access.server_name.as_deref().unwrap_or_else(|| base.host().unwrap_or_default());
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| bad())?;
    Ok((base, Connector { tls: TlsConnector::from(Arc::new(config)), name }))
}

/// The Authorization header of a token.
fn bearer(identity: &Identity) -> Result<Option<HeaderValue>, BoxError> {
    let token = match identity {
        Identity::Token(token) => token.clone(),
        Identity::TokenFile(path) => std::fs::read_to_string(path)?,
        _ => return Ok(None),
    };
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A client over any service, such as an apiserver in the same process.
pub fn over<S, B>(service: S, namespace: &str) -> kube::Client
where
    S: Service<Request<kube::client::Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(service, namespace)
}

/// Completes each request with the server's address and the token, and limits the time to the answer's head.
#[derive(Clone)]
struct Transport {
    pool: Pool<Connector, kube::client::Body>,
    base: Uri,
    identity: Identity,
    agent: &'static str,
}

impl Transport {
    fn complete(&self, request: &mut Request<kube::client::Body>) -> Result<(), BoxError> {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = self.base.scheme().cloned();
        parts.authority = self.base.authority().cloned();
        let prefix = self.base.path().trim_end_matches('/');
        if !prefix.is_empty() {
            let rest = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
            parts.path_and_query = Some(format!("{prefix}{rest}").parse()?);
        }
        *request.uri_mut() = Uri::from_parts(parts)?;
        let agent = HeaderValue::from_static(self.agent);
        request.headers_mut().entry(http::header::USER_AGENT).or_insert(agent);
        if let Some(value) = bearer(&self.identity)? {
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
        }
        Ok(())
    }
}

impl Service<Request<kube::client::Body>> for Transport {
    type Response = Response<hyper::body::Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let completed = self.complete(&mut request);
        let pool = self.pool.clone();
        Box::pin(async move {
            completed?;
            let answer = tokio::time::timeout(ANSWER_WITHIN, pool.request(request)).await;
            Ok(answer.map_err(|_| format!("no answer within {} s", ANSWER_WITHIN.as_secs()))??)
        })
    }
}

/// Makes TLS connections to one server.
#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Connector { tls, name } = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let connected = tokio::time::timeout(CONNECT_WITHIN, async {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                tls.connect(name, tcp).await
            });
            let stream = connected.await.map_err(|_| {
                format!("no connection to {host}:{port} within {} s", CONNECT_WITHIN.as_secs())
            })??;
            Ok(TokioIo::new(Stream(stream)))
        })
    }
}

/// A TLS connection that tells hyper which protocol was agreed on.
struct Stream(TlsStream<TcpStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.0.get_ref().1.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
