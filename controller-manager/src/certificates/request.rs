//! What a request for a certificate says, and whether its signer takes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Signs what kubelets show to the apiserver.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs what others show to the apiserver.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs what kubelets serve with.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything, for nobody in particular.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A request whose signature was verified.
#[derive(Debug)]
pub struct Request {
    /// The common name.
    pub name: String,
    /// The organizations.
    pub groups: Vec<String>,
    /// The DNS names and addresses.
    pub hosts: Vec<String>,
    /// Whether it asks for other names: mail addresses or URIs.
    pub others: bool,
    /// The whole.
    pub params: CertificateSigningRequestParams,
}

/// Why a request cannot be used. Final.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is not text.
    #[error("the request is no PEM")]
    Text,
    /// It cannot be read, or its signature is wrong.
    #[error("the request cannot be used")]
    Unusable(#[source] rcgen::Error),
    /// The signer does not take it.
    #[error("{0}")]
    Refused(String),
}

impl Request {
    /// Reads PEM in base64.
    pub fn read(encoded: &str) -> Result<Request, RequestError> {
        let pem = STANDARD.decode(encoded).map_err(|_| RequestError::Text)?;
        let pem = String::from_utf8(pem).map_err(|_| RequestError::Text)?;
        let params = CertificateSigningRequestParams::from_pem(&pem).map_err(RequestError::Unusable)?;
        let mut request =
            Request { name: String::new(), groups: Vec::new(), hosts: Vec::new(), others: false, params };
        for (kind, value) in request.params.params.distinguished_name.iter() {
            match kind {
                DnType::CommonName => request.name = text(value),
                DnType::OrganizationName => request.groups.push(text(value)),
                _ => {}
            }
        }
        for name in &request.params.params.subject_alt_names {
            match name {
                SanType::DnsName(name) => request.hosts.push(name.to_string()),
                SanType::IpAddress(address) => request.hosts.push(address.to_string()),
                _ => request.others = true,
            }
        }
        Ok(request)
    }

    /// Whether a signer takes it.
    pub fn check(&self, signer: &str, usages: &[Arc<str>]) -> Result<(), RequestError> {
        let usages: BTreeSet<&str> = usages.iter().map(|usage| &**usage).collect();
        let refused = |why: &str| Err(RequestError::Refused(why.to_owned()));
        let optional = ["digital signature", "key encipherment"];
        match signer {
            LEGACY => return Ok(()),
            CLIENT => {
                if let Some(other) =
                    usages.iter().find(|one| **one != "client auth" && !optional.contains(one))
                {
                    return refused(&format!("a client's certificate cannot be used for {other:?}"));
                }
                if !usages.contains("client auth") {
                    return refused("a client's certificate must be good for \"client auth\"");
                }
                return Ok(());
            }
            _ => {}
        }
        let serves = signer == KUBELET_SERVING;
        let purpose = if serves { "server auth" } else { "client auth" };
        if self.groups != ["system:nodes"] {
            return refused("the organization is not system:nodes");
        }
        if serves && self.hosts.is_empty() {
            return refused("a DNS name or an IP address is required");
        }
        if self.others || (!serves && !self.hosts.is_empty()) {
            return refused("it asks for alternative names that are not allowed");
        }
        if !self.name.starts_with("system:node:") {
            return refused("the common name does not begin with system:node:");
        }
        let least = BTreeSet::from([purpose, "digital signature"]);
        let most = BTreeSet::from([purpose, "digital signature", "key encipherment"]);
        if usages != least && usages != most {
            return refused(&format!("the usages are not {most:?}"));
        }
        Ok(())
    }
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        DnValue::TeletexString(text) => text.as_str().to_owned(),
        // Names in wide characters are nobody's here.
        _ => String::new(),
    }
}
