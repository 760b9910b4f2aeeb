//! Clients that call the API in the same thread.

use http::{Request, Response};
use minik_apiserver::{Api, Body, Peer};
use std::convert::Infallible;
use std::sync::Arc;

/// Whom the API sees: what a verified client certificate would say.
#[derive(Debug, Clone)]
pub struct Who(Peer);

impl Who {
    /// A user with groups.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(user: &str, groups: &[&str]) -> anyhow::Result<Who> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, user);
        for group in groups {
            parameters.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
        }
        // The key is thrown away: nobody signs with it, and nothing depends on its chance.
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate()?)?;
        Ok(Who(Peer(Some(Arc::new(certificate.der().clone())))))
    }
}

/// A client of `api` that acts as `who`.
pub fn client(api: &Api, who: &Who) -> kube::Client {
    let (api, peer) = (api.clone(), who.0.clone());
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<Response<Body>, Infallible>(api.answer(request, &peer, None).await) }
    });
    minik_client::over(service, "default")
}
