//! Role-based access control: roles give, bindings say to whom, nothing takes away
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/>).
//!
//! The four kinds are kept as small parsed copies that follow the watch cache; deciding walks the bindings that name
//! the user, a group or the account.

use super::{Attributes, Decision};
use crate::authn::UserInfo;
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// Groups; `*` is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources and subresources (`pods/log`); `*` is all, `*/log` that subresource of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names; none is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; a trailing `*` is any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Whether the rule allows what is asked for.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        let named = |list: &[String], value: &str| list.iter().any(|one| one == "*" || one == value);
        if !named(&self.verbs, &attributes.verb) {
            return false;
        }
        let Some(on) = &attributes.resource else {
            let fits = |url: &String| {
                url.strip_suffix('*')
                    .map_or(*url == attributes.path, |start| attributes.path.starts_with(start))
            };
            return self.non_resource_urls.iter().any(fits);
        };
        let resource = if on.subresource.is_empty() {
            on.resource.clone()
        } else {
            format!("{}/{}", on.resource, on.subresource)
        };
        let any_of_subresource = format!("*/{}", on.subresource);
        let resource_fits = self.resources.iter().any(|one| {
            one == "*" || *one == resource || (!on.subresource.is_empty() && *one == any_of_subresource)
        });
        let name_fits = self.resource_names.is_empty() || self.resource_names.contains(&on.name);
        named(&self.api_groups, &on.group) && resource_fits && name_fits
    }

    /// Whether this rule gives all that `other` gives, for the check that nobody gives more than he has.
    pub fn covers(&self, other: &Rule) -> bool {
        let all = |have: &[String], want: &[String]| {
            have.iter().any(|one| one == "*") || want.iter().all(|one| have.contains(one))
        };
        let urls = |have: &[String], want: &[String]| {
            want.iter().all(|url| {
                have.iter().any(|one| {
                    one == url || one.strip_suffix('*').is_some_and(|start| url.starts_with(start))
                })
            })
        };
        let resources = |have: &[String], want: &[String]| {
            want.iter().all(|one| {
                let any_of = one.split_once('/').map(|(_, sub)| format!("*/{sub}"));
                have.iter().any(|had| had == "*" || had == one || Some(had) == any_of.as_ref())
            })
        };
        let names = self.resource_names.is_empty()
            || (!other.resource_names.is_empty()
                && other.resource_names.iter().all(|name| self.resource_names.contains(name)));
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && resources(&self.resources, &other.resources)
            && names
            && urls(&self.non_resource_urls, &other.non_resource_urls)
    }
}

/// The parts of `want` that `have` does not give, each as small as can be: one verb on one resource, or on one path.
/// They are what nobody may hand on who has no more than `have`.
pub fn uncovered(have: &[Rule], want: &[Rule]) -> Vec<Rule> {
    let atoms = want.iter().flat_map(atoms);
    let mut missing: Vec<Rule> = Vec::new();
    for atom in atoms {
        if !have.iter().any(|rule| rule.covers(&atom)) && !missing.contains(&atom) {
            missing.push(atom);
        }
    }
    missing
}

/// A rule in its smallest parts.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            parts.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
        }
        for (group, resource) in rule
            .api_groups
            .iter()
            .flat_map(|group| rule.resources.iter().map(move |resource| (group, resource)))
        {
            let part = Rule {
                verbs: one(verb),
                api_groups: one(group),
                resources: one(resource),
                ..Rule::default()
            };
            if rule.resource_names.is_empty() {
                parts.push(part);
            } else {
                let named = rule.resource_names.iter();
                parts.extend(named.map(|name| Rule { resource_names: one(name), ..part.clone() }));
            }
        }
    }
    parts
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Meta {
    name: String,
    namespace: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Role {
    metadata: Meta,
    #[serde(deserialize_with = "null_is_empty")]
    rules: Vec<Rule>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    metadata: Meta,
    role_ref: RoleRef,
    subjects: Vec<Subject>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => {
                let mut parts =
                    user.name.strip_prefix("system:serviceaccount:").unwrap_or_default().splitn(2, ':');
                parts.next() == Some(self.namespace.as_str()) && parts.next() == Some(self.name.as_str())
            }
            _ => false,
        }
    }
}

