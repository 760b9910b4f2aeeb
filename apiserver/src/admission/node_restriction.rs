//! NodeRestriction: a kubelet changes its own node, the Pods on it and its lease, and nothing else
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>).
//!
//! The node authorizer decides on kinds, verbs and names; here is what can only be decided by looking into objects.

use super::objects::{Objects, forbidden, is_mirror_pod, list, missing, text};
use super::{Admission, Attributes, Operation, certificates, references};
use crate::error::ApiError;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

const LEASES: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that a kubelet sets.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Domains below which a kubelet sets any label.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// See the module.
pub struct NodeRestriction(pub Arc<dyn Objects>);

/// A request of a kubelet.
#[derive(Clone, Copy)]
struct Ask<'a> {
    node: &'a str,
    attributes: &'a Attributes<'a>,
    object: &'a Value,
}

impl Ask<'_> {
    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T, ApiError> {
        Err(forbidden(self.attributes, self.object, why))
    }

    /// The name of the object, which a new one bears itself.
    fn name(&self) -> &str {
        match self.attributes.name {
            "" => text(self.object, "/metadata/name"),
            name => name,
        }
    }

    fn unexpected(&self) -> Result<(), ApiError> {
        self.refuse(format!("unexpected operation {:?}", operation(self.attributes.operation)))
    }
}

impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        self.check(attributes, object)
    }

    // Deletions are only validated.
    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete { self.check(attributes, object) } else { Ok(()) }
    }
}

impl NodeRestriction {
    fn check(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let Some(node) = attributes.user.node_name() else { return Ok(()) };
        let ask = Ask { node, attributes, object };
        if node.is_empty() {
            return ask.refuse(format!("could not determine node from user {:?}", attributes.user.name));
        }
        let resource = attributes.resource;
        match (resource.group, resource.plural, attributes.subresource) {
            ("", "pods", "") => self.pod(ask),
            ("", "pods", "status") => pod_status(ask),
            ("", "pods", "eviction") => self.eviction(ask),
            ("", "pods", other) => ask.refuse(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("", "nodes", _) => node_itself(ask),
            ("", "serviceaccounts", "token") if attributes.operation == Operation::Create => self.token(ask),
            ("", "persistentvolumeclaims", _) => ask.refuse("may only update PVC status"),
            ("coordination.k8s.io", "leases", _) => lease(ask),
            ("certificates.k8s.io", "certificatesigningrequests", "")
                if attributes.operation == Operation::Create =>
            {
                signing_request(ask)
            }
            ("storage.k8s.io", "csinodes", _) if ask.name() != node => {
                ask.refuse("can only access CSINode with the same name as the requesting node")
            }
            _ => Ok(()),
        }
    }
}

/// A kubelet asks for certificates of its own node only.
fn signing_request(ask: Ask<'_>) -> Result<(), ApiError> {
    let signer = text(ask.object, "/spec/signerName");
    if !matches!(signer, "kubernetes.io/kube-apiserver-client-kubelet" | "kubernetes.io/kubelet-serving") {
        return Ok(());
    }
    let user = &ask.attributes.user.name;
    match certificates::subject(ask.object) {
        None => ask.refuse("unable to parse csr"),
        Some(subject) if subject.name != *user => {
            ask.refuse(format!("can only create a node CSR with CN={user}"))
        }
        Some(_) => Ok(()),
    }
}

impl NodeRestriction {
    /// A Pod as it is stored.
    fn stored_pod(&self, ask: Ask<'_>, name: &str) -> Result<Arc<Value>, ApiError> {
        let pod = self.0.get("pods", ask.attributes.namespace, name);
        pod.ok_or_else(|| missing("pods", name))
    }

    fn pod(&self, ask: Ask<'_>) -> Result<(), ApiError> {
        let node = ask.node;
        match ask.attributes.operation {
            Operation::Create => self.mirror_pod(ask),
            Operation::Delete if is_on(&*self.stored_pod(ask, ask.name())?, node) => Ok(()),
            Operation::Delete => {
                ask.refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            other => ask.refuse(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation(other)
            )),
        }
    }

    /// A kubelet makes Pods only to show those that it runs from files.
    fn mirror_pod(&self, ask: Ask<'_>) -> Result<(), ApiError> {
        let (node, pod) = (ask.node, ask.object);
        if !is_mirror_pod(pod) {
            return ask.refuse(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ));
        }
        if !is_on(pod, node) {
            return ask
                .refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        self.owner(ask)?;
        let refers_to =
            |what: &str| ask.refuse(format!("node {node:?} can not create pods that reference {what}"));
        if !text(pod, "/spec/serviceAccountName").is_empty() {
            return refers_to("a service account");
        }
        if !references::secrets(pod).is_empty() {
            return refers_to("secrets");
        }
        if !references::config_maps(pod).is_empty() {
            return refers_to("configmaps");
        }
        if references::projects(pod, "clusterTrustBundle") {
            return refers_to("clustertrustbundles");
        }
        if list(pod, "/spec/volumes").any(|volume| volume.get("persistentVolumeClaim").is_some()) {
            return refers_to("persistentvolumeclaims");
        }
        if list(pod, "/spec/resourceClaims").next().is_some() {
            return refers_to("resourceclaims");
        }
        Ok(())
    }

