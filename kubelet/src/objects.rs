//! ConfigMaps, Secrets and tokens that Pods refer to: asked for by name, as the node authorizer demands.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1 as auth;
use k8s_openapi::api::core::v1 as api;
use minik_client::{ClientError, call};
use minik_component::Clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What the server said, or why it said nothing.
pub fn words(error: &ClientError) -> String {
    match error {
        ClientError::Call(kube::Error::Api(status)) => status.message.clone(),
        other => minik_component::chain(other),
    }
}

/// Tokens kept; a Pod has one or two.
const TOKENS: usize = 1000;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// The namespace.
    pub namespace: String,
    /// The ServiceAccount.
    pub account: String,
    /// The Pod's name.
    pub pod: String,
    /// The Pod's identity.
    pub uid: String,
    /// For whom; empty for the apiserver.
    pub audience: String,
    /// How long it is to be valid.
    pub seconds: i64,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    from: Timestamp,
    until: Timestamp,
}

impl Token {
    /// Renewed after four fifths of its time, or after a day; and when the clock was set back: then nobody takes it yet.
    fn is_fresh(&self, now: Timestamp) -> bool {
        let whole = self.until.as_second() - self.from.as_second();
        let passed = now.as_second() - self.from.as_second();
        (0..(whole * 4 / 5).min(24 * 3600)).contains(&passed)
    }
}

/// Reads what Pods refer to.
pub struct Objects {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    tokens: Mutex<BTreeMap<TokenKey, Token>>,
}

impl Objects {
    /// Reads through a client.
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Objects {
        Objects { client, clock, tokens: Mutex::default() }
    }

    /// A ConfigMap, if it is there.
    ///
    /// # Errors
    /// When the server refuses for another reason or does not answer. Retryable.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<api::ConfigMap>, ClientError> {
        self.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await
    }

    /// A Secret, if it is there.
    ///
    /// # Errors
    /// As [`Objects::config_map`].
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<api::Secret>, ClientError> {
        self.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ClientError> {
        match call::get(&self.client, path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if call::refusal(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A token of a Pod's ServiceAccount, the same until it is to be renewed.
    ///
    /// # Errors
    /// When the server refuses or does not answer; a token that is still valid is given instead. Retryable.
    pub async fn token(&self, key: &TokenKey) -> Result<String, ClientError> {
        let now = self.clock.now();
        let known = self.tokens().get(key).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh(now)) {
            return Ok(known.text.clone());
        }
        match self.request(key, now).await {
            Ok(token) => {
                let text = token.text.clone();
                let mut tokens = self.tokens();
                if tokens.len() >= TOKENS {
                    tokens.retain(|_, token| token.until > now);
                }
                tokens.insert(key.clone(), token);
                Ok(text)
            }
            Err(error) => known.filter(|known| known.until > now).map(|known| known.text).ok_or(error),
        }
    }

    /// Whether one of a Pod's tokens is to be renewed.
    pub fn is_due(&self, uid: &str) -> bool {
        let now = self.clock.now();
        self.tokens().iter().any(|(key, token)| key.uid == uid && !token.is_fresh(now))
    }

    /// Forgets a Pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.tokens().retain(|key, _| key.uid != uid);
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, BTreeMap<TokenKey, Token>> {
        // Each change is complete before anything can panic.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(&self, key: &TokenKey, now: Timestamp) -> Result<Token, ClientError> {
        let TokenKey { namespace, account, pod, uid, audience, seconds } = key;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = auth::TokenRequest {
            spec: Some(auth::TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.clone()]),
                expiration_seconds: Some(*seconds),
                bound_object_ref: Some(auth::BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.clone()),
                    uid: Some(uid.clone()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer: auth::TokenRequest = call::post(&self.client, &path, &request).await?;
        let status = answer.status.unwrap_or_default();
        let until = status.expiration_timestamp.map_or(now, |time| time.0);
        Ok(Token { text: status.token.unwrap_or_default(), from: now, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_in_time_whatever_the_clock_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = Token { text: String::new(), from: at(100_000), until: at(103_600) };
        assert!(token.is_fresh(at(100_000)) && token.is_fresh(at(102_879)));
        assert!(!token.is_fresh(at(102_880)), "four fifths have passed");
        assert!(!token.is_fresh(at(103_700)), "an hour ahead");
        assert!(!token.is_fresh(at(96_400)), "an hour back");
    }
}
