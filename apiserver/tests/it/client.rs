//! A client without sockets: requests go straight into the API over a store in memory.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use minik_apiserver::{Api, Audit, Body, Cidr, InFlight, Kubelets, Peer, Settings};
use minik_component::{SeededChance, Shutdown, SystemClock};
use minik_storage::{Memory, Storage};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// An answer, read.
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn warnings(&self) -> u64 {
        self.headers.get_all("warning").iter().count() as u64
    }
}

/// The administrator of a server in memory.
pub struct Client {
    pub api: Api,
    /// Headers of every request.
    pub headers: Vec<(&'static str, &'static str)>,
    peer: Peer,
    shutdown: Shutdown,
    feed: tokio::task::JoinHandle<()>,
}

/// A certificate of the administrator, as TLS would have verified it.
fn administrator() -> Peer {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Peer::of(Some(certificate.der()))
}

impl Client {
    /// A new cluster without controllers.
    pub async fn new() -> Client {
        Client::audited(Audit::default()).await
    }

    /// The same, whose requests are told.
    pub async fn audited(audit: Audit) -> Client {
        Client::over(Arc::new(Memory::new()), audit, 7).await
    }

    /// A server over a store that others may share.
    pub async fn over(storage: Arc<dyn Storage>, audit: Audit, seed: u64) -> Client {
        let chance = Arc::new(SeededChance::new(seed));
        let settings = Settings {
            prefix: "/registry".into(),
            service_ranges: vec![Cidr::parse("10.97.0.0/16").unwrap()],
            node_ports: 30000..=32767,
            event_ttl: 3600,
            min_request_timeout: Duration::from_secs(1800),
            advertised: "127.0.0.1:6443".into(),
            clock: Arc::new(SystemClock::default()),
            chance,
            metrics: prometheus::Registry::new(),
            kubelets: Kubelets::none(),
            audit,
            bootstrap_tokens: true,
            in_flight: InFlight::default(),
        };
        let api = Api::open(storage, settings, None).await.unwrap();
        let shutdown = Shutdown::new();
        let feed = tokio::spawn({
            let (world, shutdown) = (api.world().clone(), shutdown.clone());
            async move { world.feed(shutdown).await }
        });
        Client { api, headers: Vec::new(), peer: administrator(), shutdown, feed }
    }

    /// Sends a request.
    pub async fn send(&self, method: &str, uri: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        self.ask(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Sends a request with its own headers.
    pub async fn ask(&self, mut request: Request<Full<Bytes>>) -> Answer {
        for (name, value) in &self.headers {
            request.headers_mut().append(*name, http::HeaderValue::from_static(value));
        }
        let (parts, body) = self.api.answer(request, &self.peer, None).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends a request whose answer is read piece by piece.
    pub async fn open(&self, method: &str, uri: &str) -> http::Response<Body> {
        let request = Request::builder().method(method).uri(uri).body(Full::<Bytes>::default()).unwrap();
        self.api.answer(request, &self.peer, None).await
    }

    /// Sends a tree and demands success.
    pub async fn must(&self, method: &str, uri: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method, uri, "application/json", body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.code < 300, "{method} {uri}: {} {text}", answer.code);
        answer.json()
    }

    /// Ends the server.
    pub async fn end(self) {
        self.shutdown.request();
        self.feed.await.unwrap();
    }
}
