//! Who may do what: node authorizer, RBAC, the group of masters, and the few paths that are open
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/>). Closed by default.

mod node;
mod rbac;

pub use node::NodeGraph;
pub use rbac::{Rbac, Rule, uncovered};

use crate::authn::{MASTERS, UserInfo};
use crate::request::RequestInfo;

/// What is asked for, as authorizers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Who asks.
    pub user: UserInfo,
    /// The verb; for a path that is no resource the method in lower case.
    pub verb: String,
    /// The resource, or `None` for a path.
    pub resource: Option<ResourceAttributes>,
    /// The path, for what is no resource.
    pub path: String,
}

/// The resource part of [`Attributes`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceAttributes {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural.
    pub resource: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// The namespace, empty for none or all.
    pub namespace: String,
    /// The object's name, empty for any.
    pub name: String,
    /// What fields of a collection's objects are to be, as its selector says.
    pub fields: Vec<(String, String)>,
}

impl ResourceAttributes {
    /// Whether only objects with this value of a field are asked for.
    pub fn only(&self, field: &str, value: &str) -> bool {
        self.fields.iter().any(|(key, wanted)| key == field && wanted == value)
    }
}

/// The fields that a selector wants to be equal to something.
pub fn equal_fields(selector: &str) -> Vec<(String, String)> {
    let equal = |part: &str| {
        let (key, value) = part.split_once('=')?;
        // Escapes are in no name; what has them is not understood, and gives no right.
        let plain = !key.ends_with('!') && !part.contains('\\');
        plain.then(|| (key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
    };
    selector.split(',').filter_map(equal).collect()
}

impl Attributes {
    /// What a request asks for.
    pub fn of(user: &UserInfo, info: &RequestInfo) -> Attributes {
        match &info.resource {
            None => Attributes {
                user: user.clone(),
                verb: info.method.as_str().to_ascii_lowercase(),
                resource: None,
                path: info.path.clone(),
            },
            Some(resource) => Attributes {
                user: user.clone(),
                verb: info.verb.name().to_owned(),
                resource: Some(ResourceAttributes {
                    group: resource.group.clone(),
                    version: resource.version.clone(),
                    resource: resource.resource.clone(),
                    subresource: resource.subresource.clone(),
                    namespace: resource.namespace.clone(),
                    name: resource.name.clone(),
                    fields: match info.is_collection() {
                        true => equal_fields(info.query.get("fieldSelector")),
                        false => Vec::new(),
                    },
                }),
                path: info.path.clone(),
            },
        }
    }

    /// The refusal's words, as upstream has them.
    pub fn refusal(&self, reason: &str) -> String {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let user = &self.user.name;
        match &self.resource {
            None => format!("User {user:?} cannot {} path {:?}{reason}", self.verb, self.path),
            Some(on) => {
                let slash =
                    if on.subresource.is_empty() { String::new() } else { format!("/{}", on.subresource) };
                let scope = match on.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                format!(
                    "User {user:?} cannot {} resource \"{}{slash}\" in API group {:?} {scope}{reason}",
                    self.verb, on.resource, on.group
                )
            }
        }
    }
}

/// An authorizer's answer. None of ours forbids what another allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, because.
    Allow(String),
    /// Nothing to say, because.
    NoOpinion(String),
}

/// The chain of authorizers.
pub struct Authorizer {
    /// What kubelets may see and do.
    pub nodes: NodeGraph,
    /// Roles and their bindings.
    pub rbac: Rbac,
}

impl Authorizer {
    /// The decision on a request; no opinion at all is a refusal, whose reason it bears.
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        match self.nodes.decide(attributes) {
            Decision::NoOpinion(first) => match self.rbac.decide(attributes) {
                Decision::NoOpinion(second) => Decision::NoOpinion(
                    [first, second]
                        .into_iter()
                        .filter(|reason| !reason.is_empty())
                        .collect::<Vec<_>>()
                        .join(", "),
                ),
                decided => decided,
            },
            decided => decided,
        }
    }
}

#[cfg(test)]
mod tests;
