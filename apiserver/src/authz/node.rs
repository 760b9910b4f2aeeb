//! The node authorizer: a kubelet may read the objects that the Pods on its node refer to, and no others
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
//!
//! What every kubelet may do regardless of which node it is on stands in a role's rules; what depends on Pods is
//! looked up in a graph that follows the Pods: (node, kind, namespace, name) counted by Pod.

use super::{Attributes, Decision, ResourceAttributes};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

/// What a Pod refers to.
type Reference = (&'static str, String, String);

#[derive(Default)]
struct Graph {
    /// By Pod (namespace, name): its node and what it refers to.
    pods: BTreeMap<(String, String), (String, Vec<Reference>)>,
    /// By node: what its Pods refer to, with the number of Pods that do.
    nodes: BTreeMap<String, BTreeMap<Reference, usize>>,
}

/// What kubelets may see and do.
#[derive(Default)]
pub struct NodeGraph(RwLock<Graph>);

impl NodeGraph {
    /// Takes over a created or changed Pod.
    pub fn put_pod(&self, pod: &Value) {
        let text =
            |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("/metadata/namespace"), text("/metadata/name"));
        let node = text("/spec/nodeName");
        self.remove_pod(&key.0, &key.1);
        if node.is_empty() {
            return;
        }
        let references = references(pod, &key.0);
        let mut graph = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let counts = graph.nodes.entry(node.clone()).or_default();
        for reference in &references {
            *counts.entry(reference.clone()).or_insert(0) += 1;
        }
        graph.pods.insert(key, (node, references));
    }

    /// Forgets a deleted Pod.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        let mut graph = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some((node, references)) = graph.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        let Some(counts) = graph.nodes.get_mut(&node) else { return };
        for reference in references {
            if let Some(count) = counts.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&reference);
                }
            }
        }
        if counts.is_empty() {
            graph.nodes.remove(&node);
        }
    }

    /// Whether a Pod on `node` refers to the object.
    pub fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let graph = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let kind = KINDS.iter().find(|kind| **kind == resource);
        let key = |kind: &'static str| (kind, namespace.to_owned(), name.to_owned());
        kind.is_some_and(|kind| graph.nodes.get(node).is_some_and(|counts| counts.contains_key(&key(kind))))
    }

    /// Yes or no opinion; for users that are no kubelets, no opinion.
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        let Some(node) = attributes.user.node_name() else { return Decision::NoOpinion(String::new()) };
        let Some(on) = &attributes.resource else { return Decision::NoOpinion(String::new()) };
        let verb = attributes.verb.as_str();
        let read = matches!(verb, "get" | "list" | "watch");
        let (itself, named) = (on.subresource.is_empty(), !on.name.is_empty());
        match (on.group.as_str(), on.resource.as_str()) {
            ("", "secrets" | "configmaps") => self.referred(node, on, read && named && itself),
            ("", "persistentvolumeclaims") => {
                let status = on.subresource == "status" && matches!(verb, "get" | "update" | "patch");
                self.referred(node, on, status || (verb == "get" && itself))
            }
            ("", "serviceaccounts") => self.referred(
                node,
                on,
                (verb == "create" && on.subresource == "token") || (verb == "get" && itself),
            ),
            ("coordination.k8s.io", "leases") => own_lease(node, on, verb),
            ("storage.k8s.io", "csinodes") => {
                let known = itself && matches!(verb, "get" | "create" | "update" | "patch" | "delete");
                let own = on.name == node || (verb == "create" && !named);
                allowed_if(known && own, "can only access CSINode with the same name as the requesting node")
            }
            ("", "nodes") => own_node(node, on, verb),
            ("", "pods") => self.own_pods(node, on, verb),
            _ => always(on, verb),
        }
    }

    /// Pods of the own node are read; NodeRestriction limits what is written to them.
    fn own_pods(&self, node: &str, on: &ResourceAttributes, verb: &str) -> Decision {
        match (on.subresource.as_str(), verb) {
            ("", "get") => allowed_if(self.runs(node, on), &unrelated(node)),
            ("", "list" | "watch") => {
                let why =
                    "can only list and watch pods with the field selector spec.nodeName of the own node";
                allowed_if(on.only("spec.nodeName", node), why)
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Decision::Allow(String::new())
            }
            _ => Decision::NoOpinion(String::new()),
        }
    }

    /// Whether a Pod is on the node.
    fn runs(&self, node: &str, on: &ResourceAttributes) -> bool {
        let graph = self.0.read().unwrap_or_else(PoisonError::into_inner);
        graph.pods.get(&(on.namespace.clone(), on.name.clone())).is_some_and(|(at, _)| at == node)
    }

    fn referred(&self, node: &str, on: &ResourceAttributes, right_verb: bool) -> Decision {
        let refers = right_verb && self.refers(node, &on.resource, &on.namespace, &on.name);
        allowed_if(refers, &unrelated(node))
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node {node:?} and this object")
}

fn allowed_if(allowed: bool, otherwise: &str) -> Decision {
    if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(otherwise.to_owned()) }
}