    /// A mirror Pod has one owner: its node.
    fn owner(&self, ask: Ask<'_>) -> Result<(), ApiError> {
        let node = ask.node;
        let mut owners = list(ask.object, "/metadata/ownerReferences");
        let own = format!("node {node:?} can only create pods with an owner reference set to itself");
        let Some(owner) = owners.next() else { return ask.refuse(own) };
        if owners.next().is_some() {
            return ask.refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
        let of = |pointer: &str| text(owner, pointer);
        if (of("/apiVersion"), of("/kind"), of("/name")) != ("v1", "Node", node) {
            return ask.refuse(own);
        }
        if owner["controller"] != Value::Bool(true) {
            return ask.refuse(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner["blockOwnerDeletion"] == Value::Bool(true) {
            return ask
                .refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let stored = self.0.get("minions", "", node).ok_or_else(|| missing("nodes", node))?;
        let (expected, got) = (text(&stored, "/metadata/uid"), of("/uid"));
        if expected != got {
            return ask.refuse(format!("node {node} UID mismatch: expected {expected} got {got}"));
        }
        Ok(())
    }

    fn eviction(&self, ask: Ask<'_>) -> Result<(), ApiError> {
        if ask.attributes.operation != Operation::Create {
            return ask.refuse(format!("unexpected operation {}", operation(ask.attributes.operation)));
        }
        if ask.name().is_empty() {
            return ask.refuse("could not determine pod from request data");
        }
        if !is_on(&*self.stored_pod(ask, ask.name())?, ask.node) {
            return ask
                .refuse(format!("node {} can only evict pods with spec.nodeName set to itself", ask.node));
        }
        Ok(())
    }

    /// A kubelet asks for tokens on behalf of Pods on its node, for whom the Pods ask for them.
    fn token(&self, ask: Ask<'_>) -> Result<(), ApiError> {
        let bound = |field: &str| text(ask.object, &format!("/spec/boundObjectRef/{field}"));
        let name = bound("name");
        if (bound("apiVersion"), bound("kind")) != ("v1", "Pod") || name.is_empty() {
            return ask.refuse("node requested token not bound to a pod");
        }
        let uid = bound("uid");
        if uid.is_empty() {
            return ask.refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.stored_pod(ask, name)?;
        if uid != text(&pod, "/metadata/uid") {
            return ask.refuse(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            ));
        }
        if !is_on(&pod, ask.node) {
            return ask.refuse("node requested token bound to a pod scheduled on a different node");
        }
        audience(ask, &pod)
    }
}

/// A token is for whom a volume of the Pod says.
fn audience(ask: Ask<'_>, pod: &Value) -> Result<(), ApiError> {
    let audiences: Vec<&str> = list(ask.object, "/spec/audiences").filter_map(Value::as_str).collect();
    let wanted = match audiences[..] {
        [] => "",
        [one] => one,
        _ => return ask.refuse("node may only request 0 or 1 audiences"),
    };
    let sources = list(pod, "/spec/volumes").flat_map(|volume| list(volume, "/projected/sources"));
    let mut tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
    if tokens.any(|token| text(token, "/audience") == wanted) {
        return Ok(());
    }
    ask.refuse(format!(
        "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        ask.attributes.user.name
    ))
}

fn pod_status(ask: Ask<'_>) -> Result<(), ApiError> {
    let node = ask.node;
    let Some(old) = ask.attributes.old.filter(|_| ask.attributes.operation == Operation::Update) else {
        return ask.unexpected();
    };
    if !is_on(old, node) {
        return ask.refuse(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same(old, ask.object, "/metadata/labels") {
        return ask.refuse(format!("node {node:?} cannot update labels through pod status"));
    }
    if !same(old, ask.object, "/status/resourceClaimStatuses") {
        return ask.refuse(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn node_itself(ask: Ask<'_>) -> Result<(), ApiError> {
    let (node, name) = (ask.node, ask.name());
    if name != node {
        return ask.refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let nothing = Value::Null;
    let config = ask.object.pointer("/spec/configSource");
    match (ask.attributes.operation, ask.attributes.old) {
        (Operation::Create, _) => {
            if config.is_some() {
                return ask.refuse(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let labels = forbidden_labels(&nothing, ask.object);
            if !labels.is_empty() {
                return ask.refuse(format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    labels.join(", ")
                ));
            }
        }
        (Operation::Update, Some(old)) => {
            if config.is_some() && !same(old, ask.object, "/spec/configSource") {
                return ask.refuse(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if !same(old, ask.object, "/spec/taints") {
                return ask.refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            if !same(old, ask.object, "/metadata/ownerReferences") {
                return ask.refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let labels = forbidden_labels(old, ask.object);
            if !labels.is_empty() {
                return ask.refuse(format!("is not allowed to modify labels: {}", labels.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Labels that differ and are not a kubelet's to set: the restricted ones, and Kubernetes' own but those it knows.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let of = |node: &Value| -> BTreeSet<(String, String)> {
        let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
        let pair =
            |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or_default().to_owned());
        labels.into_iter().flatten().map(pair).collect()
    };
    let changed: BTreeSet<String> =
        of(old).symmetric_difference(&of(new)).map(|(key, _)| key.clone()).collect();
    changed.into_iter().filter(|label| is_forbidden(label)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    let known = || KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|parent| below(parent));
    below(RESTRICTED) || ((below("kubernetes.io") || below("k8s.io")) && !known())
}

fn lease(ask: Ask<'_>) -> Result<(), ApiError> {
    if ask.attributes.namespace != LEASES {
        return ask.refuse(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // A new lease's own name counts, whatever the path says.
    let name = match ask.attributes.operation {
        Operation::Create => text(ask.object, "/metadata/name"),
        _ => ask.attributes.name,
    };
    if name != ask.node {
        return ask.refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn is_on(pod: &Value, node: &str) -> bool {
    text(pod, "/spec/nodeName") == node
}

/// Whether two trees have the same at a pointer; what is empty counts as not there.
fn same(one: &Value, other: &Value, pointer: &str) -> bool {
    let at = |tree: &Value| {
        let empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            other => other.is_null(),
        };
        tree.pointer(pointer).filter(|value| !empty(value)).cloned()
    };
    at(one) == at(other)
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}
