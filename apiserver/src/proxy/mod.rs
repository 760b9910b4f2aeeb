//! What the server hands on: logs, commands, attached processes and forwarded ports to kubelets; plain requests to nodes,
//! Pods and Services (<https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/>).
//!
//! Bytes pass through as they are. Upgraded connections (WebSocket, SPDY) are copied both ways until one side ends.

mod dial;
mod place;

pub use dial::{KubeletFiles, Kubelets};

use crate::admission::{Attributes, Operation, Warnings};
use crate::api::Api;
use crate::authn::UserInfo;
use crate::error::{ApiError, Result};
use crate::request::Query;
use crate::verbs::Target;
use bytes::Bytes;
use dial::Trust;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use place::Location;
use serde_json::Value;

/// The most bytes of a refusal's words that are repeated.
const WORDS: usize = 64 << 10;

/// Headers that belong to one connection, or are a secret between the client and this server.
const OWN: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHORIZATION,
];

/// A request that is handed on.
pub struct Connect {
    /// The method.
    pub method: Method,
    /// The path as sent.
    pub path: String,
    /// The query as sent.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Who asks.
    pub user: UserInfo,
    /// The client's connection, when it wants to speak another protocol.
    pub upgrade: Option<OnUpgrade>,
}

/// What a backend answered.
pub enum Handed {
    /// Nothing was asked, and nothing is to be told.
    Empty,
    /// Its answer, whose body is passed on as it comes.
    Answer(Response<Incoming>),
    /// It speaks another protocol from here on, and so does the client.
    Switched(Response<()>),
}

impl Api {
    /// Hands a request for `log`, `exec`, `attach`, `portforward` or `proxy` on.
    ///
    /// # Errors
    /// What forbids it, or that nobody answers there.
    pub async fn connect(&self, connect: Connect, target: Target<'_>) -> Result<Handed> {
        self.world().caught_up().await?;
        self.admit_connect(&connect, &target)?;
        let query = Query::parse(&connect.query);
        let location = match target.subresource {
            "log" => match self.log_location(&target, &query).await? {
                Some(location) => location,
                None => return Ok(Handed::Empty),
            },
            "proxy" => self.proxy_location(&target, &rest(&connect)).await?,
            _ => self.stream_location(&target, &query).await?,
        };
        if matches!(target.subresource, "exec" | "attach" | "portforward") && !wants_upgrade(&connect.headers)
        {
            return Err(ApiError::BadRequest("Upgrade request required".into()));
        }
        self.pass(connect, location, target.subresource == "log").await
    }

    fn admit_connect(&self, connect: &Connect, target: &Target<'_>) -> Result<()> {
        if target.subresource == "log" {
            return Ok(());
        }
        let warnings = Warnings::default();
        let attributes = Attributes {
            user: &connect.user,
            resource: target.served.resource,
            version: target.served.version,
            subresource: target.subresource,
            operation: Operation::Connect,
            namespace: target.namespace,
            name: target.name,
            dry_run: false,
            old: None,
            options: &Value::Null,
            now: self.now(),
            chance: self.chance(),
            warnings: &warnings,
        };
        self.admission().admit(&attributes, &mut Value::Null)?;
        self.admission().validate(&attributes, &Value::Null)
    }

    async fn pass(&self, connect: Connect, location: Location, log: bool) -> Result<Handed> {
        let kubelets = &self.settings().kubelets;
        let mut sender = kubelets.open(&location.backend).await?;
        let switches = wants_upgrade(&connect.headers);
        let mut onward = Request::builder().method(connect.method.clone()).uri(&location.uri);
        if let Some(headers) = onward.headers_mut() {
            copy_headers(&connect.headers, headers, switches);
            let host = match location.backend.address {
                std::net::IpAddr::V4(ip) => format!("{ip}:{}", location.backend.port),
                std::net::IpAddr::V6(ip) => format!("[{ip}]:{}", location.backend.port),
            };
            headers.insert(
                header::HOST,
                host.parse().map_err(|_| ApiError::Internal("a host is no header".into()))?,
            );
        }
        let onward = onward
            .body(Full::new(connect.body))
            .map_err(|error| ApiError::BadRequest(format!("the request cannot be handed on: {error}")))?;
        let failed =
            |error: hyper::Error| ApiError::Unavailable(format!("error trying to reach service: {error}"));
        let answer = sender.send_request(onward).await.map_err(failed)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client = connect.upgrade.ok_or_else(|| {
                ApiError::BadRequest("this connection cannot be upgraded: use HTTP/1.1".into())
            })?;
            return Ok(Handed::Switched(self.join(client, answer)));
        }
        if log || location.backend.trust == Trust::Kubelet {
            return checked(answer).await.map(Handed::Answer);
        }
        Ok(Handed::Answer(answer))
    }

    /// Copies bytes both ways once both sides have switched.
    fn join(&self, client: OnUpgrade, mut answer: Response<Incoming>) -> Response<()> {
        let backend = hyper::upgrade::on(&mut answer);
        let (parts, _) = answer.into_parts();
        self.settings().kubelets.tasks.spawn(async move {
            match tokio::try_join!(client, backend) {
                Ok((client, backend)) => {
                    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                    // One side hanging up is how such a connection ends.
                    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                        tracing::debug!(%error, "a stream ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "a stream did not begin"),
            }
        });
        Response::from_parts(parts, ())
    }
}

/// A kubelet's refusal in the API's words.
async fn checked(answer: Response<Incoming>) -> Result<Response<Incoming>> {
    let code = answer.status();
    if code.is_success() || code.is_redirection() {
        return Ok(answer);
    }
    let limited = http_body_util::Limited::new(answer.into_body(), WORDS);
    let words = limited.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).trim_end().to_owned();
    Err(match code {
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::Internal(words),
        StatusCode::BAD_REQUEST => ApiError::BadRequest(words),
        StatusCode::NOT_FOUND => ApiError::Handed {
            code,
            reason: "NotFound",
            message: "the server could not find the requested resource".into(),
            words,
        },
        StatusCode::FORBIDDEN => {
            ApiError::Handed { code, reason: "Forbidden", message: words.clone(), words }
        }
        StatusCode::UNAUTHORIZED => ApiError::Unauthorized,
        code => ApiError::Handed { code, reason: "", message: words.clone(), words },
    })
}

/// What follows `/proxy`, with its query.
fn rest(connect: &Connect) -> String {
    let after = connect.path.split_once("/proxy").map_or("", |(_, rest)| rest);
    let path = if after.is_empty() { "/" } else { after };
    if connect.query.is_empty() { path.to_owned() } else { format!("{path}?{}", connect.query) }
}

/// Whether a client wants to speak another protocol.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let says = |value: &http::HeaderValue| {
        value
            .to_str()
            .is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
    };
    headers.get_all(header::CONNECTION).iter().any(says) && headers.contains_key(header::UPGRADE)
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, switches: bool) {
    for (name, value) in from {
        let hop = matches!(name.as_str(), "connection" | "upgrade" | "keep-alive" | "proxy-connection");
        if !OWN.contains(name) && (!hop || (switches && matches!(name.as_str(), "connection" | "upgrade"))) {
            to.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_hops_stay_here() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("accept", "a"),
        ] {
            from.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        assert!(wants_upgrade(&from));
        let names = |switches| {
            let mut to = HeaderMap::new();
            copy_headers(&from, &mut to, switches);
            let mut names: Vec<String> = to.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(false), ["accept", "sec-websocket-key"]);
        assert_eq!(names(true), ["accept", "connection", "sec-websocket-key", "upgrade"]);
    }
}
