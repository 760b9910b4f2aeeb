//! The node's own API, over TLS, for the apiserver and for whoever may see the node:
//! logs, health, metrics, what containers use, commands in containers.
//!
//! ```text
//!  TLS ──> who (client certificate, token by TokenReview) ──> may (SubjectAccessReview, kept a while) ──> route
//! ```

mod auth;
mod logs;
mod stats;
mod stream;

pub use auth::Auth;

use crate::config::ApiConfig;
use crate::dispatch::Mailboxes;
use crate::worker::Context;
use auth::Peer;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use minik_component::serve::{LastAnswer, Limits, Sources, converse, most_connections};
use minik_component::tls::{self, KeyPairFiles, TlsError};
use minik_component::{Shutdown, chain};
use prometheus::{Encoder, TextEncoder};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at a time: the apiserver's, scrapers', and one a followed log. Any Pod can reach this port: half of them are
/// for others, whoever it is.
const CONNECTIONS: usize = 2048;
/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// An answer's body.
pub type Body = BoxBody<Bytes, Infallible>;

/// Why the node's API cannot be served. Final.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A certificate or key cannot be used.
    #[error("the node API's certificates cannot be used")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (--address, --port)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// The node's API before it is served.
pub struct Api {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    config: ApiConfig,
}

/// What requests are answered from.
pub struct State {
    /// What workers share.
    pub context: Arc<Context>,
    /// The workers.
    pub mailboxes: Mailboxes,
    /// Who may do what.
    pub auth: Auth,
}

