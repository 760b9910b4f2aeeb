//! What is to be done with a request.

use super::CsrObject;
use super::request::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Request};
use jiff::Timestamp;
use minik_component::chain;
use std::time::Duration;

/// What was decided on is kept for this long.
const DECIDED: Duration = Duration::from_secs(3600);
/// What nobody decided on is kept for this long.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// A kind of request that may be approved without anybody's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognized {
    /// A node asks for a client's certificate for itself.
    SelfNodeClient,
    /// Somebody asks for a client's certificate for a node.
    NodeClient,
    /// A node asks for a server's certificate for itself.
    SelfNodeServer,
}

impl Recognized {
    /// What whoever asks must be allowed to create.
    pub fn subresource(self) -> &'static str {
        match self {
            Recognized::SelfNodeClient => "selfnodeclient",
            Recognized::NodeClient => "nodeclient",
            Recognized::SelfNodeServer => "selfnodeserver",
        }
    }

    /// What is told when it is approved.
    pub fn message(self) -> &'static str {
        match self {
            Recognized::SelfNodeClient => {
                "Auto approving self kubelet client certificate after SubjectAccessReview."
            }
            Recognized::NodeClient => "Auto approving kubelet client certificate after SubjectAccessReview.",
            Recognized::SelfNodeServer => {
                "Auto approving self kubelet serving certificate after SubjectAccessReview."
            }
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    /// Nothing for now, or for ever.
    Wait(Option<Duration>),
    /// It is no longer needed.
    Delete(&'static str),
    /// To be approved if it may be made as one of these kinds.
    Approve(Request, Vec<Recognized>),
    /// Its signer does not take it.
    Fail(String),
    /// To be signed.
    Sign(Request),
}

/// What is to be done with a request now.
pub fn plan(csr: &CsrObject, now: Timestamp) -> Plan {
    let (approved, denied, failed) =
        (csr.condition("Approved"), csr.condition("Denied"), csr.condition("Failed"));
    let issued = csr.status.certificate.is_some();
    let ended = [(approved.filter(|_| issued), "issued"), (denied, "denied"), (failed, "failed")];
    if let Some((condition, why)) = ended.into_iter().find_map(|(one, why)| one.map(|one| (one, why))) {
        return keep(condition.last_update_time, DECIDED, why, now);
    }
    if approved.is_some() {
        return approved_plan(csr);
    }
    let waits = keep(csr.metadata.creation_timestamp, PENDING, "nobody decided on it", now);
    match (waits, Request::read(&csr.spec.request)) {
        (Plan::Wait(wait), Ok(request)) => {
            let kinds = recognized(csr, &request);
            if kinds.is_empty() { Plan::Wait(wait) } else { Plan::Approve(request, kinds) }
        }
        (waits, _) => waits,
    }
}

fn keep(since: Option<Timestamp>, limit: Duration, why: &'static str, now: Timestamp) -> Plan {
    let Some(since) = since else { return Plan::Wait(None) };
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match limit.checked_sub(age) {
        Some(left) if !left.is_zero() => Plan::Wait(Some(left)),
        _ => Plan::Delete(why),
    }
}

fn approved_plan(csr: &CsrObject) -> Plan {
    let signer = &*csr.spec.signer_name;
    if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer) {
        return Plan::Wait(None);
    }
    let checked = Request::read(&csr.spec.request)
        .and_then(|request| request.check(signer, &csr.spec.usages).map(|()| request));
    match checked {
        Ok(request) => Plan::Sign(request),
        Err(error) => Plan::Fail(chain(&error)),
    }
}

/// The kinds that it is.
fn recognized(csr: &CsrObject, request: &Request) -> Vec<Recognized> {
    let signer = &*csr.spec.signer_name;
    let own = *csr.spec.username == *request.name;
    if request.check(signer, &csr.spec.usages).is_err() {
        return Vec::new();
    }
    match (signer, own) {
        (KUBELET_CLIENT, true) => vec![Recognized::SelfNodeClient, Recognized::NodeClient],
        (KUBELET_CLIENT, false) => vec![Recognized::NodeClient],
        (KUBELET_SERVING, true) => vec![Recognized::SelfNodeServer],
        _ => Vec::new(),
    }
}
