//! The whole API over a store in memory: any request is answered, and never by a panic.

use crate::seeds::recorded;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use minik_apiserver::{Api, Audit, Cidr, InFlight, Kubelets, Peer, Settings};
use minik_component::{SeededChance, Shutdown, SystemClock};
use minik_storage::{Memory, Storage};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// After so many inputs the world is made anew: what one leaves behind another finds.
const INPUTS: usize = 5000;
/// The longest that a stream is listened to, on a clock that waits for nobody.
const LISTEN: Duration = Duration::from_secs(2);

/// An API with the recorded objects in it.
pub struct Server {
    runtime: Runtime,
    api: Api,
    peer: Peer,
    answered: usize,
}

/// An answer, as far as it was read.
pub struct Answer {
    /// The status.
    pub code: u16,
    /// The body.
    pub body: Bytes,
}

fn administrator() -> Peer {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    Peer::of(Some(certificate.der()))
}

impl Server {
    /// Starts.
    pub fn start() -> Server {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let api = runtime.block_on(async {
            let settings = Settings {
                prefix: "/registry".into(),
                service_ranges: vec![Cidr::parse("10.97.0.0/16").unwrap()],
                node_ports: 30000..=32767,
                event_ttl: 3600,
                min_request_timeout: Duration::from_secs(1800),
                advertised: "127.0.0.1:6443".into(),
                clock: Arc::new(SystemClock::default()),
                chance: Arc::new(SeededChance::new(1)),
                metrics: prometheus::Registry::new(),
                kubelets: Kubelets::none(),
                audit: Audit::default(),
                bootstrap_tokens: true,
                in_flight: InFlight::default(),
            };
            let storage: Arc<dyn Storage> = Arc::new(Memory::new());
            let api = Api::open(storage, settings, None).await.unwrap();
            let world = api.world().clone();
            // It lives as long as the runtime, which ends it.
            drop(tokio::spawn(async move { world.feed(Shutdown::new()).await }));
            api
        });
        let mut server = Server { runtime, api, peer: administrator(), answered: 0 };
        for name in ["oracle", "default"] {
            let namespace = json!({"metadata": {"name": name}}).to_string();
            let made = server.ask("POST", "/api/v1/namespaces", "application/json", "", namespace.into());
            assert_eq!(made.map(|answer| answer.code), Some(201));
        }
        for (path, object) in recorded() {
            // Kinds that are not served are not there.
            server.ask("POST", &path, "application/json", "", object.to_string().into());
        }
        server
    }

    /// Sends a request; `None` when it is none.
    pub fn ask(
        &mut self,
        method: &str,
        uri: &str,
        content: &str,
        accept: &str,
        body: Bytes,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in [("content-type", content), ("accept", accept)] {
            if !value.is_empty() {
                request = request.header(name, HeaderValue::from_str(value).ok()?);
            }
        }
        let request = request.body(Full::new(body)).ok()?;
        self.answered += 1;
        let (api, peer) = (&self.api, &self.peer);
        self.runtime.block_on(async {
            let (parts, body) = api.answer(request, peer, None).await.into_parts();
            let body = tokio::time::timeout(LISTEN, body.collect()).await;
            let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
            Some(Answer { code: parts.status.as_u16(), body })
        })
    }
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// METHOD URI, CONTENT-TYPE and ACCEPT on a line each, then the body.
pub(crate) fn target(input: &[u8]) {
    let mut lines = input.splitn(4, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or("?");
    let (Some((method, uri)), content, accept) = (line().split_once(' '), line(), line()) else { return };
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    SERVER.with_borrow_mut(|server| {
        if server.as_ref().is_none_or(|server| server.answered > INPUTS) {
            *server = Some(Server::start());
        }
        let Some(answer) = server.as_mut().and_then(|server| server.ask(method, uri, content, accept, body))
        else {
            return;
        };
        let text = String::from_utf8_lossy(&answer.body);
        for sentence in ["caused apiserver to panic", "cannot be read"] {
            let told = answer.code == 500 && text.contains(sentence);
            assert!(!told, "{method} {uri}: {text}");
        }
        if answer.code >= 400
            && accept.is_empty()
            && !method.eq_ignore_ascii_case("HEAD")
            && text.starts_with('{')
        {
            let status: Value = serde_json::from_str(&text).expect("a refusal is JSON");
            assert_eq!(status["code"], answer.code, "{method} {uri}");
        }
    });
}