type Key = (String, String);

/// All roles and bindings, by namespace (empty for cluster-wide) and name.
#[derive(Debug, Clone, Default)]
struct Tables {
    roles: BTreeMap<Key, Role>,
    bindings: BTreeMap<Key, Binding>,
}

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac(ArcSwap<Tables>);

/// One of the four kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Roles,
    Bindings,
}

impl Rbac {
    fn table(resource: &str) -> Option<Table> {
        match resource {
            "roles" | "clusterroles" => Some(Table::Roles),
            "rolebindings" | "clusterrolebindings" => Some(Table::Bindings),
            _ => None,
        }
    }

    /// Takes over a created or changed object of one of the four kinds; others are ignored.
    pub fn put(&self, resource: &str, object: &Value) {
        let Some(table) = Self::table(resource) else { return };
        let mut tables = Tables::clone(&self.0.load());
        match table {
            // What does not parse gives nothing.
            Table::Roles => {
                let role: Role = serde::Deserialize::deserialize(object).unwrap_or_default();
                tables.roles.insert((role.metadata.namespace.clone(), role.metadata.name.clone()), role);
            }
            Table::Bindings => {
                let binding: Binding = serde::Deserialize::deserialize(object).unwrap_or_default();
                tables
                    .bindings
                    .insert((binding.metadata.namespace.clone(), binding.metadata.name.clone()), binding);
            }
        }
        self.0.store(Arc::new(tables));
    }

    /// Forgets a deleted object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let Some(table) = Self::table(resource) else { return };
        let mut tables = Tables::clone(&self.0.load());
        let key = (namespace.to_owned(), name.to_owned());
        match table {
            Table::Roles => drop(tables.roles.remove(&key)),
            Table::Bindings => drop(tables.bindings.remove(&key)),
        }
        self.0.store(Arc::new(tables));
    }

    /// The rules that a user has in a namespace (with the cluster-wide ones), or cluster-wide only.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let tables = self.0.load();
        let mut rules = Vec::new();
        tables.visit(user, namespace, |_, rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules of a role.
    pub fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.0.load().roles.get(&(namespace.to_owned(), name.to_owned())).map(|role| role.rules.clone())
    }

    /// Yes, if any rule of any binding of the user says so.
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        let namespace = attributes.resource.as_ref().map_or("", |on| on.namespace.as_str());
        let mut because = None;
        self.0.load().visit(&attributes.user, namespace, |binding, rule| {
            let allowed = rule.allows(attributes);
            if allowed {
                because = Some(binding.reason(&attributes.user));
            }
            allowed
        });
        because.map_or_else(|| Decision::NoOpinion(String::new()), Decision::Allow)
    }
}

impl Tables {
    /// Calls `see` with each rule that the user has, until it answers true.
    fn visit(&self, user: &UserInfo, namespace: &str, mut see: impl FnMut(&Binding, &Rule) -> bool) {
        let of = |namespace: &str| {
            let start = (namespace.to_owned(), String::new());
            let namespace = namespace.to_owned();
            self.bindings
                .range(start..)
                .take_while(move |(key, _)| key.0 == namespace)
                .map(|(_, binding)| binding)
        };
        let local = (!namespace.is_empty()).then(|| of(namespace)).into_iter().flatten();
        for binding in of("").chain(local) {
            if !binding.subjects.iter().any(|subject| subject.is(user)) {
                continue;
            }
            let home =
                if binding.role_ref.kind == "ClusterRole" { "" } else { binding.metadata.namespace.as_str() };
            let Some(role) = self.roles.get(&(home.to_owned(), binding.role_ref.name.clone())) else {
                continue;
            };
            if role.rules.iter().any(|rule| see(binding, rule)) {
                return;
            }
        }
    }
}

