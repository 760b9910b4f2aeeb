//! Single calls with JSON bodies, each with a deadline.

use crate::ClientError;
use http::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a call may take, its whole answer included.
pub const CALL_WITHIN: Duration = Duration::from_secs(30);

/// How a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own, which knows list keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        }
    }
}

/// Reads an object.
///
/// # Errors
/// When the server refuses, cannot be reached or takes too long.
pub async fn get<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, ClientError> {
    send(client, Method::GET, path, "application/json", Vec::new()).await
}

/// Reads in the form that `accept` asks for, such as metadata only.
///
/// # Errors
/// As [`get`].
pub async fn get_as<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    accept: &str,
) -> Result<T, ClientError> {
    send_as(client, Method::GET, path, ("application/json", accept), Vec::new()).await
}

/// Posts an object to a collection or subresource.
///
/// # Errors
/// As [`get`].
pub async fn post<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    object: &impl Serialize,
) -> Result<T, ClientError> {
    send(client, Method::POST, path, "application/json", body(object)?).await
}

/// Replaces an object.
///
/// # Errors
/// As [`get`].
pub async fn put<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    object: &impl Serialize,
) -> Result<T, ClientError> {
    send(client, Method::PUT, path, "application/json", body(object)?).await
}

/// Patches an object.
///
/// # Errors
/// As [`get`].
pub async fn patch<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    kind: PatchKind,
    change: &impl Serialize,
) -> Result<T, ClientError> {
    send(client, Method::PATCH, path, kind.content_type(), body(change)?).await
}

/// Deletes an object, with `DeleteOptions` (an empty object for none).
///
/// # Errors
/// As [`get`].
pub async fn delete(
    client: &kube::Client,
    path: &str,
    options: &impl Serialize,
) -> Result<serde_json::Value, ClientError> {
    send(client, Method::DELETE, path, "application/json", body(options)?).await
}

/// The HTTP code of a refusal by the server; `None` when it gave no answer.
pub fn refusal(error: &ClientError) -> Option<u16> {
    match error {
        ClientError::Call(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// Success, where what was to be changed is gone.
///
/// # Errors
/// All others.
pub fn gone_is_fine<T>(result: Result<T, ClientError>) -> Result<(), ClientError> {
    match result {
        Err(error) if refusal(&error) == Some(404) => Ok(()),
        other => other.map(drop),
    }
}

fn body(object: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(object).map_err(|error| ClientError::Call(kube::Error::SerdeError(error)))
}

async fn send<T: DeserializeOwned>(
    client: &kube::Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<T, ClientError> {
    send_as(client, method, path, (content_type, "application/json"), body).await
}

async fn send_as<T: DeserializeOwned>(
    client: &kube::Client,
    method: Method,
    path: &str,
    (content_type, accept): (&str, &str),
    body: Vec<u8>,
) -> Result<T, ClientError> {
    let what = format!("{method} {path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::ACCEPT, accept)
        .body(body)
        .map_err(|error| ClientError::Call(kube::Error::HttpError(error)))?;
    match tokio::time::timeout(CALL_WITHIN, client.request(request)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ClientError::Late { what, seconds: CALL_WITHIN.as_secs() }),
    }
}
