//! Certificates from the cluster: a key made here, a CertificateSigningRequest, and the wait until it is signed
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>).

use crate::{ClientError, Informer, Meta, Projection, Source, call};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minik_component::{Chance, Shutdown};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What a certificate shall be.
#[derive(Debug, Clone)]
pub struct CertificateWish {
    /// Who signs it.
    pub signer: &'static str,
    /// Whose it is: the common name.
    pub name: String,
    /// Their group: the organization.
    pub group: &'static str,
    /// Names and addresses of a server; none for a client.
    pub hosts: Vec<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No key or request can be made. Final.
    #[error("cannot make a request for a certificate")]
    Make(#[from] rcgen::Error),
    /// The server refused the request, or could not be reached.
    #[error(transparent)]
    Call(#[from] ClientError),
    /// It was decided against. Final.
    #[error("the request {name} for a certificate was {decision}: {message}")]
    Refused {
        /// The request.
        name: String,
        /// `denied` or `failed`.
        decision: String,
        /// Why.
        message: String,
    },
    /// What was signed cannot be read. Final.
    #[error("the certificate that was signed for the request {0} cannot be read")]
    Garbled(String),
    /// Nobody has signed it. Retryable.
    #[error("the request {name} for a certificate was not approved and signed within {seconds} s")]
    Late {
        /// The request.
        name: String,
        /// The limit.
        seconds: u64,
    },
}

/// The request as the API has it.
#[derive(Debug, Clone, Deserialize)]
struct Request {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    certificate: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

impl Projection for Request {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Request {
    /// What was decided; `None` while it waits.
    fn answer(&self) -> Option<Result<String, CertificateError>> {
        let name = || self.metadata.name.to_string();
        if let Some(condition) = self.status.conditions.iter().find(|one| one.kind != "Approved") {
            let (decision, message) = (condition.kind.to_lowercase(), condition.message.clone());
            return Some(Err(CertificateError::Refused { name: name(), decision, message }));
        }
        let bytes = BASE64_STANDARD.decode(self.status.certificate.as_ref()?).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        Some(text.ok_or_else(|| CertificateError::Garbled(name())))
    }
}

impl CertificateWish {
    fn request(&self, key: &KeyPair) -> Result<Value, rcgen::Error> {
        let mut params = CertificateParams::new(self.hosts.clone())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.group);
        params.distinguished_name.push(DnType::CommonName, &*self.name);
        let pem = params.serialize_request(key)?.pem()?;
        let usage = if self.hosts.is_empty() { "client auth" } else { "server auth" };
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {
                "request": BASE64_STANDARD.encode(pem),
                "signerName": self.signer,
                "usages": ["digital signature", usage],
            },
        }))
    }

    /// Asks for it and waits; gives the chain and its key as one PEM text.
    ///
    /// # Errors
    /// When it is refused, or not signed within the limit.
    pub async fn obtain(
        &self,
        client: &kube::Client,
        chance: Arc<dyn Chance>,
        limit: Duration,
    ) -> Result<String, CertificateError> {
        let key = KeyPair::generate()?;
        let made: Request = call::post(client, REQUESTS, &self.request(&key)?).await?;
        let name = made.metadata.name.to_string();
        // One answer is waited for; further ones say the same.
        let (tell, mut told) = mpsc::channel(1);
        let source = Source::fields(REQUESTS, format!("metadata.name={name}"));
        let informer = Informer::<Request>::builder(source).on_change(move |change| {
            if let Some(answer) = change.object().answer() {
                let _ = tell.try_send(answer);
            }
        });
        let shutdown = Shutdown::new();
        // Cancel-safe: an answer that is not taken is of no use any more.
        let answer = tokio::select! {
            () = informer.run(client.clone(), chance, shutdown.clone()) => None,
            answer = told.recv() => answer,
            () = tokio::time::sleep(limit) => None,
        };
        let late = || CertificateError::Late { name, seconds: limit.as_secs() };
        Ok(answer.ok_or_else(late)?? + &key.serialize_pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: Value) -> Option<Result<String, String>> {
        let request = json!({"metadata": {"name": "csr-1"}, "status": status});
        let request: Request = serde_json::from_value(request).unwrap();
        request.answer().map(|answer| answer.map_err(|error| error.to_string()))
    }

    #[test]
    fn decisions_are_read() {
        assert_eq!(answer(json!({})), None);
        assert_eq!(answer(json!({"conditions": [{"type": "Approved"}]})), None);
        let signed = json!({"conditions": [{"type": "Approved"}], "certificate": "UEVN"});
        assert_eq!(answer(signed), Some(Ok("PEM".into())));
        let denied = answer(json!({"conditions": [{"type": "Denied", "message": "no"}]}));
        assert_eq!(denied, Some(Err("the request csr-1 for a certificate was denied: no".into())));
    }

    #[test]
    fn a_request_names_who_it_is_for() {
        let wish = CertificateWish {
            signer: "kubernetes.io/kubelet-serving",
            name: "system:node:n".into(),
            group: "system:nodes",
            hosts: vec!["n".into(), "192.0.2.1".into()],
        };
        let made = wish.request(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(made["spec"]["usages"], json!(["digital signature", "server auth"]));
        let pem = BASE64_STANDARD.decode(made["spec"]["request"].as_str().unwrap()).unwrap();
        assert!(pem.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----"));
    }
}