impl Binding {
    fn reason(&self, user: &UserInfo) -> String {
        let kind = if self.metadata.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let slash = if self.metadata.namespace.is_empty() {
            String::new()
        } else {
            format!("/{}", self.metadata.namespace)
        };
        let subject = self
            .subjects
            .iter()
            .find(|subject| subject.is(user))
            .map_or(String::new(), |one| format!("{} {:?}", one.kind, one.name));
        format!(
            "RBAC: allowed by {kind} \"{}{slash}\" of {} {:?} to {subject}",
            self.metadata.name, self.role_ref.kind, self.role_ref.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::ResourceAttributes;
    use super::*;
    use serde_json::json;

    fn rbac() -> Rbac {
        let rbac = Rbac::default();
        rbac.put("clusterroles", &json!({"metadata": {"name": "view"}, "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]}]}));
        rbac.put("roles", &json!({"metadata": {"name": "one", "namespace": "a"}, "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["c"]}]}));
        rbac.put("clusterrolebindings", &json!({"metadata": {"name": "v"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "name": "viewers"}]}));
        rbac.put(
            "rolebindings",
            &json!({"metadata": {"name": "o", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "one"},
            "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "b"}]}),
        );
        rbac
    }

    fn check(user: &UserInfo, verb: &str, on: &str, want: bool) {
        let mut parts = on.splitn(4, ' ');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (namespace, resource, subresource, name) = (next(), next(), next(), next());
        let strip = |text: String| if text == "-" { String::new() } else { text };
        let resource = ResourceAttributes {
            fields: Vec::new(),
            namespace: strip(namespace),
            resource,
            subresource: strip(subresource),
            name: strip(name),
            version: "v1".into(),
            group: String::new(),
        };
        let attributes = Attributes {
            user: user.clone(),
            verb: verb.into(),
            resource: Some(resource),
            path: String::new(),
        };
        let allowed = matches!(rbac().decide(&attributes), Decision::Allow(_));
        assert_eq!(allowed, want, "{} {verb} {on}", user.name);
    }

    #[test]
    fn rules_allow_what_they_name_and_no_more() {
        let viewer = UserInfo::known("v", &["viewers"]);
        check(&viewer, "get", "a pods - p", true);
        check(&viewer, "list", "- pods - -", true);
        check(&viewer, "get", "a pods log p", true);
        check(&viewer, "get", "a pods exec p", false);
        check(&viewer, "delete", "a pods - p", false);
        check(&viewer, "get", "a secrets - s", false);
        let account = UserInfo::known("system:serviceaccount:b:sa", &[]);
        check(&account, "update", "a configmaps - c", true);
        check(&account, "update", "a configmaps - d", false);
        check(&account, "update", "b configmaps - c", false);
        check(&account, "list", "a configmaps - -", false);
    }

    #[test]
    fn paths_may_end_in_a_star() {
        let attributes = |path: &str| Attributes {
            user: UserInfo::known("v", &["viewers"]),
            verb: "get".into(),
            resource: None,
            path: path.into(),
        };
        for (path, want) in [("/metrics", true), ("/logs/x", true), ("/logs", false), ("/metrics/x", false)] {
            assert_eq!(matches!(rbac().decide(&attributes(path)), Decision::Allow(_)), want, "{path}");
        }
    }

    #[test]
    fn nobody_covers_more_than_he_has() {
        let rule = |verbs: &[&str], names: &[&str]| Rule {
            verbs: verbs.iter().map(ToString::to_string).collect(),
            api_groups: vec![String::new()],
            resources: vec!["pods".into()],
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..Rule::default()
        };
        assert!(rule(&["*"], &[]).covers(&rule(&["get"], &["a"])));
        assert!(!rule(&["get"], &["a"]).covers(&rule(&["get"], &[])));
        assert!(!rule(&["get"], &[]).covers(&rule(&["*"], &[])));
    }
}
