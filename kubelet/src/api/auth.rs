//! Who asks the node's API, and whether they may: certificates here, tokens and rights by the apiserver's word.

use super::{Body, text};
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1 as authn;
use k8s_openapi::api::authorization::v1 as authz;
use minik_client::call;
use minik_component::{Clock, chain};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long an answer is believed, as upstream has it.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
/// Answers kept; forgotten all at once when there are more.
const KEPT: usize = 1000;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    name: String,
    groups: Vec<String>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub struct Peer(Option<User>);

impl Peer {
    /// By its certificate, which TLS has checked.
    pub fn of(certificates: Option<&[CertificateDer<'_>]>) -> Peer {
        Peer(certificates.and_then(|all| all.first()).and_then(|first| user_of(first)))
    }
}

fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|one| one.as_str().ok());
    let groups = organizations.map(str::to_owned).chain(["system:authenticated".to_owned()]).collect();
    Some(User { name, groups })
}

/// What somebody wants to do with the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Deed {
    user: User,
    verb: &'static str,
    subresource: &'static str,
}

/// Says who may do what, by asking the apiserver.
pub struct Auth {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    deeds: Mutex<BTreeMap<Deed, (bool, Duration)>>,
    tokens: Mutex<BTreeMap<String, (User, Duration)>>,
}

impl Auth {
    /// Asks through a client.
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Auth {
        Auth { client, clock, deeds: Mutex::default(), tokens: Mutex::default() }
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// The refusal.
    pub async fn check<B>(
        &self,
        peer: &Peer,
        node: &str,
        request: &Request<B>,
    ) -> Result<(), Response<Body>> {
        let bearer = request
            .headers()
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let user = match (&peer.0, bearer) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) => self.user_of_token(token).await?,
            (None, None) => return Err(text(StatusCode::UNAUTHORIZED, "Unauthorized")),
        };
        let verb = verb(request.method());
        let mut last = "";
        for subresource in subresources(request.uri().path()) {
            last = subresource;
            if self.may(&Deed { user: user.clone(), verb, subresource }, node).await? {
                return Ok(());
            }
        }
        let words =
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{last}])\n", user.name);
        Err(text(StatusCode::FORBIDDEN, words))
    }

    async fn may(&self, deed: &Deed, node: &str) -> Result<bool, Response<Body>> {
        let now = self.clock.elapsed();
        let known = self.deeds.lock().unwrap_or_else(PoisonError::into_inner).get(deed).copied();
        if let Some((allowed, until)) = known
            && now < until
        {
            return Ok(allowed);
        }
        let review = authz::SubjectAccessReview {
            spec: authz::SubjectAccessReviewSpec {
                user: Some(deed.user.name.clone()),
                groups: Some(deed.user.groups.clone()),
                resource_attributes: Some(authz::ResourceAttributes {
                    verb: Some(deed.verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(deed.subresource.to_owned()),
                    name: Some(node.to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer: Result<authz::SubjectAccessReview, _> = call::post(&self.client, path, &review).await;
        let answer = answer.map_err(|error| {
            tracing::warn!(error = chain(&error), "cannot ask who may see the node");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error\n")
        })?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let until = now + if allowed { ALLOWED_FOR } else { REFUSED_FOR };
        let mut deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
        if deeds.len() >= KEPT {
            deeds.clear();
        }
        deeds.insert(deed.clone(), (allowed, until));
        Ok(allowed)
    }

    async fn user_of_token(&self, token: &str) -> Result<User, Response<Body>> {
        let now = self.clock.elapsed();
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned();
        if let Some((user, _)) = known.filter(|(_, until)| now < *until) {
            return Ok(user);
        }
        let review = authn::TokenReview {
            spec: authn::TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer: Result<authn::TokenReview, _> = call::post(&self.client, path, &review).await;
        let status =
            answer.ok().and_then(|answer| answer.status).filter(|status| status.authenticated == Some(true));
        let user = status.and_then(|status| status.user);
        let user = user.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
        let user = User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= KEPT {
            tokens.clear();
        }
        tokens.insert(token.to_owned(), (user.clone(), now + TOKEN_FOR));
        Ok(user)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources of a node that stand for a path; any of them will do.
fn subresources(path: &str) -> &'static [&'static str] {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "healthz" | "livez" | "readyz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}
