//! What load balancers ask: whether this proxy does its work (`/healthz`), and whether a Service with external traffic
//! policy Local has endpoints on this node (its `healthCheckNodePort`).

use crate::metrics::Metrics;
use crate::rules::unspecified;
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use minik_client::ObjectKey;
use minik_component::{Clock, Shutdown, ops};
use minik_net::NetNs;
use prometheus::IntCounterVec;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The state of the proxy, as it is told to those who ask.
pub struct Health {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// A change that is not written after this long makes it unhealthy.
    patience: Duration,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    updated: Option<Timestamp>,
    /// Since when changes wait, by the clock's elapsed time.
    waiting: Option<Duration>,
    leaving: bool,
    local: HashMap<ObjectKey, usize>,
}

impl Health {
    /// Healthy until a change waits for longer than `patience`.
    pub fn new(clock: Arc<dyn Clock>, patience: Duration, metrics: Metrics) -> Health {
        Health { state: Mutex::default(), clock, patience, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a change came.
    pub fn queued(&self) {
        let now = self.clock.elapsed();
        self.state().waiting.get_or_insert(now);
    }

    /// Notes that all that came was written.
    pub fn updated(&self) {
        let mut state = self.state();
        (state.waiting, state.updated) = (None, Some(self.clock.now()));
    }

    /// Notes whether the Node is about to go.
    pub fn leaving(&self, leaving: bool) {
        self.state().leaving = leaving;
    }

    fn healthy(&self) -> bool {
        let now = self.clock.elapsed();
        self.state().waiting.is_none_or(|since| now.saturating_sub(since) < self.patience)
    }

    /// The answer to a request.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let healthy = self.healthy();
        match (method, path) {
            (&Method::GET | &Method::HEAD, "/healthz") => {
                let eligible = !self.state().leaving;
                let more = format!(", \"nodeEligible\": {eligible}");
                self.tell(&self.metrics.healthz, healthy && eligible, &more)
            }
            (&Method::GET | &Method::HEAD, "/livez") => self.tell(&self.metrics.livez, healthy, ""),
            _ => json(StatusCode::NOT_FOUND, "{}".to_owned()),
        }
    }

    fn tell(&self, counter: &IntCounterVec, healthy: bool, more: &str) -> Response<Full<Bytes>> {
        let now = self.clock.now();
        let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        counter.with_label_values(&[code.as_str()]).inc();
        // One that is healthy is up to date now.
        let updated = if healthy { now } else { self.state().updated.unwrap_or_default() };
        json(code, format!("{{\"lastUpdated\": \"{updated}\",\"currentTime\": \"{now}\"{more}}}"))
    }

    fn answer_for(&self, service: &ObjectKey) -> Response<Full<Bytes>> {
        let count = self.state().local.get(service).copied().unwrap_or_default();
        let healthy = self.healthy();
        let code = if count > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let name = serde_json::json!({ "namespace": service.namespace, "name": service.name });
        let body =
            serde_json::json!({ "service": name, "localEndpoints": count, "serviceProxyHealthy": healthy });
        let mut response = json(code, body.to_string());
        response.headers_mut().insert("x-load-balancing-endpoint-weight", count.into());
        response
    }
}

fn json(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let option = http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, option);
    response
}

/// The health ports of Services.
pub struct ServicePorts {
    health: Arc<Health>,
    netns: Option<Arc<NetNs>>,
    open: BTreeMap<ObjectKey, (u16, Shutdown)>,
    servers: JoinSet<()>,
}

impl ServicePorts {
    /// None yet.
    pub fn new(health: Arc<Health>, netns: Option<Arc<NetNs>>) -> ServicePorts {
        ServicePorts { health, netns, open: BTreeMap::new(), servers: JoinSet::new() }
    }

    /// Listens for a Service (or no longer), which has so many ready endpoints here. Gives why it cannot.
    pub fn set(
        &mut self,
        service: &ObjectKey,
        port: Option<u16>,
        local: usize,
    ) -> Result<(), std::io::Error> {
        let known = self.open.get(service).map(|(port, _)| *port);
        if known != port
            && let Some((_, server)) = self.open.remove(service)
        {
            server.request();
        }
        match port {
            Some(_) => self.health.state().local.insert(service.clone(), local),
            None => self.health.state().local.remove(service),
        };
        while self.servers.try_join_next().is_some() {}
        let Some(port) = port.filter(|port| known != Some(*port)) else { return Ok(()) };
        let address = SocketAddr::new(unspecified(true), port);
        let bind = || std::net::TcpListener::bind(address);
        let listener = match &self.netns {
            None => bind()?,
            Some(ns) => ns.run(bind).map_err(std::io::Error::other)??,
        };
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let shutdown = Shutdown::new();
        let (health, key) = (self.health.clone(), service.clone());
        let answer = Arc::new(move |_: &Method, _: &str| health.answer_for(&key));
        self.servers.spawn(ops::answer(listener, answer, shutdown.clone()));
        self.open.insert(service.clone(), (port, shutdown));
        Ok(())
    }
}
