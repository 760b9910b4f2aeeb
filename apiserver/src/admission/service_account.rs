//! ServiceAccount: every Pod runs as an account that exists, and gets its token, its pull secrets and the cluster's CA
//! (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>).

use super::objects::{Objects, forbidden, is_mirror_pod, list, list_mut, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a container finds its token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour, and seven seconds by which tokens that are renewed by kubelets are told from others.
const TOKEN_SECONDS: i64 = 3607;
const ENFORCE: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";

/// See the module.
pub struct ServiceAccount(pub Arc<dyn Objects>);

impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if !is_new_pod(attributes) || is_mirror_pod(pod) {
            return Ok(());
        }
        if text(pod, "/spec/serviceAccountName").is_empty() {
            // Both names of the field are kept alike.
            pod["spec"]["serviceAccountName"] = "default".into();
            pod["spec"]["serviceAccount"] = "default".into();
        }
        let account = self.account(attributes, pod)?;
        let wish = |of: &Value, pointer: &str| of.pointer(pointer).and_then(Value::as_bool);
        let mounts = wish(pod, "/spec/automountServiceAccountToken")
            .or_else(|| wish(&account, "/automountServiceAccountToken"))
            .unwrap_or(true);
        if mounts {
            mount_token(&mut pod["spec"], attributes);
        }
        if list(pod, "/spec/imagePullSecrets").next().is_none() {
            let secrets: Vec<Value> = list(&account, "/imagePullSecrets").cloned().collect();
            if !secrets.is_empty() {
                pod["spec"]["imagePullSecrets"] = secrets.into();
            }
        }
        Ok(())
    }

    fn validate(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
        let adds_containers = attributes.subresource == "ephemeralcontainers"
            && attributes.resource.kind == "Pod"
            && attributes.operation == Operation::Update;
        if !adds_containers && !is_new_pod(attributes) {
            return Ok(());
        }
        if is_mirror_pod(pod) {
            return validate_mirror_pod(attributes, pod);
        }
        let account = self.account(attributes, pod)?;
        if text(&account, ENFORCE) == "true" {
            return only_mountable(attributes, pod, &account);
        }
        Ok(())
    }
}

impl ServiceAccount {
    fn account(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Arc<Value>, ApiError> {
        let (namespace, name) = (attributes.namespace, text(pod, "/spec/serviceAccountName"));
        self.0.get("serviceaccounts", namespace, name).ok_or_else(|| {
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            );
            forbidden(attributes, pod, why)
        })
    }
}

fn is_new_pod(attributes: &Attributes<'_>) -> bool {
    attributes.resource.kind == "Pod"
        && attributes.subresource.is_empty()
        && attributes.operation == Operation::Create
}

/// Gives every container that has nothing at the token's place a mount of the token's volume, and the Pod the volume.
fn mount_token(spec: &mut Value, attributes: &Attributes<'_>) {
    let named = list(spec, "/volumes").map(|volume| text(volume, "/name"));
    let existing = named.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let volume =
        existing.clone().unwrap_or_else(|| minik_component::generate_name(VOLUME_PREFIX, attributes.chance));
    let mut needed = false;
    for containers in ["initContainers", "containers"] {
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(mounts) = list_mut(container, "volumeMounts") else { continue };
            if mounts.iter().all(|mount| text(mount, "/mountPath") != MOUNT_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed
        && existing.is_none()
        && let Some(volumes) = list_mut(spec, "volumes")
    {
        volumes.push(json!({"name": volume, "projected": token_source()}));
    }
}

fn token_source() -> Value {
    json!({"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]})
}

fn validate_mirror_pod(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    let refuse = |why: &str| Err(forbidden(attributes, pod, why));
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if !super::references::secrets(pod).is_empty() {
        return refuse("a mirror pod may not reference secrets");
    }
    if super::references::has_token_projection(pod) {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// An account may say that its Pods use no Secrets but its own.
fn only_mountable(attributes: &Attributes<'_>, pod: &Value, account: &Value) -> Result<(), ApiError> {
    let names = |pointer: &str| -> BTreeSet<&str> {
        list(account, pointer).map(|secret| text(secret, "/name")).collect()
    };
    let (mountable, pullable) = (names("/secrets"), names("/imagePullSecrets"));
    let account = text(account, "/metadata/name");
    let refuse = |what: String| {
        let why =
            format!("{what} is not allowed because service account {account} does not reference that secret");
        Err(forbidden(attributes, pod, why))
    };
    for volume in list(pod, "/spec/volumes") {
        let name = text(volume, "/secret/secretName");
        if !name.is_empty() && !mountable.contains(name) {
            return refuse(format!("volume with secret.secretName={name:?}"));
        }
    }
    for (kind, containers) in [
        ("init container", "initContainers"),
        ("container", "containers"),
        ("ephemeral container", "ephemeralContainers"),
    ] {
        for container in list(&pod["spec"], &format!("/{containers}")) {
            for env in list(container, "/env") {
                let name = text(env, "/valueFrom/secretKeyRef/name");
                if !name.is_empty() && !mountable.contains(name) {
                    let (container, env) = (text(container, "/name"), text(env, "/name"));
                    return refuse(format!(
                        "{kind} {container} with envVar {env} referencing secret.secretName={name:?}"
                    ));
                }
            }
            for from in list(container, "/envFrom") {
                let name = text(from, "/secretRef/name");
                if !name.is_empty() && !mountable.contains(name) {
                    let container = text(container, "/name");
                    return refuse(format!(
                        "{kind} {container} with envFrom referencing secret.secretName={name:?}"
                    ));
                }
            }
        }
    }
    for secret in list(pod, "/spec/imagePullSecrets") {
        let name = text(secret, "/name");
        if !pullable.contains(name) {
            let why = format!(
                "imagePullSecrets[].name={name:?} is not allowed because service account {account} does not \
                 reference that imagePullSecret"
            );
            return Err(forbidden(attributes, pod, why));
        }
    }
    Ok(())
}
