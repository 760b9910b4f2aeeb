//! HTTP: from a request to an answer. Who asks and whether he may is found out here, once for all requests; what is asked
//! for is answered by the verbs.
//!
//! ```text
//!  request ─> id ─> health? ─> authn ─> authz ─> limits ─> dispatch ─> form of the answer ─> audit, metrics
//! ```

mod body;
mod form;
mod paths;
mod places;
mod read;
mod review;
mod watch;
mod write;

pub use body::{Body, full};
pub use places::InFlight;
pub(crate) use places::Places;

use crate::admission::Warnings;
use crate::api::Api;
use crate::audit::{AuditLevel, Entry};
use crate::authn::{Peer, UserInfo, impersonate};
use crate::authz::Attributes;
use crate::body::MOST_BYTES;
use crate::error::{ApiError, Result};
use crate::metrics::Labels;
use crate::negotiate::{self, Form};
use crate::proxy::{Connect, Handed};
use crate::request::{RequestInfo, Verb};
use crate::served::Served;
use crate::verbs::Target;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use minik_apimachinery::time;
use minik_component::serve::LastAnswer;
use minik_storage::Revision;
use places::Turn;
use serde_json::Value;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// How long a request may take that is no watch.
const WITHIN: Duration = Duration::from_secs(60);
/// How long the store may take to say whether there is anything new.
const LEARN_WITHIN: Duration = Duration::from_secs(2);
/// The largest answer that is repeated in the audit log.
const AUDITED: u64 = 1 << 20;

/// Subresources that others answer: kubelets, Pods, whatever listens on a node.
const HANDED_ON: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// A request with its body read.
pub(crate) struct Asked {
    pub info: RequestInfo,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: UserInfo,
    /// Where warnings for the client go.
    pub warnings: Arc<Warnings>,
}

impl Asked {
    pub fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The form of the answer.
    pub fn form(&self) -> Result<Form> {
        negotiate::form(&self.headers)
    }
}

/// What was found out about a request, for its audit line.
struct Told {
    id: String,
    method: Method,
    uri: String,
    info: RequestInfo,
    user: UserInfo,
    /// For whom it was answered, when that is somebody else.
    acting: Option<UserInfo>,
    agent: String,
    source: Option<SocketAddr>,
    began: jiff::Timestamp,
    body: Option<Bytes>,
    warnings: Arc<Warnings>,
}

