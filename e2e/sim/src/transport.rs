//! Clients that call the API in the same thread, through whatever weather there is.

use crate::server::Servers;
use crate::weather::{Doom, Fate, Weather};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use minik_apiserver::{Api, Body, Peer};
use minik_component::Shutdown;
use serde_json::json;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, OnceLock};
use tower::BoxError;

/// Whom the API sees: what a verified client certificate would say.
#[derive(Debug, Clone)]
pub struct Who(Peer);

impl Who {
    /// A user with groups.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(user: &str, groups: &[&str]) -> anyhow::Result<Who> {
        // Nobody looks at the key, and nothing depends on its chance.
        static KEY: OnceLock<rcgen::KeyPair> = OnceLock::new();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, user);
        for group in groups {
            parameters.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
        }
        let key = match KEY.get() {
            Some(key) => key,
            None => {
                let fresh = rcgen::KeyPair::generate()?;
                KEY.get_or_init(|| fresh)
            }
        };
        let certificate = parameters.self_signed(key)?;
        Ok(Who(Peer::of(Some(certificate.der()))))
    }
}

/// A client of `api` that acts as `who`, in calm weather.
pub fn client(api: &Api, who: &Who) -> kube::Client {
    let (api, peer) = (api.clone(), who.0.clone());
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<Response<Body>, BoxError>(api.answer(request, &peer, None).await) }
    });
    minik_client::over(service, "default")
}

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// How a component reaches the servers.
#[derive(Clone)]
pub struct Line {
    /// The servers; each request goes to one of them.
    pub servers: Servers,
    /// Whom they see.
    pub who: Who,
    /// What goes wrong.
    pub weather: Arc<Weather>,
    /// When the component dies.
    pub doom: Arc<Doom>,
}

/// A client over such a line.
pub fn exposed(line: Line) -> kube::Client {
    let service = tower::service_fn(move |request| {
        let line = line.clone();
        async move { line.send(request).await }
    });
    minik_client::over(service, "default")
}

impl Line {
    async fn send(self, request: Request<kube::client::Body>) -> Result<Answer, BoxError> {
        let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let creates = request.method() == Method::POST;
        let query = request.uri().query().unwrap_or_default();
        let (watches, resumes) = (query.contains("watch="), query.contains("&resourceVersion="));
        self.weather.delay().await;
        if writes && self.doom.strikes() {
            // It dies here; whoever waits for this is dropped with it.
            return std::future::pending().await;
        }
        let fate = if writes { self.weather.fate(creates) } else { Fate::Well };
        match fate {
            Fate::Lost => return Err(broken()),
            Fate::Refused(code) => return Ok(refusal(code)),
            Fate::Well | Fate::Unanswered => {}
        }
        if watches && resumes && self.weather.forgets() {
            return Ok(refusal(StatusCode::GONE));
        }
        let Some(server) = self.servers.any(&self.weather) else { return Err(broken()) };
        // Cancel-safe: a server that dies leaves what it does wherever it is.
        let answer = tokio::select! {
            biased;
            () = server.dead.requested() => return Err(broken()),
            answer = server.api.answer(request, &self.who.0, None) => answer,
        };
        if fate == Fate::Unanswered {
            return Err(broken());
        }
        self.weather.delay().await;
        let (head, body) = answer.into_parts();
        let body = body.map_err(BoxError::from).boxed_unsync();
        let body = if watches { late(body, self.weather, server.dead) } else { body };
        Ok(Response::from_parts(head, body))
    }
}

fn broken() -> BoxError {
    Error::from(ErrorKind::ConnectionReset).into()
}

/// A watch whose events come late, and which is cut now and then, at the latest when its server dies.
fn late(
    body: UnsyncBoxBody<Bytes, BoxError>,
    weather: Arc<Weather>,
    dead: Shutdown,
) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = stream::unfold(Some(body), move |body| {
        let (weather, dead) = (weather.clone(), dead.clone());
        async move {
            let mut body = body?;
            // Cancel-safe: what was not received is received by the next watch.
            let frame: Result<Frame<Bytes>, BoxError> = tokio::select! {
                biased;
                () = dead.requested() => return Some((Err(broken()), None)),
                frame = body.frame() => frame?,
            };
            weather.lag().await;
            match weather.cuts() {
                true => Some((Err(broken()), None)),
                false => Some((frame, Some(body))),
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn refusal(code: StatusCode) -> Answer {
    let reason = match code {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::GONE => "Expired",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the weather", "reason": reason, "code": code.as_u16()});
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}
