//! Nobody hands on by roles and bindings what he does not have himself
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).

use super::objects::{forbidden, text};
use super::{Admission, Attributes, Operation};
use crate::authn::{MASTERS, UserInfo};
use crate::authz::{self, Authorizer, Decision, ResourceAttributes, Rule, uncovered};
use crate::error::ApiError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What users may do, and what roles give.
pub trait Rights: Send + Sync {
    /// The rules that a user has in a namespace, the cluster-wide ones among them.
    fn of_user(&self, user: &UserInfo, namespace: &str) -> Vec<Rule>;
    /// The rules of a role; a `Role` is in a namespace.
    fn of_role(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>>;
    /// Whether a user may do something.
    fn may(&self, attributes: &authz::Attributes) -> bool;
}

impl Rights for Authorizer {
    fn of_user(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        self.rbac.rules(user, namespace)
    }

    fn of_role(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.rbac.role_rules(kind, namespace, name)
    }

    fn may(&self, attributes: &authz::Attributes) -> bool {
        matches!(self.decide(attributes), Decision::Allow(_))
    }
}

/// See the module.
pub struct NoEscalation(pub Arc<dyn Rights>);

impl Admission for NoEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.resource.group != GROUP || !writes || attributes.user.in_group(MASTERS) {
            return Ok(());
        }
        match attributes.resource.kind {
            "Role" | "ClusterRole" => self.role(attributes, object),
            "RoleBinding" | "ClusterRoleBinding" => self.binding(attributes, object),
            _ => Ok(()),
        }
    }
}

impl NoEscalation {
    fn role(&self, attributes: &Attributes<'_>, role: &Value) -> Result<(), ApiError> {
        let same = |field: &str| attributes.old.is_some_and(|old| old[field] == role[field]);
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        let name = text(role, "/metadata/name");
        if self.allowed(attributes, "escalate", attributes.resource.plural, name) {
            return Ok(());
        }
        let rules = role["rules"].as_array().into_iter().flatten();
        let rules: Vec<Rule> = rules.filter_map(|rule| Rule::deserialize(rule).ok()).collect();
        self.confirm(attributes, role, &rules)?;
        if role["aggregationRule"].is_object() && self.missing(attributes, &everything()).is_some() {
            return Err(forbidden(
                attributes,
                role,
                "must have cluster-admin privileges to use an aggregationRule",
            ));
        }
        Ok(())
    }

    fn binding(&self, attributes: &Attributes<'_>, binding: &Value) -> Result<(), ApiError> {
        if attributes
            .old
            .is_some_and(|old| old["roleRef"] == binding["roleRef"] && old["subjects"] == binding["subjects"])
        {
            return Ok(());
        }
        let (kind, name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.allowed(attributes, "bind", plural, name) {
            return Ok(());
        }
        let rules = self.0.of_role(kind, attributes.namespace, name);
        let rules = rules.ok_or_else(|| {
            let on = crate::error::Named { group: GROUP.into(), kind: plural.into(), name: name.into() };
            ApiError::NotFound(on)
        })?;
        self.confirm(attributes, binding, &rules)
    }

    /// Whether the user may do so whatever he has.
    fn allowed(&self, attributes: &Attributes<'_>, verb: &str, plural: &str, name: &str) -> bool {
        self.0.may(&authz::Attributes {
            user: attributes.user.clone(),
            verb: verb.into(),
            resource: Some(ResourceAttributes {
                fields: Vec::new(),
                group: GROUP.into(),
                version: "v1".into(),
                resource: plural.into(),
                subresource: String::new(),
                namespace: attributes.namespace.into(),
                name: name.into(),
            }),
            path: String::new(),
        })
    }

    fn missing(&self, attributes: &Attributes<'_>, rules: &[Rule]) -> Option<Vec<Rule>> {
        let have = self.0.of_user(attributes.user, attributes.namespace);
        Some(uncovered(&have, rules)).filter(|missing| !missing.is_empty())
    }

    fn confirm(&self, attributes: &Attributes<'_>, object: &Value, rules: &[Rule]) -> Result<(), ApiError> {
        let Some(missing) = self.missing(attributes, rules) else { return Ok(()) };
        let UserInfo { name, groups, .. } = attributes.user;
        let groups = groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(" ");
        let why = format!(
            "user {name:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
            descriptions(missing).join("\n")
        );
        Err(forbidden(attributes, object, why))
    }
}

/// What only a cluster's administrator has.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

/// Rules in upstream's words, those that differ in verbs only as one, sorted.
fn descriptions(rules: Vec<Rule>) -> Vec<String> {
    let mut by_object: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let list = |name: &str, items: &[String]| {
        let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        (!items.is_empty()).then(|| format!("{name}:[{}]", items.join(" ")))
    };
    for rule in rules {
        let parts = [
            list("APIGroups", &rule.api_groups),
            list("Resources", &rule.resources),
            list("ResourceNames", &rule.resource_names),
            list("NonResourceURLs", &rule.non_resource_urls),
        ];
        let object = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        by_object.entry(object).or_default().extend(rule.verbs);
    }
    let described = |(object, verbs): (String, Vec<String>)| {
        format!("{{{object}, {}}}", list("Verbs", &verbs).unwrap_or_default())
    };
    by_object.into_iter().map(described).collect()
}
