//! A bootstrap token, as its Secret holds it.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use minik_client::{Meta, Projection};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The type of its Secret.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";

/// A Secret that is a token.
#[derive(Debug, Deserialize)]
pub struct TokenObject {
    /// Its metadata.
    pub metadata: Meta,
    #[serde(default)]
    data: BTreeMap<Arc<str>, Arc<str>>,
}

impl Projection for TokenObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl TokenObject {
    fn text(&self, key: &str) -> Option<String> {
        String::from_utf8(STANDARD.decode(&**self.data.get(key)?).ok()?).ok()
    }

    /// How long it lasts; `None` for ever. One whose end cannot be read has ended.
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        let text = self.text("expiration").filter(|text| !text.is_empty())?;
        let ends = text.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
        Some(Duration::try_from(ends.duration_since(now)).unwrap_or_default())
    }

    /// Its id and the detached signature (RFC 7515, appendix F) of a text; `None` when it may not sign.
    pub fn sign(&self, content: &str) -> Option<(String, String)> {
        let (id, secret) = (self.text("token-id")?, self.text("token-secret")?);
        let plain = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        let named = *self.metadata.name == format!("bootstrap-token-{id}");
        let may = self.text("usage-bootstrap-signing").is_some_and(|usage| usage == "true");
        if !named || !may || !plain(&id, 6) || !plain(&secret, 16) {
            return None;
        }
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
        let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, input.as_bytes()));
        Some((id, format!("{header}..{signature}")))
    }
}
