//! Certificates: who may approve and sign for a signer, and what nobody is given
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization>).

use super::objects::{forbidden, text};
use super::{Admission, Attributes, Operation, Rights};
use crate::authn::MASTERS;
use crate::authz::{self, ResourceAttributes};
use crate::error::ApiError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::Arc;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "CertificateSigningRequest";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Whoever approves or denies may do so for the signer.
pub struct CertificateApproval(pub Arc<dyn Rights>);
/// Whoever hands out a certificate may do so for the signer.
pub struct CertificateSigning(pub Arc<dyn Rights>);
/// Nobody asks to be a master.
pub struct CertificateSubjectRestriction;

/// Whether the request is about this part of a signing request.
fn is(attributes: &Attributes<'_>, operation: Operation, subresource: &str) -> bool {
    attributes.resource.kind == KIND
        && attributes.resource.group == GROUP
        && attributes.operation == operation
        && attributes.subresource == subresource
}

/// Whether the user has a verb on a signer, by its name or its domain.
fn may(rights: &dyn Rights, attributes: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        rights.may(&authz::Attributes {
            user: attributes.user.clone(),
            verb: verb.into(),
            resource: Some(ResourceAttributes {
                fields: Vec::new(),
                group: GROUP.into(),
                version: "*".into(),
                resource: "signers".into(),
                name,
                ..ResourceAttributes::default()
            }),
            path: String::new(),
        })
    })
}

impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let Some(old) = attributes.old.filter(|_| is(attributes, Operation::Update, "approval")) else {
            return Ok(());
        };
        // The stored one's: nobody changes the signer on the way.
        let signer = text(old, "/spec/signerName");
        if may(&*self.0, attributes, "approve", signer) {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(forbidden(attributes, object, why))
    }
}

impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let Some(old) = attributes.old.filter(|_| is(attributes, Operation::Update, "status")) else {
            return Ok(());
        };
        let same = |field: &str| old["status"].get(field) == object["status"].get(field);
        let signer = text(old, "/spec/signerName");
        if (same("certificate") && same("conditions")) || may(&*self.0, attributes, "sign", signer) {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        Err(forbidden(attributes, object, why))
    }
}

impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        if !is(attributes, Operation::Create, "") || text(object, "/spec/signerName") != CLIENT {
            return Ok(());
        }
        // What cannot be read is refused by the kind's own rules.
        let subject = subject(object).unwrap_or_default();
        if !subject.organizations.iter().any(|one| one == MASTERS) {
            return Ok(());
        }
        let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
        Err(forbidden(attributes, object, why))
    }
}

/// For whom a certificate is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name.
    pub name: String,
    /// The organizations, which are groups.
    pub organizations: Vec<String>,
}

/// The subject of the request inside a signing request.
pub fn subject(object: &Value) -> Option<Subject> {
    let pem = STANDARD.decode(text(object, "/spec/request")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let name = &request.certification_request_info.subject;
    let texts = |all: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        all.into_iter().filter_map(|one| one.as_str().ok()).map(str::to_owned).collect()
    };
    let of = |name: &X509Name<'_>| Subject {
        // Go takes the last of several.
        name: texts(name.iter_common_name().collect()).pop().unwrap_or_default(),
        organizations: texts(name.iter_organization().collect()),
    };
    Some(of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_request_is_read() {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let object = serde_json::json!({"spec": {"request": STANDARD.encode(pem)}});
        let want = Subject { name: "system:node:a".into(), organizations: vec!["system:nodes".into()] };
        assert_eq!(subject(&object), Some(want));
        assert_eq!(subject(&serde_json::json!({"spec": {"request": "bm8="}})), None);
    }
}