impl Api {
    /// Answers a request. `peer` is the client's certificate, `source` its address.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
        peer: &Peer,
        source: Option<SocketAddr>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let path = parts.uri.path();
        if let Some(answer) = self.health(&parts.method, path, parts.uri.query()).await {
            return answer;
        }
        let info = RequestInfo::of(&parts.method, path, parts.uri.query().unwrap_or_default());
        let mut told = Told {
            id: self.request_id(&parts.headers),
            method: parts.method.clone(),
            uri: parts.uri.path_and_query().map_or_else(|| path.to_owned(), ToString::to_string),
            info,
            user: UserInfo::anonymous(),
            acting: None,
            agent: text(&parts.headers, header::USER_AGENT),
            source,
            began: self.now(),
            body: None,
            warnings: Arc::default(),
        };
        let started = self.settings().clock.elapsed();
        let result =
            AssertUnwindSafe(self.answer_inside(&mut told, parts.headers.clone(), body, peer, upgrade))
                .catch_unwind();
        let mut response = match result.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => form::error(&error, &parts.headers),
            Err(_) => {
                self.inner().metrics.panicked(told.info.verb.name());
                let error = ApiError::Internal(
                    "this request caused apiserver to panic. Look in the logs for details".into(),
                );
                form::error(&error, &parts.headers)
            }
        };
        form::warn(&mut response, &told.warnings.take());
        if let Ok(id) = HeaderValue::from_str(&told.id) {
            response.headers_mut().insert("audit-id", id);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if told.user.is_anonymous() {
            response.extensions_mut().insert(LastAnswer);
        }
        let (mut response, answered) = self.audited(response).await;
        let own = told.info.verb != Verb::Watch && !is_handed_on(&told.info);
        if own && told.method == Method::GET && body::takes_gzip(&parts.headers) {
            response = body::zipped(response).await;
        }
        self.report(&told, response.status(), started, answered);
        response
    }

    /// The answer, and its body too where the audit log repeats it; streams and what is very large are left alone.
    async fn audited(&self, response: Response<Body>) -> (Response<Body>, Option<Bytes>) {
        let size = response.body().size_hint().exact();
        if self.settings().audit.level() < AuditLevel::RequestResponse
            || size.is_none_or(|size| size > AUDITED)
        {
            return (response, None);
        }
        let (parts, body) = response.into_parts();
        // A whole body does not fail.
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        (Response::from_parts(parts, full(bytes.clone())), Some(bytes))
    }

    async fn answer_inside<B>(
        &self,
        told: &mut Told,
        headers: HeaderMap,
        body: B,
        peer: &Peer,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let known = self.world().reached();
        let user = match self.let_in(told, &headers, peer) {
            Err(ApiError::Unauthorized) if self.signed(&headers) && self.learned(known).await => {
                self.let_in(told, &headers, peer)?
            }
            Err(ApiError::Forbidden { .. }) if !told.user.is_anonymous() && self.learned(known).await => {
                self.let_in(told, &headers, peer)?
            }
            result => result?,
        };
        if let Some(target) = self.handed_on(&told.info)? {
            let late = |_| ApiError::BadRequest("the body did not come in time".into());
            let body = tokio::time::timeout(WITHIN, read_body(body)).await.map_err(late)??;
            let query = told.uri.split_once('?').map_or("", |(_, query)| query).to_owned();
            let (method, path) = (told.method.clone(), told.info.path.clone());
            let connect = Connect { method, path, query, headers, body, user, upgrade };
            return Ok(passed_on(self.connect(connect, target).await?));
        }
        let mutating = !matches!(told.info.verb, Verb::Get | Verb::List | Verb::Watch);
        let _turn = self.turn(mutating, &user).await?;
        let gauge = self.inner().metrics.inflight(mutating);
        let _counted = (told.info.verb != Verb::Watch).then(|| Counted::new(gauge));
        let work = async {
            let body = read_body(body).await?;
            told.body = Some(body.clone()).filter(|_| self.settings().audit.level() >= AuditLevel::Request);
            let warnings = told.warnings.clone();
            let asked = Asked { info: told.info.clone(), headers, body, user, warnings };
            let known = self.world().reached();
            match self.dispatch(&asked).await {
                Err(ApiError::NotFound(_) | ApiError::Forbidden { .. })
                    if mutating && self.learned(known).await =>
                {
                    self.dispatch(&asked).await
                }
                answer => answer,
            }
        };
        match tokio::time::timeout(WITHIN, work).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::Timeout {
                on: crate::error::Named::default(),
                message: "request did not complete within the allotted timeout".into(),
            }),
        }
    }

    /// Who asks, in the end, and that he may.
    fn let_in(&self, told: &mut Told, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo> {
        let user = self.inner().authn.user(peer, headers, self.now())?;
        // The audit line tells who really asked.
        told.user = user.clone();
        let user = impersonate::effective(&user, headers, |attributes| self.authorize(attributes))?;
        told.acting = Some(user.clone()).filter(|acting| *acting != told.user);
        self.authorize(&Attributes::of(&user, &told.info))?;
        Ok(user)
    }

    /// Whether a request bears a token that we issued, whatever became of what it is bound to: others do not make us ask
    /// the store.
    fn signed(&self, headers: &HeaderMap) -> bool {
        self.inner().authn.is_signed(headers, self.now())
    }

    /// Whether there is something in the store that was not known when a request began, and is now. Asked before a request is
    /// refused that another server may just have made right: with a new namespace, a role's binding, a token's account.
    async fn learned(&self, known: Revision) -> bool {
        let revision = self.world().storage().revision();
        match tokio::time::timeout(LEARN_WITHIN, revision).await {
            Ok(Ok(revision)) => revision > known && self.world().reach(revision).await.is_ok(),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits for a place among the requests under way, so that a burst is spread and not refused.
    async fn turn(&self, mutating: bool, user: &UserInfo) -> Result<Turn> {
        let places = &self.inner().places;
        let places = if mutating { &places.writing } else { &places.reading };
        places.turn(user).await.ok_or_else(|| {
            self.inner().metrics.refused(429);
            let message = "Too many requests, please try again later.".into();
            ApiError::TooManyRequests { message, retry_after_seconds: 1, cause: None }
        })
    }

    /// What a request is about; `None` for a path that is no resource.
    fn target_of<'a>(&'a self, info: &'a RequestInfo) -> Result<Option<Target<'a>>> {
        let Some(path) = &info.resource else { return Ok(None) };
        let Some(served) = self.served_at(path) else {
            let known = self.has_version(&path.group, &path.version);
            return Err(if known { ApiError::NoSuchPath } else { ApiError::NoSuchPage });
        };
        if !path.subresource.is_empty() && !served.has_subresource(&path.subresource) {
            return Err(ApiError::NoSuchPath);
        }
        let own_namespace = served.resource.plural == "namespaces" && served.resource.group.is_empty();
        if !served.resource.namespaced() && !path.namespace.is_empty() && !own_namespace {
            return Err(ApiError::NoSuchPath);
        }
        if served.resource.namespaced() && path.namespace.is_empty() {
            // Without a namespace there are only the collections of all namespaces, which can be read.
            match info.verb {
                Verb::List | Verb::Watch => {}
                _ if path.name.is_empty() => {
                    return Err(ApiError::MethodNotAllowed);
                }
                _ => return Err(ApiError::NoSuchPath),
            }
        }
        let name = if info.is_collection() { "" } else { path.name.as_str() };
        let namespace = if served.resource.namespaced() { path.namespace.as_str() } else { "" };
        let target = Target { served, namespace, name, subresource: &path.subresource };
        allowed(served, &target, info)?;
        Ok(Some(target))
    }

    /// The target of a request that others answer, however long it takes.
    fn handed_on<'a>(&'a self, info: &'a RequestInfo) -> Result<Option<Target<'a>>> {
        if is_handed_on(info) { self.target_of(info) } else { Ok(None) }
    }

    /// Sends an authorized request to its verb.
    async fn dispatch(&self, asked: &Asked) -> Result<Response<Body>> {
        if asked.info.resource.as_ref().is_some_and(|path| path.is_bindings()) {
            return self.answer_binding(asked).await;
        }
        let Some(target) = self.target_of(&asked.info)? else { return self.path(asked).await };
        let answer = self.verb(asked, target).await;
        let told = target.served.resource.deprecated;
        // What has no form that the resource takes did not get there.
        let got_there = !matches!(answer, Err(ApiError::UnsupportedMediaType(_)));
        if got_there && !told.is_empty() {
            asked.warnings.push(told.to_owned());
        }
        answer
    }

    async fn verb(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        match asked.info.verb {
            Verb::Get => self.answer_get(asked, target).await,
            Verb::List => self.answer_list(asked, target).await,
            Verb::Watch => self.answer_watch(asked, target).await,
            Verb::Create => self.answer_create(asked, target).await,
            Verb::Update => self.answer_update(asked, target).await,
            Verb::Patch => self.answer_patch(asked, target).await,
            Verb::Delete => self.answer_delete(asked, target).await,
            Verb::DeleteCollection => self.answer_delete_collection(asked, target).await,
        }
    }

    /// The client's id of the request, or a new one.
    fn request_id(&self, headers: &HeaderMap) -> String {
        let asked = text(headers, header::HeaderName::from_static("audit-id"));
        let fits =
            |id: &str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_graphic());
        if fits(&asked) { asked } else { self.new_id() }
    }

    /// A new random identifier.
    pub(crate) fn new_id(&self) -> String {
        let bits = (u128::from(self.chance().bits()) << 64) | u128::from(self.chance().bits());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    fn report(&self, told: &Told, code: StatusCode, started: Duration, answered: Option<Bytes>) {
        let info = &told.info;
        let known = info.resource.as_ref().and_then(|path| self.served_at(path));
        let subresource = info.resource.as_ref().map_or("", |path| path.subresource.as_str());
        let verb = info.verb.name().to_ascii_uppercase();
        let labels = Labels {
            verb: if known.is_some() { &verb } else { told.method.as_str() },
            ..labels(info, known)
        };
        let seconds = (info.verb != Verb::Watch)
            .then(|| self.settings().clock.elapsed().saturating_sub(started).as_secs_f64());
        self.inner().metrics.answered(labels, code.as_u16(), seconds);
        if self.settings().audit.level() == AuditLevel::None {
            return;
        }
        let secret = known.is_some_and(|served| matches!(served.resource.plural, "secrets" | "tokenreviews"))
            || subresource == "token";
        self.settings().audit.tell(&Entry {
            id: &told.id,
            verb: info.verb.name(),
            uri: &told.uri,
            user: review::user_tree(&told.user),
            impersonated: told.acting.as_ref().map(review::user_tree),
            source: told.source.map(|address| address.ip().to_string()),
            user_agent: &told.agent,
            object: info.resource.as_ref().map(object_reference),
            code: code.as_u16(),
            times: (time::micros(told.began), time::micros(self.now())),
            bodies: (told.body.as_ref(), answered.as_ref()),
            open: !secret,
        });
    }
}

/// Whether others answer a request.
fn is_handed_on(info: &RequestInfo) -> bool {
    info.resource.as_ref().is_some_and(|path| HANDED_ON.contains(&path.subresource.as_str()))
}

/// What a request is, in words of a closed set; the verb is left out.
fn labels<'a>(info: &'a RequestInfo, known: Option<&'a Served>) -> Labels<'a> {
    let path = info.resource.as_ref();
    let scope = match path {
        None => "",
        Some(_) if !info.is_collection() => "resource",
        Some(path) if !path.namespace.is_empty() => "namespace",
        Some(_) => "cluster",
    };
    Labels {
        verb: "",
        group: known.map_or("", |served| served.resource.group),
        version: known.map_or("", |served| served.version),
        resource: known.map_or("", |served| served.resource.plural),
        subresource: path.filter(|_| known.is_some()).map_or("", |path| path.subresource.as_str()),
        scope,
    }
}

/// A backend's answer as ours.
fn passed_on(handed: Handed) -> Response<Body> {
    match handed {
        Handed::Empty => form::respond(StatusCode::OK, "text/plain", full(Bytes::new())),
        Handed::Answer(answer) => {
            let mut answer = answer.map(body::passed);
            // They are between the backend and us.
            for own in [header::CONNECTION, header::TRANSFER_ENCODING] {
                answer.headers_mut().remove(own);
            }
            answer
        }
        Handed::Switched(answer) => answer.map(|()| full(Bytes::new())),
    }
}

fn object_reference(path: &crate::request::ResourcePath) -> Value {
    let mut reference = serde_json::Map::new();
    for (field, value) in [
        ("resource", &path.resource),
        ("namespace", &path.namespace),
        ("name", &path.name),
        ("apiGroup", &path.group),
        ("apiVersion", &path.version),
        ("subresource", &path.subresource),
    ] {
        if !value.is_empty() {
            reference.insert(field.into(), value.as_str().into());
        }
    }
    Value::Object(reference)
}

/// Whether a resource takes the verb.
fn allowed(served: &Served, target: &Target<'_>, info: &RequestInfo) -> Result<()> {
    let verbs = match served.resource.subresource(target.subresource) {
        Some(sub) => sub.verbs,
        None => served.resource.verbs,
    };
    let verb = match info.verb {
        Verb::Get => minik_registry::Verb::Get,
        Verb::List => minik_registry::Verb::List,
        Verb::Watch => minik_registry::Verb::Watch,
        Verb::Create => minik_registry::Verb::Create,
        Verb::Update => minik_registry::Verb::Update,
        Verb::Patch => minik_registry::Verb::Patch,
        Verb::Delete => minik_registry::Verb::Delete,
        Verb::DeleteCollection => minik_registry::Verb::DeleteCollection,
    };
    let known = matches!(info.method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE");
    let needs_name = matches!(info.verb, Verb::Update | Verb::Patch);
    let has_name = !target.name.is_empty();
    let creates_named = info.verb == Verb::Create && has_name && target.subresource.is_empty();
    if !known || !verbs.has(verb) || (needs_name && !has_name) || creates_named {
        return Err(ApiError::MethodNotAllowed);
    }
    Ok(())
}

async fn read_body<B>(body: B) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MOST_BYTES).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(MOST_BYTES)),
        Err(error) => Err(ApiError::BadRequest(format!("the body cannot be read: {error}"))),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// A gauge that is one higher while this lives.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: prometheus::IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