impl Api {
    /// Listens.
    ///
    /// # Errors
    /// When the address is taken or the certificates cannot be used.
    pub async fn bind(config: &ApiConfig) -> Result<Api, ApiError> {
        let address = SocketAddr::new(config.address, config.port);
        let listener =
            TcpListener::bind(address).await.map_err(|source| ApiError::Listen { address, source })?;
        // Where the cluster is to sign the certificate, it comes later.
        let tls = if config.cert.is_file() { Some(acceptor(config)?) } else { None };
        Ok(Api { listener, tls, config: config.clone() })
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Serves until `shutdown`, from when on there is a certificate; whoever connects before waits for it.
    pub async fn serve(self, state: Arc<State>, mut served: watch::Receiver<bool>, shutdown: Shutdown) {
        // Cancel-safe: it only waits.
        let is_there = tokio::select! {
            () = shutdown.requested() => false,
            there = served.wait_for(|there| *there) => there.is_ok(),
        };
        if !is_there {
            return shutdown.requested().await;
        }
        let tls = match self.tls.map_or_else(|| acceptor(&self.config), Ok) {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot serve the node's API");
                return;
            }
        };
        let most = most_connections(CONNECTIONS);
        let (mut open, sources) = (JoinSet::new(), Sources::new(most / 2));
        loop {
            // Cancel-safe: accept and join_next lose nothing when dropped.
            tokio::select! {
                () = shutdown.requested() => return,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                accepted = self.listener.accept(), if open.len() < most => match accepted {
                    Ok((stream, source)) => {
                        let Some(place) = sources.enter(source.ip()) else { continue };
                        let served = connection(stream, tls.clone(), state.clone(), shutdown.clone());
                        open.spawn(async move {
                            served.await;
                            drop(place);
                        });
                    }
                    // Too many open files, for one: it passes.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

fn acceptor(config: &ApiConfig) -> Result<TlsAcceptor, ApiError> {
    let pair = KeyPairFiles::load(&config.cert, &config.key)?;
    let roots = match &config.client_ca {
        Some(ca) => Some(tls::roots(tls::read_certs(ca)?)?),
        None => None,
    };
    Ok(TlsAcceptor::from(Arc::new(tls::server(pair, roots)?)))
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: Arc<State>, shutdown: Shutdown) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await else { return };
    let peer = Arc::new(Peer::of(stream.get_ref().1.peer_certificates()));
    let service = move |request: Request<Incoming>| {
        let (state, peer) = (state.clone(), peer.clone());
        async move { answer(&state, &peer, request).await }
    };
    // A client that breaks off has nothing to be told.
    let _ = converse(stream, service, Limits::default(), &shutdown).await;
}

/// A plain answer.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed());
    *response.status_mut() = code;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// An answer in JSON.
fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body);
            let kind = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A body that is sent as it comes.
fn streamed(from: tokio::sync::mpsc::Receiver<Bytes>) -> Body {
    let frames = tokio_stream::wrappers::ReceiverStream::new(from).map(|bytes| Ok(Frame::data(bytes)));
    BodyExt::boxed(StreamBody::new(frames))
}

async fn answer(state: &Arc<State>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Err(mut refusal) = state.auth.check(peer, &state.context.config.node_name, &request).await {
        if refusal.status() == StatusCode::UNAUTHORIZED {
            refusal.extensions_mut().insert(LastAnswer);
        }
        return refusal;
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_get = request.method() == Method::GET;
    match parts[..] {
        ["healthz", ..] | ["livez"] | ["readyz"] if is_get => text(StatusCode::OK, "ok"),
        ["metrics"] if is_get => metrics(state),
        ["metrics", "resource"] if is_get => stats::resource_metrics(&state.context).await,
        ["stats", "summary"] if is_get => match stats::summary(state).await {
            Ok(summary) => json(&summary),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        ["pods"] | ["runningpods"] if is_get => json(&pods(state)),
        ["configz"] if is_get => json(&configz(state)),
        ["containerLogs", namespace, pod, container] if is_get => {
            logs::answer(state, (namespace, pod, container), request.uri().query().unwrap_or_default()).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            stream::exec(state, (namespace, pod, container), request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            stream::attach(state, (namespace, pod, container), request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            stream::port_forward(state, (namespace, pod), request).await
        }
        ["healthz" | "metrics" | "stats" | "pods" | "configz" | "containerLogs", ..] if !is_get => {
            text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n")
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn metrics(state: &State) -> Response<Body> {
    let mut body = Vec::new();
    // Writing to memory cannot fail; a malformed family is left out.
    let _ = TextEncoder::new().encode(&state.context.config.metrics.gather(), &mut body);
    text(StatusCode::OK, body)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct PodList {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    items: Vec<k8s_openapi::api::core::v1::Pod>,
}

/// The Pods of this node, as they are wanted.
fn pods(state: &State) -> PodList {
    let items = state.mailboxes.all().iter().map(|mailbox| mailbox.wanted().pod.object()).collect();
    PodList { kind: "PodList", api_version: "v1", metadata: Default::default(), items }
}

#[derive(serde::Serialize)]
struct Configz {
    kubeletconfig: KubeletConfig,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct KubeletConfig {
    max_pods: u32,
    pod_pids_limit: i64,
    cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String>,
    cgroup_root: String,
    pod_logs_dir: String,
    container_runtime_endpoint: String,
    resolv_conf: String,
    allowed_unsafe_sysctls: Vec<String>,
}

fn configz(state: &State) -> Configz {
    let config = &state.context.config;
    Configz {
        kubeletconfig: KubeletConfig {
            max_pods: config.max_pods,
            pod_pids_limit: config.pod_max_pids,
            cluster_domain: config.cluster_domain.clone(),
            cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
            cgroup_root: config.cgroup_root.clone().unwrap_or_default(),
            pod_logs_dir: config.pod_log_dir.display().to_string(),
            container_runtime_endpoint: config.runtime_endpoint.clone(),
            resolv_conf: config.resolv_conf.display().to_string(),
            allowed_unsafe_sysctls: config.unsafe_sysctls.clone(),
        },
    }
}

/// The value of a query parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query, name).next()
}

/// All values of a query parameter.
fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(key) == name).then(|| unescaped(value))
    })
}

fn unescaped(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                out.extend(u8::from_str_radix(digits, 16));
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_true(query: &str, name: &str) -> bool {
    parameter(query, name)
        .is_some_and(|value| matches!(value.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let query = "command=ls&command=-l%20a+b&tty=1&stdin";
        assert_eq!(parameters(query, "command").collect::<Vec<_>>(), ["ls", "-l a b"]);
        assert!(is_true(query, "tty") && !is_true(query, "stdin") && !is_true(query, "other"));
    }
}
