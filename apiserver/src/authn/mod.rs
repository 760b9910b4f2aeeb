//! Who asks: client certificates and ServiceAccount tokens
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/>).
//!
//! Nobody is anonymous but for health and version, which is decided in [`crate::authz`]; a credential that is shown and
//! wrong is refused even there.

mod bootstrap_token;
pub mod impersonate;
pub mod jwks;
mod token;
pub mod token_request;

pub use bootstrap_token::BootstrapTokens;
pub use token::{BoundObject, Claims, Private, TokenError, Tokens};

use crate::error::{ApiError, Result};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user who is not known.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do anything.
pub const MASTERS: &str = "system:masters";
/// What the certificate or token was, by an identifier that is no secret.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user as authorizers and admission see one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// The identity in time, empty for users of certificates.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of these groups, and of the group of everybody who is known.
    pub fn known(name: &str, groups: &[&str]) -> UserInfo {
        let groups = groups.iter().copied().chain([AUTHENTICATED]).map(str::to_owned).collect();
        UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
    }

    /// The user who is not known.
    pub fn anonymous() -> UserInfo {
        UserInfo { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..UserInfo::default() }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// Whether the user is not known.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// The node's name, for a kubelet.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.in_group("system:nodes"))
    }
}

/// Who is at the other end of a connection by the client's certificate, if it showed one; `None` within when that names nobody.
#[derive(Debug, Clone, Default)]
pub struct Peer(Option<Arc<Option<UserInfo>>>);

impl Peer {
    /// By a certificate that TLS verified. It is read once, and not again for each request of the connection.
    pub fn of(certificate: Option<&CertificateDer<'_>>) -> Peer {
        Peer(certificate.map(|certificate| Arc::new(by_certificate(certificate))))
    }
}

/// Finds out who asks.
pub struct Authenticator {
    tokens: Option<Arc<Tokens>>,
    bootstrap: Option<BootstrapTokens>,
}

impl Authenticator {
    /// One that believes these tokens, if any, and certificates that TLS verified.
    pub fn new(tokens: Option<Arc<Tokens>>, bootstrap: Option<BootstrapTokens>) -> Authenticator {
        Authenticator { tokens, bootstrap }
    }

    /// The user of a request: by certificate, else by token, else nobody.
    ///
    /// # Errors
    /// 401 for a credential that is shown and wrong.
    pub fn user(&self, peer: &Peer, headers: &HeaderMap, now: jiff::Timestamp) -> Result<UserInfo> {
        if let Some(user) = &peer.0 {
            return Option::clone(user).ok_or(ApiError::Unauthorized);
        }
        if !headers.contains_key(AUTHORIZATION) {
            return Ok(UserInfo::anonymous());
        }
        let token = bearer(headers).ok_or(ApiError::Unauthorized)?;
        let user = self.by_token(token, &[], now).map(|(user, _)| user);
        user.map_err(|error| {
            tracing::debug!(error, "refused a token");
            ApiError::Unauthorized
        })
    }

    /// Whether the token of a request was signed by us and has not expired.
    pub fn is_signed(&self, headers: &HeaderMap, now: jiff::Timestamp) -> bool {
        let tokens = self.tokens.as_ref().zip(bearer(headers));
        tokens.is_some_and(|(tokens, token)| tokens.verify(token, now).is_ok())
    }

    /// The user of a token, and for which of the wanted audiences it is.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn by_token(
        &self,
        token: &str,
        wanted: &[String],
        now: jiff::Timestamp,
    ) -> std::result::Result<(UserInfo, Vec<String>), String> {
        if let Some(user) = self.bootstrap.as_ref().and_then(|all| all.user(token, now)) {
            return Ok((user, wanted.to_vec()));
        }
        let tokens = self.tokens.as_ref().ok_or("this server believes no such token")?;
        tokens.user(token, wanted, now).map_err(|error| error.to_string())
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// The subject's common name is the user, its organizations are the groups.
fn by_certificate(der: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let organizations = certificate.subject().iter_organization().filter_map(|one| one.as_str().ok());
    let groups = organizations.chain([AUTHENTICATED]).map(str::to_owned).collect();
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    Some(UserInfo {
        name,
        groups,
        extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![id])]),
        uid: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_is_known_by_its_group_too() {
        assert_eq!(UserInfo::known("system:node:a", &["system:nodes"]).node_name(), Some("a"));
        assert_eq!(UserInfo::known("system:node:a", &[]).node_name(), None);
    }
}
