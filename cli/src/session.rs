//! Calls to the server of the chosen context, and what their failures mean to a user.

use crate::{Failure, Globals};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use minik_client::{Discovery, Kubeconfig};
use minik_component::chain;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// How long a call may take; watches and logs are as long as they are.
const CALL_WITHIN: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";

/// A client, and the namespace that commands mean.
pub struct Session {
    client: kube::Client,
    /// The namespace of commands that name none.
    pub namespace: String,
    /// Whether the user has named it.
    pub namespace_is_given: bool,
    server: String,
}

/// A call.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// What the body is.
    pub content_type: &'a str,
    /// The form of the answer.
    pub accept: &'a str,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer that is no refusal.
pub struct Answer {
    /// The body.
    pub body: Bytes,
    /// What the server warns of.
    pub warnings: Vec<String>,
}

/// A refusal by the server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// The HTTP code.
    pub code: u16,
    /// The reason, a word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// Why a call failed.
#[derive(Debug)]
pub enum CallError {
    /// The server refused it.
    Refused(Refusal),
    /// The server did not answer.
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        why: String,
    },
    /// The answer cannot be understood.
    Garbled(String),
}

impl CallError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            CallError::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        match error {
            CallError::Refused(refusal) if refusal.code == 401 => {
                let what = "the server does not know who you are (Unauthorized)";
                Failure::new(what).hint("the context's credentials may be of another cluster or too old")
            }
            CallError::Refused(Refusal { reason, message, .. }) if reason.is_empty() => {
                Failure::new(format!("error from server: {message}"))
            }
            CallError::Refused(Refusal { reason, message, .. }) => {
                Failure::new(format!("error from server ({reason}): {message}"))
            }
            CallError::Unreachable { server, why } => {
                Failure::new(format!("no cluster is running at {server} ({why})"))
                    .hint("start one with `minikctl cluster up`, or choose another with --context")
                    .no_cluster()
            }
            CallError::Garbled(why) => {
                Failure::new(format!("the server's answer cannot be understood: {why}"))
            }
        }
    }
}

impl Session {
    /// A session with the server of the chosen context. No connection is made here.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it cannot be used.
    pub fn open(globals: &Globals) -> Result<Session, Failure> {
        let client = globals.client()?;
        let config = Kubeconfig::load(&globals.kubeconfig_path())?;
        let (access, _) = config.access(globals.context.as_deref())?;
        let given = globals.namespace.is_some();
        Ok(Session::over(client, given, access.server))
    }

    /// A session over any client.
    pub fn over(client: kube::Client, namespace_is_given: bool, server: String) -> Session {
        Session { namespace: client.default_namespace().to_owned(), client, namespace_is_given, server }
    }

    async fn begin(&self, call: Call<'_>) -> Result<http::Response<Body>, CallError> {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::ACCEPT, call.accept)
            .header(header::CONTENT_TYPE, call.content_type)
            .header(header::USER_AGENT, concat!("minikctl/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(call.body))
            .map_err(|error| CallError::Garbled(error.to_string()))?;
        let unreachable = |why: String| CallError::Unreachable { server: self.server.clone(), why };
        let response = match tokio::time::timeout(CALL_WITHIN, self.client.send(request)).await {
            Ok(response) => response.map_err(|error| unreachable(innermost(&error)))?,
            Err(_) => return Err(unreachable(format!("no answer within {} s", CALL_WITHIN.as_secs()))),
        };
        let code = response.status().as_u16();
        if code < 300 {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(code, &body))
    }

    /// Makes a call and reads its whole answer.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let response = self.begin(call).await?;
        let warnings = response.headers().get_all(header::WARNING).iter();
        let warnings = warnings.filter_map(|value| warning(value.to_str().ok()?)).collect();
        let body = tokio::time::timeout(CALL_WITHIN, response.into_body().collect()).await;
        match body {
            Ok(Ok(body)) => Ok(Answer { body: body.to_bytes(), warnings }),
            Ok(Err(error)) => Err(CallError::Garbled(chain(&error))),
            Err(_) => Err(CallError::Garbled("it did not end".into())),
        }
    }

    /// Reads what a path has, in a form.
    ///
    /// # Errors
    /// As [`Session::send`], and when the answer is not of that form.
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Result<T, CallError> {
        let call = Call { method: Method::GET, path, content_type: JSON, accept, body: Vec::new() };
        parse(&self.send(call).await?.body)
    }

    /// Reads what a path has.
    ///
    /// # Errors
    /// As [`Session::get_as`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.get_as(path, JSON).await
    }

    /// Sends a JSON object.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn write(&self, method: Method, path: &str, object: &Value) -> Result<Answer, CallError> {
        let body = object.to_string().into_bytes();
        self.send(Call { method, path, content_type: JSON, accept: JSON, body }).await
    }

    /// Opens an answer that goes on: a watch or a log.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Stream, CallError> {
        let call = Call { method: Method::GET, path, content_type: JSON, accept, body: Vec::new() };
        Ok(Stream { body: self.begin(call).await?.into_body(), rest: BytesMut::new() })
    }

    /// What the server serves.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn discovery(&self) -> Result<Discovery, CallError> {
        Discovery::fetch(&self.client).await.map_err(|error| match error {
            minik_client::ClientError::Call(kube::Error::Api(status)) => CallError::Refused(Refusal {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            }),
            minik_client::ClientError::Call(kube::Error::SerdeError(error)) => {
                CallError::Garbled(format!("aggregated discovery: {error}"))
            }
            other => CallError::Unreachable { server: self.server.clone(), why: innermost(&other) },
        })
    }
}

/// The last cause, which is what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// A refusal as it stands in an answer's body.
pub fn refusal(code: u16, body: &[u8]) -> CallError {
    let fallback =
        || Refusal { code, reason: String::new(), message: String::from_utf8_lossy(body).trim().to_owned() };
    CallError::Refused(serde_json::from_slice(body).unwrap_or_else(|_| fallback()))
}

/// Reads an answer.
///
/// # Errors
/// When it is not what it should be.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Garbled(error.to_string()))
}

/// The words of a warning header: `299 - "words"`.
fn warning(header: &str) -> Option<String> {
    let words = header.split_once('"')?.1.rsplit_once('"')?.0;
    Some(words.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// An answer that goes on.
pub struct Stream {
    body: Body,
    rest: BytesMut,
}

impl Stream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(CallError::Garbled(chain(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn line(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line = self.rest.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            match self.chunk().await? {
                Some(data) => self.rest.extend_from_slice(&data),
                None if self.rest.is_empty() => return Ok(None),
                None => return Ok(Some(self.rest.split().freeze())),
            }
        }
    }
}

/// An event of a watch.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object, or a Status.
    pub object: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_from_their_headers() {
        assert_eq!(warning(r#"299 - "unknown field \"a\"""#), Some(r#"unknown field "a""#.to_owned()));
        assert_eq!(warning("299 -"), None);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let refusal =
            Refusal { code: 404, reason: "NotFound".into(), message: "pods \"a\" not found".into() };
        let failure = Failure::from(CallError::Refused(refusal));
        assert_eq!(failure.to_string(), "error from server (NotFound): pods \"a\" not found");
    }
}
