//! Credentials for registries, from a Pod's Secrets.

use base64::Engine;
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Credentials by the registry or repository that they are for.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Vec<(String, v1::AuthConfig)>);

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// Adds what a Secret holds; one of another type holds nothing.
    pub fn add(&mut self, secret: &api::Secret) {
        let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| &bytes.0[..]);
        let entries = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
                .and_then(|bytes| serde_json::from_slice::<Config>(bytes).ok())
                .map(|config| config.auths),
            Some("kubernetes.io/dockercfg") => {
                data(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok())
            }
            _ => None,
        };
        for (place, entry) in entries.unwrap_or_default() {
            let place = place.trim_start_matches("https://").trim_start_matches("http://");
            let place = place.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let place = if place == "index.docker.io" { "docker.io" } else { place };
            self.0.push((place.to_owned(), entry.auth()));
        }
        // The more exact one first.
        self.0.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
    }

    /// Those that fit a repository, the most exact first.
    pub fn of(&self, registry: &str, path: &str) -> Vec<v1::AuthConfig> {
        let whole = format!("{registry}/{path}");
        let fits = |place: &str| {
            let (host, below) = place.split_once('/').unwrap_or((place, ""));
            let prefix = format!("{registry}/{below}");
            host_fits(host, registry)
                && (below.is_empty() || whole == prefix || whole.starts_with(&format!("{prefix}/")))
        };
        self.0.iter().filter(|(place, _)| fits(place)).map(|(_, auth)| auth.clone()).collect()
    }
}

/// Whether a host fits a pattern with `*` for one label.
fn host_fits(pattern: &str, host: &str) -> bool {
    let (wanted, got): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    wanted.len() == got.len() && wanted.iter().zip(&got).all(|(wanted, got)| *wanted == "*" || wanted == got)
}

impl Entry {
    fn auth(self) -> v1::AuthConfig {
        let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok();
        let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (username, password) = match pair {
            Some((username, password)) if self.username.is_empty() => {
                (username.to_owned(), password.to_owned())
            }
            _ => (self.username, self.password),
        };
        v1::AuthConfig {
            username,
            password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_are_found_by_place() {
        let config = json!({"auths": {
            "https://r.example": {"auth": "dTpw"},
            "r.example/team": {"username": "t", "password": "q"},
            "*.wild.example": {"username": "w", "password": "x"}}})
        .to_string();
        let data = base64::engine::general_purpose::STANDARD.encode(config);
        let secret = json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}});
        let mut credentials = Credentials::default();
        credentials.add(&serde_json::from_str(&secret.to_string()).unwrap());
        let users = |registry: &str, path: &str| -> Vec<String> {
            credentials.of(registry, path).into_iter().map(|auth| auth.username).collect()
        };
        assert_eq!(users("r.example", "team/app"), ["t", "u"]);
        assert_eq!(users("r.example", "teams/app"), ["u"]);
        assert_eq!(users("a.wild.example", "x"), ["w"]);
        assert!(users("other.example", "x").is_empty());
    }
}
