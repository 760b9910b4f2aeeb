//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, backup.

use super::body::streamed;
use super::form::respond;
use super::{Asked, Body, full};
use crate::api::Api;
use crate::authn::{MASTERS, jwks};
use crate::error::{ApiError, Result};
use crate::world::store_error;
use crate::{discovery, negotiate, openapi};
use futures::stream;
use http::{Method, Response, StatusCode};
use minik_storage::Revision;
use prometheus::{Encoder, TextEncoder};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// How long the store may take to answer a health check, as upstream has it.
const STORE_WITHIN: Duration = Duration::from_secs(2);
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Paths that are no resources, without those of groups.
const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

impl Api {
    /// What everybody may ask: whether the server is well, and which it is.
    pub(super) async fn health(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Option<Response<Body>> {
        if method != Method::GET && method != Method::HEAD {
            return None;
        }
        if path == "/version" || path == "/version/" {
            return Some(respond(StatusCode::OK, JSON, full(version().to_string())));
        }
        let (probe, one) = match path.trim_start_matches('/').split_once('/') {
            Some((probe, one)) => (probe, one.trim_end_matches('/')),
            None => (path.trim_start_matches('/'), ""),
        };
        if !matches!(probe, "livez" | "readyz" | "healthz") {
            return None;
        }
        let verbose = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
        let mut checks = vec![("ping", true)];
        if probe != "livez" {
            let stored = self.store_answers().await;
            checks.extend([("etcd", stored.is_some()), ("informer-sync", self.have(stored).await)]);
            checks.push(("poststarthook/rbac/bootstrap-roles", self.is_prepared()));
        }
        if probe == "readyz" {
            checks.push(("shutdown", !self.is_ending()));
        }
        if !one.is_empty() {
            checks.retain(|(name, _)| *name == one);
            if checks.is_empty() {
                return Some(respond(StatusCode::NOT_FOUND, TEXT, full("404 page not found\n")));
            }
        }
        let well = checks.iter().all(|(_, well)| *well);
        let code = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        if well && !verbose {
            return Some(respond(code, TEXT, full("ok")));
        }
        let mut text = String::new();
        for (name, well) in checks {
            // Writing to a text does not fail.
            let _ = match well {
                true => writeln!(text, "[+]{name} ok"),
                false => writeln!(text, "[-]{name} failed: reason withheld"),
            };
        }
        let _ = writeln!(text, "{probe} check {}", if well { "passed" } else { "failed" });
        Some(respond(code, TEXT, full(text)))
    }

    /// The store's revision, whichever store it is, if it tells it in time.
    async fn store_answers(&self) -> Option<Revision> {
        let revision = self.world().storage().revision();
        tokio::time::timeout(STORE_WITHIN, revision).await.ok()?.ok()
    }

    /// Whether the caches have what is stored, or get there in time.
    async fn have(&self, stored: Option<Revision>) -> bool {
        let Some(revision) = stored else { return false };
        matches!(tokio::time::timeout(STORE_WITHIN, self.world().reach(revision)).await, Ok(Ok(())))
    }

    /// An authorized request for a path.
    pub(super) async fn path(&self, asked: &Asked) -> Result<Response<Body>> {
        let info = &asked.info;
        let path = info.path.trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if !matches!(info.method.as_str(), "GET" | "HEAD") {
            let known = PATHS.contains(&path) || self.is_version(&parts);
            return Err(if known { ApiError::MethodNotAllowed } else { ApiError::NoSuchPage });
        }
        if let Some(answer) = self.issuer(path) {
            return Ok(answer);
        }
        if path == "/metrics" {
            return Ok(self.metrics_text());
        }
        if path == "/minik/backup" {
            return self.backup(asked).await;
        }
        if path.starts_with("/openapi") {
            let query = query_text(asked);
            let answer =
                openapi::answer(path, query.as_deref(), &asked.headers).ok_or(ApiError::NoSuchPage)?;
            return Ok(answer.map(full));
        }
        if matches!(path, "/api" | "/apis") && negotiate::wants_aggregated_discovery(&asked.headers) {
            let document = discovery::aggregated(path == "/api");
            return Ok(respond(StatusCode::OK, AGGREGATED, full(document.to_string())));
        }
        let document = match parts[..] {
            [""] | [] => Some(root()),
            ["api"] => Some(discovery::core_versions(&self.settings().advertised)),
            ["apis"] => Some(discovery::group_list()),
            ["apis", group] => discovery::group(group),
            ["api", version] => discovery::resource_list("", version),
            ["apis", group, version] => discovery::resource_list(group, version),
            _ => None,
        };
        // Below a version that is served something else was looked for.
        let nothing = if self.is_version(&parts) { ApiError::NoSuchPath } else { ApiError::NoSuchPage };
        let document = document.ok_or(nothing)?;
        Ok(respond(StatusCode::OK, JSON, full(document.to_string())))
    }

    /// Whether a path is below a version that is served.
    fn is_version(&self, parts: &[&str]) -> bool {
        match parts {
            ["api", version, ..] => self.has_version("", version),
            ["apis", group, version, ..] => self.has_version(group, version),
            _ => false,
        }
    }

    /// Whether a version of a group is served.
    pub(super) fn has_version(&self, group: &str, version: &str) -> bool {
        let fits =
            |served: &crate::served::Served| served.resource.group == group && served.version == version;
        self.inner().served.iter().any(fits)
    }

    /// Who issues tokens, and by which keys they are believed.
    fn issuer(&self, path: &str) -> Option<Response<Body>> {
        let tokens = self.inner().tokens.as_ref().filter(|tokens| !tokens.public().is_empty())?;
        let (kind, document) = match path {
            "/openid/v1/jwks" => ("application/jwk-set+json", json!({"keys": tokens.public()})),
            "/.well-known/openid-configuration" => {
                let advertised = &self.settings().advertised;
                (JSON, jwks::configuration(tokens.issuer(), advertised, tokens.public()))
            }
            _ => return None,
        };
        Some(respond(StatusCode::OK, kind, full(document.to_string())))
    }

    fn metrics_text(&self) -> Response<Body> {
        let mut body = Vec::new();
        // Writing to memory cannot fail; a malformed family is left out.
        let _ = TextEncoder::new().encode(&self.settings().metrics.gather(), &mut body);
        respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", full(body))
    }

    /// Everything that is stored, at one revision, in chunks.
    async fn backup(&self, asked: &Asked) -> Result<Response<Body>> {
        if !asked.user.in_group(MASTERS) {
            let message =
                format!("forbidden: User {:?} cannot get path {:?}", asked.user.name, asked.info.path);
            return Err(ApiError::Forbidden { on: crate::error::Named::default(), message });
        }
        let prefix = format!("{}/", self.settings().prefix);
        let export = self.world().storage().export(&prefix).await.map_err(|error| store_error(&error))?;
        let body = streamed(stream::iter(export.frames()));
        Ok(respond(StatusCode::OK, "application/octet-stream", body))
    }
}

/// The query again as a text, for the one parameter that OpenAPI looks at.
fn query_text(asked: &Asked) -> Option<String> {
    let hash = asked.info.query.get("hash");
    (!hash.is_empty()).then(|| format!("hash={hash}"))
}

fn root() -> Value {
    let mut paths: Vec<String> = PATHS.map(str::to_owned).into();
    for group in discovery::groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(discovery::versions(group).iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    json!({"paths": paths})
}

/// What is served: upstream's version, and our own behind it.
fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": concat!("v1.37.2+minik-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}