/// A kubelet renews the lease that bears its node's name.
fn own_lease(node: &str, on: &ResourceAttributes, verb: &str) -> Decision {
    let own =
        on.namespace == "kube-node-lease" && matches!(verb, "get" | "create" | "update" | "patch" | "delete");
    // The name of a new object is in its body, where NodeRestriction looks.
    let named = on.name == node || (verb == "create" && on.name.is_empty());
    allowed_if(own && named, "can only access node lease with the same name as the requesting node")
}

/// The own Node is read, by name or as a collection of that name; NodeRestriction limits what is written to it.
fn own_node(node: &str, on: &ResourceAttributes, verb: &str) -> Decision {
    match (on.subresource.as_str(), verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => {
            Decision::Allow(String::new())
        }
        ("", "get" | "list" | "watch") => allowed_if(on.name == node, "can only read the own node"),
        _ => Decision::NoOpinion(String::new()),
    }
}

/// What upstream's role `system:node` gives to every kubelet.
fn always(on: &ResourceAttributes, verb: &str) -> Decision {
    let read = matches!(verb, "get" | "list" | "watch");
    let allowed = match (on.group.as_str(), on.resource.as_str(), on.subresource.as_str()) {
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
            verb == "create"
        }
        ("", "services", "") => read,
        ("", "endpoints", "") => verb == "get",
        ("" | "events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
        ("certificates.k8s.io", "certificatesigningrequests", "") => read || verb == "create",
        ("certificates.k8s.io", "clustertrustbundles", "")
        | ("storage.k8s.io", "csidrivers", "")
        | ("node.k8s.io", "runtimeclasses", "") => read,
        _ => false,
    };
    allowed_if(allowed, "")
}

const KINDS: [&str; 4] = ["secrets", "configmaps", "serviceaccounts", "persistentvolumeclaims"];

/// The Secrets, ConfigMaps, claims and ServiceAccount that a Pod refers to.
fn references(pod: &Value, namespace: &str) -> Vec<Reference> {
    let mut found = BTreeSet::new();
    let spec = &pod["spec"];
    let mut add = |kind: &'static str, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            found.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    add("serviceaccounts", spec.get("serviceAccountName"));
    for secret in spec["imagePullSecrets"].as_array().into_iter().flatten() {
        add("secrets", secret.get("name"));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            for from in container["envFrom"].as_array().into_iter().flatten() {
                add("secrets", from.pointer("/secretRef/name"));
                add("configmaps", from.pointer("/configMapRef/name"));
            }
            for env in container["env"].as_array().into_iter().flatten() {
                add("secrets", env.pointer("/valueFrom/secretKeyRef/name"));
                add("configmaps", env.pointer("/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        add("secrets", volume.pointer("/secret/secretName"));
        add("configmaps", volume.pointer("/configMap/name"));
        for source in volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten() {
            add("secrets", source.pointer("/secret/name"));
            add("configmaps", source.pointer("/configMap/name"));
        }
        for kind in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos", "csi"] {
            add("secrets", volume[kind].pointer("/secretRef/name"));
            add("secrets", volume[kind].pointer("/nodePublishSecretRef/name"));
        }
        add("secrets", volume.pointer("/azureFile/secretName"));
        add("persistentvolumeclaims", volume.pointer("/persistentVolumeClaim/claimName"));
        if volume["ephemeral"].is_object()
            && let (Some(pod), Some(volume)) = (pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            add("persistentvolumeclaims", Some(&format!("{pod}-{volume}").into()));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;
    use serde_json::json;

    fn pod(node: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"nodeName": node, "serviceAccountName": "sa",
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s"}}}]}],
            "volumes": [{"projected": {"sources": [{"configMap": {"name": "c"}}]}}]}})
    }

    fn check(
        graph: &NodeGraph,
        verb: &str,
        group: &str,
        resource: &str,
        subresource: &str,
        name: &str,
        want: bool,
    ) {
        let namespace = if resource == "leases" { "kube-node-lease" } else { "n" };
        let on = ResourceAttributes {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            fields: Vec::new(),
        };
        let user = UserInfo::known("system:node:a", &["system:nodes"]);
        let attributes = Attributes { user, verb: verb.into(), resource: Some(on), path: String::new() };
        assert_eq!(
            graph.decide(&attributes) == Decision::Allow(String::new()),
            want,
            "{verb} {resource}/{name} {subresource}"
        );
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_refer_to() {
        let graph = NodeGraph::default();
        graph.put_pod(&pod("a"));
        check(&graph, "get", "", "secrets", "", "s", true);
        check(&graph, "watch", "", "secrets", "", "s", true);
        check(&graph, "get", "", "secrets", "", "other", false);
        check(&graph, "list", "", "secrets", "", "", false);
        check(&graph, "delete", "", "secrets", "", "s", false);
        check(&graph, "get", "", "configmaps", "", "c", true);
        check(&graph, "create", "", "serviceaccounts", "token", "sa", true);
        check(&graph, "create", "", "serviceaccounts", "token", "default", false);
        check(&graph, "update", "coordination.k8s.io", "leases", "", "a", true);
        check(&graph, "update", "coordination.k8s.io", "leases", "", "b", false);
        check(&graph, "patch", "", "nodes", "status", "a", true);
        check(&graph, "delete", "", "nodes", "", "a", false);
        graph.put_pod(&pod("b"));
        check(&graph, "get", "", "secrets", "", "s", false);
    }
}
