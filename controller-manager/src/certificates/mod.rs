//! Requests for certificates: those of nodes are approved, what is approved is signed, what is old goes
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>).
//!
//! Beyond upstream, which leaves them to operators, serving certificates of kubelets are approved: for the node that asks,
//! for its own name and the addresses that its Node tells, and only where RBAC lets that user create
//! `certificatesigningrequests/selfnodeserver` and lets this controller approve for that signer. Without those two
//! bindings all is as upstream.

mod plan;
mod request;
mod sign;
#[cfg(test)]
mod tests;

use crate::objects::{Annotated, Annotations, Condition, Object, status_update, whole_seconds};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::call::gone_is_fine;
use minik_client::{Change, ClientError, Done, Meta, ObjectKey, Projection, call};
use minik_component::{Chance, Clock, chain};
use plan::{Plan, Recognized, plan};
use request::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
pub use sign::{Authority, AuthorityError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct CsrObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// What is asked for, and who asks.
    pub spec: CsrSpec,
    /// What became of it.
    pub status: CsrStatus,
}

/// What is asked for, and who asks.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrSpec {
    /// The request itself: PEM in base64.
    pub request: Arc<str>,
    /// Who should sign.
    pub signer_name: Arc<str>,
    /// How long it should last.
    pub expiration_seconds: Option<i64>,
    /// What it should be good for.
    pub usages: Vec<Arc<str>>,
    /// Who asks.
    pub username: Arc<str>,
    /// Their identity.
    pub uid: Arc<str>,
    /// Their groups.
    pub groups: Vec<Arc<str>>,
    /// More about them.
    pub extra: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct CsrStatus {
    /// Approved, Denied, Failed.
    pub conditions: Vec<Condition>,
    /// The certificate: PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Annotated,
    #[serde(default)]
    spec: CsrSpec,
    #[serde(default)]
    status: CsrStatus,
}

impl From<Wire> for CsrObject {
    fn from(wire: Wire) -> CsrObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        CsrObject { metadata, annotations, spec: wire.spec, status: wire.status }
    }
}

impl CsrObject {
    /// A condition that is met.
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|one| &*one.kind == kind && &*one.status == "True")
    }
}

impl Projection for CsrObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for CsrObject {
    const API_VERSION: &'static str = "certificates.k8s.io/v1";
    const KIND: &'static str = "CertificateSigningRequest";
    const PLURAL: &'static str = "certificatesigningrequests";
}

struct Certificates {
    client: kube::Client,
    caches: Caches,
    authority: Option<Arc<Authority>>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.signing_requests.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            keys.add(change.object().metadata.key());
        }
    });
    let controller = Certificates {
        client: setup.identities.client("certificate-controller"),
        caches: setup.caches.clone(),
        authority: setup.config.authority.clone(),
        clock: setup.config.clock.clone(),
        chance: setup.config.chance.clone(),
    };
    setup.controller(controller, queue);
}

impl Controller for Certificates {
    type Key = ObjectKey;
    const NAME: &'static str = "certificate";
    const WORKERS: usize = 2;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(csr) = self.caches.signing_requests.get(key) else { return Ok(Done::Ok) };
        match plan(&csr, self.clock.now()) {
            Plan::Wait(None) => Ok(Done::Ok),
            Plan::Wait(Some(wait)) => Ok(Done::After(wait)),
            Plan::Delete(why) => {
                tracing::info!(request = %key, why, "cleaning up a request for a certificate");
                gone_is_fine(call::delete(&self.client, &csr.path(), &json!({})).await)?;
                Ok(Done::Ok)
            }
            Plan::Approve(request, kinds) => self.approve(&csr, &request, &kinds).await,
            Plan::Fail(message) => self.fail(&csr, &message).await,
            Plan::Sign(request) => self.sign(&csr, request).await,
        }
    }
}

impl Certificates {
    /// Approves for the first kind of request that whoever asks may make.
    async fn approve(
        &self,
        csr: &CsrObject,
        request: &Request,
        kinds: &[Recognized],
    ) -> Result<Done, ClientError> {
        for kind in kinds {
            if !self.may(csr, kind.subresource()).await? {
                continue;
            }
            if *kind == Recognized::SelfNodeServer {
                let node = csr.spec.username.trim_start_matches("system:node:");
                let known = self.names_of(node);
                if let Some(other) = request.hosts.iter().find(|host| !known.contains(host.as_str())) {
                    // It may be about to tell that this is its own.
                    tracing::info!(request = %csr.metadata.name, %other, "a node asks for what is not its own");
                    return Ok(Done::Failed);
                }
            }
            self.decide(csr, "approval", "Approved", "AutoApproved", kind.message()).await?;
            return Ok(Done::Ok);
        }
        // It may become allowed.
        tracing::debug!(request = %csr.metadata.name, "whoever asks may not make such requests");
        Ok(Done::Failed)
    }

    async fn may(&self, csr: &CsrObject, subresource: &str) -> Result<bool, ClientError> {
        #[derive(Deserialize)]
        struct Review {
            status: ReviewStatus,
        }
        #[derive(Deserialize)]
        struct ReviewStatus {
            allowed: bool,
        }
        let spec = &csr.spec;
        let attributes = json!({"group": "certificates.k8s.io", "resource": CsrObject::PLURAL, "verb": "create", "subresource": subresource});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra, "resourceAttributes": attributes}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        Ok(call::post::<Review>(&self.client, path, &review).await?.status.allowed)
    }

    /// The names and addresses of a node.
    fn names_of(&self, node: &str) -> BTreeSet<Arc<str>> {
        let known = self.caches.node(node);
        let addresses = known.iter().flat_map(|node| &node.status.addresses).map(|one| one.address.clone());
        addresses.chain(known.iter().map(|node| node.metadata.name.clone())).collect()
    }

    async fn fail(&self, csr: &CsrObject, message: &str) -> Result<Done, ClientError> {
        self.decide(csr, "status", "Failed", "SignerValidationFailure", message).await?;
        Ok(Done::Ok)
    }

    async fn decide(
        &self,
        csr: &CsrObject,
        subresource: &str,
        kind: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), ClientError> {
        tracing::info!(request = %csr.metadata.name, kind, message, "decided on a request for a certificate");
        let now = Some(whole_seconds(self.clock.now()));
        let mut status = csr.status.clone();
        status.conditions.push(Condition {
            kind: kind.into(),
            status: "True".into(),
            reason: reason.into(),
            message: message.into(),
            last_update_time: now,
            last_transition_time: now,
            last_heartbeat_time: None,
        });
        self.write(csr, subresource, &status).await
    }

    async fn sign(&self, csr: &CsrObject, request: Request) -> Result<Done, ClientError> {
        let Some(authority) = &self.authority else { return Ok(Done::Ok) };
        let serial = [self.chance.bits(), self.chance.bits()];
        match authority.sign(request, &csr.spec, serial, self.clock.now()) {
            Ok(certificate) => {
                tracing::info!(request = %csr.metadata.name, signer = %csr.spec.signer_name, "signed a certificate");
                let status = CsrStatus { certificate: Some(certificate.into()), ..csr.status.clone() };
                self.write(csr, "status", &status).await?;
                Ok(Done::Ok)
            }
            Err(error) => self.fail(csr, &chain(&error)).await,
        }
    }

    async fn write(&self, csr: &CsrObject, subresource: &str, status: &CsrStatus) -> Result<(), ClientError> {
        let body = status_update(csr, &csr.annotations, json!(status));
        gone_is_fine(call::put::<Value>(&self.client, &format!("{}/{subresource}", csr.path()), &body).await)
    }
}
