//! What a Pod refers to by name.

use super::objects::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const CONTAINERS: [&str; 3] = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];

/// The Secrets that a Pod refers to, in its containers, volumes and image pulls.
pub fn secrets(pod: &Value) -> BTreeSet<&str> {
    let mut found = from_containers(pod, "/secretRef/name", "/valueFrom/secretKeyRef/name");
    found.extend(list(pod, "/spec/imagePullSecrets").map(|secret| text(secret, "/name")));
    for volume in list(pod, "/spec/volumes") {
        found.insert(text(volume, "/secret/secretName"));
        found.insert(text(volume, "/azureFile/secretName"));
        found.insert(text(volume, "/csi/nodePublishSecretRef/name"));
        for kind in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            found.insert(text(&volume[kind], "/secretRef/name"));
        }
        found.extend(list(volume, "/projected/sources").map(|source| text(source, "/secret/name")));
    }
    found.remove("");
    found
}

/// The ConfigMaps that a Pod refers to.
pub fn config_maps(pod: &Value) -> BTreeSet<&str> {
    let mut found = from_containers(pod, "/configMapRef/name", "/valueFrom/configMapKeyRef/name");
    for volume in list(pod, "/spec/volumes") {
        found.insert(text(volume, "/configMap/name"));
        found.extend(list(volume, "/projected/sources").map(|source| text(source, "/configMap/name")));
    }
    found.remove("");
    found
}

fn from_containers<'a>(pod: &'a Value, of_all: &str, of_one: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for container in CONTAINERS.iter().flat_map(|pointer| list(pod, pointer)) {
        found.extend(list(container, "/envFrom").map(|from| text(from, of_all)));
        found.extend(list(container, "/env").map(|env| text(env, of_one)));
    }
    found
}

/// Whether a volume of a Pod has a source of this name in it (`serviceAccountToken`, `clusterTrustBundle`).
pub fn projects(pod: &Value, source: &str) -> bool {
    list(pod, "/spec/volumes")
        .flat_map(|volume| list(volume, "/projected/sources"))
        .any(|one| one.get(source).is_some())
}

/// Whether a volume of a Pod has a token in it.
pub fn has_token_projection(pod: &Value) -> bool {
    projects(pod, "serviceAccountToken")
}
