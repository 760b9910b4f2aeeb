//! Bootstrap tokens: those that have expired go, and the others sign the ConfigMap that tells new nodes where the cluster
//! is (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).

mod token;

use crate::objects::{Annotations, ConfigMapObject};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use jiff::Timestamp;
use minik_client::call::gone_is_fine;
use minik_client::{ClientError, Done, ObjectKey, Source, call};
use minik_component::Clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
pub use token::TokenObject;

/// The namespace of the ConfigMap.
pub const NAMESPACE: &str = "kube-public";
/// The name of the ConfigMap.
pub const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// The Secrets that are tokens.
pub fn tokens_source() -> Source {
    Source::fields("/api/v1/namespaces/kube-system/secrets", format!("type={}", token::TYPE))
}

struct Cleaner {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
}

struct Signer {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
}

/// Adds the controllers.
pub fn set_up(setup: &mut Setup) {
    let (tokens, info) = (queue::<ObjectKey>(&setup.config.chance), queue::<ObjectKey>(&setup.config.chance));
    let (keys, signed) = (tokens.clone(), info.clone());
    setup.watches.bootstrap_tokens.add_handler(move |change| {
        keys.add(change.object().metadata.key());
        signed.add(ObjectKey::new(NAMESPACE, NAME));
    });
    let keys = info.clone();
    setup.watches.config_maps.add_handler(move |change| {
        let key = change.object().metadata.key();
        if key == ObjectKey::new(NAMESPACE, NAME) {
            keys.add(key);
        }
    });
    let (caches, clock) = (setup.caches.clone(), setup.config.clock.clone());
    let client = setup.identities.client("token-cleaner");
    setup.controller(Cleaner { client, caches: caches.clone(), clock: clock.clone() }, tokens);
    let client = setup.identities.client("bootstrap-signer");
    setup.controller(Signer { client, caches, clock }, info);
}

impl Controller for Cleaner {
    type Key = ObjectKey;
    const NAME: &'static str = "token_cleaner";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(token) = self.caches.bootstrap_tokens.get(key) else { return Ok(Done::Ok) };
        match token.left(self.clock.now()) {
            None => Ok(Done::Ok),
            Some(left) if !left.is_zero() => Ok(Done::After(left)),
            Some(_) => {
                tracing::info!(token = %key, "deleting a bootstrap token that has expired");
                let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": token.metadata.uid}});
                let path = format!("/api/v1/namespaces/{}/secrets/{}", key.namespace, key.name);
                gone_is_fine(call::delete(&self.client, &path, &options).await)?;
                Ok(Done::Ok)
            }
        }
    }
}

/// What the ConfigMap should hold; `None` when it does, or has nothing to be signed.
fn signed(
    data: &BTreeMap<String, String>,
    tokens: &[Arc<TokenObject>],
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for token in tokens.iter().filter(|token| token.left(now) != Some(Duration::ZERO)) {
        if let Some((id, signature)) = token.sign(content) {
            wanted.insert(format!("{SIGNATURE}{id}"), signature);
        }
    }
    (wanted != *data).then_some(wanted)
}

impl Controller for Signer {
    type Key = ObjectKey;
    const NAME: &'static str = "bootstrap_signer_queue";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(map) = self.caches.config_maps.get(key) else { return Ok(Done::Ok) };
        let Some(content) = &map.content else { return Ok(Done::Ok) };
        let tokens = self.caches.bootstrap_tokens.list();
        let Some(data) = signed(&content.data, &tokens, self.clock.now()) else { return Ok(Done::Ok) };
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}");
        gone_is_fine(
            call::put::<Value>(&self.client, &path, &body(&map, &content.annotations, &data)).await,
        )?;
        Ok(Done::Ok)
    }
}

fn body(map: &ConfigMapObject, annotations: &Annotations, data: &BTreeMap<String, String>) -> Value {
    let meta = &map.metadata;
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data, "metadata": {
        "name": meta.name, "namespace": meta.namespace, "resourceVersion": meta.resource_version, "labels": meta.labels,
        "annotations": annotations, "finalizers": meta.finalizers, "ownerReferences": meta.owner_references}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn token(id: &str, more: &[(&str, &str)]) -> Arc<TokenObject> {
        let mut data =
            json!({"token-id": STANDARD.encode(id), "token-secret": STANDARD.encode("0123456789abcdef")});
        for (key, value) in more {
            data[*key] = STANDARD.encode(value).into();
        }
        let meta = json!({"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "data": data})).unwrap())
    }

    #[test]
    fn tokens_that_may_sign_do_and_others_do_not() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let signs = ("usage-bootstrap-signing", "true");
        let tokens = [
            token("abcdef", &[signs]),
            token("fedcba", &[]),
            token("aaaaaa", &[signs, ("expiration", "2025-12-31T23:59:59Z")]),
            token("bbbbbb", &[signs, ("expiration", "2026-01-01T00:00:01Z")]),
            token("UPPER!", &[signs]),
        ];
        let data = BTreeMap::from([
            ("kubeconfig".into(), "x: y".into()),
            ("jws-kubeconfig-gone00".into(), "old".into()),
        ]);
        let wanted = signed(&data, &tokens, now).unwrap();
        let keys: Vec<&str> = wanted.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "jws-kubeconfig-bbbbbb", "kubeconfig"]);
        // HMAC-SHA256 over `BASE64URL(header).BASE64URL(content)`, as any JWS library reckons it.
        let expected =
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..Z_REFHD3rNS90MT-MlgqfupFZGbbs5XgqXT_B4bXOS8";
        assert_eq!(wanted["jws-kubeconfig-abcdef"], expected);
        assert_eq!(signed(&wanted, &tokens, now), None, "it is signed");
        assert_eq!(signed(&BTreeMap::new(), &tokens, now), None, "there is nothing to sign");
    }
}
