//! Clients that call the API in the same thread, through whatever weather there is.

use crate::weather::{Doom, Fate, Weather};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use minik_apiserver::{Api, Body, Peer};
use serde_json::json;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
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
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, user);
        for group in groups {
            parameters.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
        }
        // The key is thrown away: nobody signs with it, and nothing depends on its chance.
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate()?)?;
        Ok(Who(Peer(Some(Arc::new(certificate.der().clone())))))
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
    pub servers: Arc<[Api]>,
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
        let watches = request.uri().query().is_some_and(|query| query.contains("watch="));
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
        let server = &self.servers[self.weather.below(self.servers.len() as u64) as usize];
        let answer = server.answer(request, &self.who.0, None).await;
        if fate == Fate::Unanswered {
            return Err(broken());
        }
        self.weather.delay().await;
        let (head, body) = answer.into_parts();
        let body = body.map_err(BoxError::from).boxed_unsync();
        Ok(Response::from_parts(head, if watches { late(body, self.weather) } else { body }))
    }
}

fn broken() -> BoxError {
    Error::from(ErrorKind::ConnectionReset).into()
}

/// A watch whose events come late, and which is cut now and then.
fn late(body: UnsyncBoxBody<Bytes, BoxError>, weather: Arc<Weather>) -> UnsyncBoxBody<Bytes, BoxError> {
    let frames = stream::unfold(Some(body), move |body| {
        let weather = weather.clone();
        async move {
            let mut body = body?;
            let frame: Result<Frame<Bytes>, BoxError> = body.frame().await?;
            weather.lag().await;
            match weather.strikes(10) {
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
