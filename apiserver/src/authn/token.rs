//! ServiceAccount tokens: signed JWTs that are bound to an account and, mostly, to a Pod
//! (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>).

use super::{AUTHENTICATED, CREDENTIAL_ID, UserInfo};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Something that a token is bound to, or its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// Until when, in Unix seconds.
    pub exp: i64,
    /// Since when it was issued.
    pub iat: i64,
    /// By whom.
    pub iss: String,
    /// Its own identifier.
    pub jti: String,
    /// The account and what the token is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
    /// From when it is good.
    pub nbf: i64,
    /// The account as a user name.
    pub sub: String,
}

/// Kubernetes' own part of the claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The account's namespace.
    pub namespace: String,
    /// The node of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    /// The Pod it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    /// The Secret it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
    /// The account.
    pub serviceaccount: BoundObject,
    /// When a long-lived Pod token should have been renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Why a token is refused, or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A key file cannot be read or holds no key. Final.
    #[error("cannot use the service account key {path}: {problem}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Malformed, expired, or signed by nobody we know. Final.
    #[error("the token is not valid")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// Not for us. Final.
    #[error("the token is for {0:?}")]
    Audience(Vec<String>),
    /// What it is bound to is gone or another. Final.
    #[error("the token is bound to {0}, which is gone")]
    Unbound(String),
}

/// Whether an object with this uid still is there: (resource, namespace, name, uid).
pub type Alive = dyn Fn(&str, &str, &BoundObject) -> bool + Send + Sync;

/// What is signed to find out which public key belongs to the one that signs.
const PROBE: &[u8] = b"minik";

/// Issues and believes tokens.
pub struct Tokens {
    issuer: String,
    audiences: Vec<String>,
    signing: (Algorithm, EncodingKey),
    verifying: Vec<(Algorithm, DecodingKey)>,
    /// The public keys among those, as others read them.
    public: Vec<serde_json::Value>,
    /// The name of the key that signs, where it is one of those.
    key_id: Option<String>,
    alive: Box<Alive>,
}

impl Tokens {
    /// Reads the keys. `alive` tells whether what a token is bound to still is there.
    ///
    /// # Errors
    /// [`TokenError::Key`].
    pub fn load(
        issuer: &str,
        audiences: &[String],
        signing: &Path,
        verifying: &[std::path::PathBuf],
        alive: Box<Alive>,
    ) -> Result<Tokens, TokenError> {
        let signing = read(signing, |pem| {
            let rsa = || EncodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
            EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)).or_else(|_| rsa())
        })?;
        let (mut keys, mut public, mut key_id) = (Vec::new(), Vec::new(), None);
        let signature = jsonwebtoken::crypto::sign(PROBE, &signing.1, signing.0)?;
        for path in verifying {
            let (key, described) = read(path, |pem| {
                let rsa = || DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
                let key =
                    DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)).or_else(|_| rsa())?;
                Ok((key, super::jwks::of_pem(pem)))
            })?;
            let fits = key.0 == signing.0
                && jsonwebtoken::crypto::verify(&signature, PROBE, &key.1, key.0).unwrap_or(false);
            if fits {
                key_id = described.as_ref().and_then(|key| Some(key["kid"].as_str()?.to_owned()));
            }
            public.extend(described);
            keys.push(key);
        }
        let verifying = keys;
        let audiences = if audiences.is_empty() { vec![issuer.to_owned()] } else { audiences.to_vec() };
        Ok(Tokens { issuer: issuer.to_owned(), audiences, signing, verifying, public, key_id, alive })
    }

    /// Who issues.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys by which others believe tokens.
    pub fn public(&self) -> &[serde_json::Value] {
        &self.public
    }

    /// For whom tokens are that name nobody.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Signs claims.
    ///
    /// # Errors
    /// When the key refuses, which a loaded key does not.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header { kid: self.key_id.clone(), ..Header::new(self.signing.0) };
        Ok(jsonwebtoken::encode(&header, claims, &self.signing.1)?)
    }

    /// The user of a token, and for which of the wanted audiences (our own when none is wanted) it is.
    ///
    /// # Errors
    /// Everything that makes a token unbelievable.
    pub fn user(
        &self,
        token: &str,
        wanted: &[String],
        now: jiff::Timestamp,
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let claims = self.verify(token, now)?;
        let wanted = if wanted.is_empty() { &self.audiences[..] } else { wanted };
        let shared: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience(claims.aud));
        }
        let own = &claims.kubernetes;
        let bound = [
            ("serviceaccounts", Some(&own.serviceaccount)),
            ("pods", own.pod.as_ref()),
            ("secrets", own.secret.as_ref()),
        ];
        for (resource, object) in bound {
            if let Some(object) = object.filter(|object| !(self.alive)(resource, &own.namespace, object)) {
                return Err(TokenError::Unbound(format!("{resource} {}/{}", own.namespace, object.name)));
            }
        }
        Ok((user(&claims), shared))
    }

    /// What a token says that we signed and that has not expired.
    pub(super) fn verify(&self, token: &str, now: jiff::Timestamp) -> Result<Claims, TokenError> {
        let mut last = jsonwebtoken::errors::ErrorKind::InvalidSignature.into();
        for (algorithm, key) in &self.verifying {
            let mut validation = Validation::new(*algorithm);
            validation.set_issuer(&[&self.issuer]);
            // Time is an argument here, and audiences are compared by the caller's wish.
            (validation.validate_aud, validation.validate_exp, validation.validate_nbf) =
                (false, false, false);
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(data) if data.claims.exp <= now.as_second() => {
                    last = jsonwebtoken::errors::ErrorKind::ExpiredSignature.into()
                }
                Ok(data) if data.claims.nbf > now.as_second() + 10 => {
                    last = jsonwebtoken::errors::ErrorKind::ImmatureSignature.into()
                }
                Ok(data) => return Ok(data.claims),
                Err(error) => last = error,
            }
        }
        Err(TokenError::Invalid(last))
    }
}

fn read<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> jsonwebtoken::errors::Result<T>,
) -> Result<T, TokenError> {
    let bad = |problem: String| TokenError::Key { path: path.display().to_string(), problem };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    parse(&pem).map_err(|error| bad(error.to_string()))
}

fn user(claims: &Claims) -> UserInfo {
    let own = &claims.kubernetes;
    let mut extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.jti)])]);
    for (what, object) in [("pod", &own.pod), ("node", &own.node)] {
        if let Some(object) = object {
            extra.insert(format!("authentication.kubernetes.io/{what}-name"), vec![object.name.clone()]);
            if !object.uid.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{what}-uid"), vec![object.uid.clone()]);
            }
        }
    }
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", own.namespace),
        AUTHENTICATED.to_owned(),
    ];
    let name = format!("system:serviceaccount:{}:{}", own.namespace, own.serviceaccount.name);
    UserInfo { name, uid: own.serviceaccount.uid.clone(), groups: groups.into(), extra }
}
