//! Bootstrap tokens: Secrets by which a machine may ask for a node's certificate
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).

use crate::cluster::Cluster;
use crate::error::{Error, Result, file};
use jiff::{SignedDuration, Timestamp};
use minik_client::call;
use minik_component::{Chance, SystemChance, tls};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Token({}.…)", self.id)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Token, String> {
        let good = |part: &str, length| part.len() == length && part.bytes().all(|b| LETTERS.contains(&b));
        match text.split_once('.') {
            Some((id, secret)) if good(id, ID_LENGTH) && good(secret, SECRET_LENGTH) => {
                Ok(Token { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err(format!(
                "a token has {ID_LENGTH} and {SECRET_LENGTH} lower-case letters or digits with a dot between"
            )),
        }
    }
}

impl Token {
    fn random(chance: &dyn Chance) -> Token {
        let word = |length| (0..length).map(|_| char::from(LETTERS[chance.below(36) as usize])).collect();
        Token { id: word(ID_LENGTH), secret: word(SECRET_LENGTH) }
    }

    fn secret(&self, until: Option<Timestamp>) -> Value {
        let mut data = json!({
            "token-id": self.id,
            "token-secret": self.secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "description": "made by minikctl node token create",
        });
        if let Some(until) = until {
            data["expiration"] = format!("{until:.0}").into();
        }
        let name = format!("bootstrap-token-{}", self.id);
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {"name": name}, "stringData": data})
    }
}

/// What is known of a token, but for its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// Until when it is good, if it ends.
    pub expiration: Option<String>,
    /// What it is for.
    pub description: String,
}

#[derive(Debug, Deserialize)]
struct SecretList {
    items: Vec<Secret>,
}

#[derive(Debug, Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Secret {
    fn text(&self, key: &str) -> Option<String> {
        use base64::Engine;
        let bytes = base64::prelude::BASE64_STANDARD.decode(self.data.get(key)?).ok()?;
        String::from_utf8(bytes).ok()
    }
}

impl Cluster {
    /// Makes a token that is good for `ttl` (zero: for ever), and gives the command that joins a machine with it.
    ///
    /// # Errors
    /// When the API is not reachable from other machines, or refuses.
    pub async fn create_token(&self, ttl: SignedDuration) -> Result<(Token, String)> {
        let name = &self.layout().name;
        let address = self.config().api_address.ok_or_else(|| Error::Unreachable { name: name.clone() })?;
        let client = minik_client::connect(&self.admin()?, "default")?;
        let token = Token::random(&SystemChance);
        let until = (!ttl.is_zero()).then(|| Timestamp::now().saturating_add(ttl)).transpose();
        let until = until.map_err(|error| Error::Ttl { problem: error.to_string() })?;
        let _: Value = call::post(&client, SECRETS, &token.secret(until)).await?;
        let ca = self.layout().pki("ca.crt");
        let certs = tls::read_certs(&ca).map_err(std::io::Error::other).map_err(file("read", &ca))?;
        let hash = certs.first().and_then(|cert| public_key_hash(cert)).unwrap_or_default();
        let server = std::net::SocketAddr::new(address, self.config().ports.api);
        let command =
            format!("minik node join {server} --token {token} --discovery-token-ca-cert-hash {hash}");
        Ok((token, command))
    }

    /// The tokens.
    ///
    /// # Errors
    /// When the API refuses or cannot be reached.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>> {
        let client = minik_client::connect(&self.admin()?, "default")?;
        let list: SecretList = call::get(&client, &format!("{SECRETS}?fieldSelector=type%3D{TYPE}")).await?;
        let info = |secret: &Secret| {
            let (expiration, description) = (secret.text("expiration"), secret.text("description"));
            Some(TokenInfo {
                id: secret.text("token-id")?,
                expiration,
                description: description.unwrap_or_default(),
            })
        };
        Ok(list.items.iter().filter_map(info).collect())
    }

    /// Deletes a token, by its id or the whole of it.
    ///
    /// # Errors
    /// When there is none, or the API refuses.
    pub async fn delete_token(&self, token: &str) -> Result<()> {
        let client = minik_client::connect(&self.admin()?, "default")?;
        let id = token.split_once('.').map_or(token, |(id, _)| id);
        call::delete(&client, &format!("{SECRETS}/bootstrap-token-{id}"), &json!({})).await?;
        Ok(())
    }
}

/// `sha256:` and the digest of a certificate's public key, as upstream pins CAs; `None` for what is no certificate.
pub(crate) fn public_key_hash(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let digest: [u8; 32] = Sha256::digest(certificate.tbs_certificate.subject_pki.raw).into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minik_component::SeededChance;

    #[test]
    fn tokens_have_their_form() {
        let token = Token::random(&SeededChance::new(1));
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
        for bad in ["", "abc", "abcdef.0123", "ABCDEF.0123456789abcdef", "abcdef-0123456789abcdef"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        let secret = token.secret(Some("2026-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(secret["stringData"]["expiration"], "2026-01-02T03:04:05Z");
        assert_eq!(secret["metadata"]["name"], format!("bootstrap-token-{}", token.id));
    }
}
