//! What is to be written so that a cluster has at least what it began with: missing objects are made, missing rules and
//! subjects are added, and what somebody added is left alone
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation>).

use crate::authz::{Rule, uncovered};
use serde::Deserialize;
use serde_json::Value;

const AUTOUPDATE: &str = "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate";

/// A write that brings an object to what it should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// It is as it should be, or somebody said to leave it.
    Nothing,
    /// It is missing.
    Create(Value),
    /// It lacks something.
    Update(Value),
    /// It refers to another role, which cannot be changed in place.
    Replace(Value),
}

/// The write that an object of the table needs, when `live` is what is stored.
pub fn reconcile(wanted: &Value, live: Option<&Value>) -> Write {
    let Some(live) = live else { return Write::Create(wanted.clone()) };
    let kept = live.pointer(AUTOUPDATE).is_some_and(|value| value == "false");
    match wanted["kind"].as_str().unwrap_or_default() {
        _ if kept => Write::Nothing,
        "ClusterRole" | "Role" => changed(live, with_rules(wanted, live)),
        "ClusterRoleBinding" | "RoleBinding" if wanted["roleRef"] != live["roleRef"] => {
            let mut again = wanted.clone();
            again["subjects"] = with_items(&live["subjects"], &wanted["subjects"]);
            Write::Replace(drop_empty(again, "subjects"))
        }
        "ClusterRoleBinding" | "RoleBinding" => {
            let mut next = with_meta(wanted, live);
            next["subjects"] = with_items(&live["subjects"], &wanted["subjects"]);
            changed(live, drop_empty(next, "subjects"))
        }
        _ => Write::Nothing,
    }
}

fn changed(live: &Value, next: Value) -> Write {
    if next == *live { Write::Nothing } else { Write::Update(next) }
}

/// The live object with labels and annotations that it lacks or has otherwise.
fn with_meta(wanted: &Value, live: &Value) -> Value {
    let mut next = live.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            next["metadata"][field][key] = value.clone();
        }
    }
    next
}

fn with_rules(wanted: &Value, live: &Value) -> Value {
    let mut next = with_meta(wanted, live);
    if let Some(selectors) = wanted.pointer("/aggregationRule/clusterRoleSelectors") {
        // The rules of such a role are put together from other roles.
        let have = &live["aggregationRule"]["clusterRoleSelectors"];
        next["aggregationRule"]["clusterRoleSelectors"] = with_items(have, selectors);
        return next;
    }
    let missing = uncovered(&rules(live), &rules(wanted));
    if !missing.is_empty() {
        let mut all = live["rules"].as_array().cloned().unwrap_or_default();
        all.extend(missing.iter().filter_map(|rule| serde_json::to_value(rule).ok()));
        next["rules"] = all.into();
    }
    next
}

/// A list, and the items of another that it lacks.
fn with_items(have: &Value, want: &Value) -> Value {
    let mut all = have.as_array().cloned().unwrap_or_default();
    let missing: Vec<Value> =
        want.as_array().into_iter().flatten().filter(|one| !all.contains(one)).cloned().collect();
    all.extend(missing);
    all.into()
}

fn drop_empty(mut object: Value, field: &str) -> Value {
    if object[field].as_array().is_none_or(Vec::is_empty)
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove(field);
    }
    object
}

/// The rules of a role; what is none gives nothing.
pub fn rules(role: &Value) -> Vec<Rule> {
    let list = role["rules"].as_array().into_iter().flatten();
    list.filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(rules: Value) -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": "r", "labels": {"l": "1"}, "annotations": {}}, "rules": rules})
    }

    fn rule(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": resources, "verbs": verbs})
    }

    #[test]
    fn roles_get_the_rules_they_lack() {
        let wanted = role(json!([rule(&["get", "list"], &["pods"]), rule(&["create"], &["events"])]));
        assert_eq!(reconcile(&wanted, None), Write::Create(wanted.clone()));
        assert_eq!(reconcile(&wanted, Some(&wanted)), Write::Nothing);
        // More than wanted, written in other words.
        let more = role(json!([rule(&["*"], &["pods", "events"])]));
        assert_eq!(reconcile(&wanted, Some(&more)), Write::Nothing);
        // The verbs of one rule stand in two.
        let split = role(json!([
            rule(&["get"], &["pods"]),
            rule(&["list"], &["pods"]),
            rule(&["create"], &["events"])
        ]));
        assert_eq!(reconcile(&wanted, Some(&split)), Write::Nothing);
        let less = role(json!([rule(&["get"], &["pods", "nodes"])]));
        let Write::Update(next) = reconcile(&wanted, Some(&less)) else { panic!("no update") };
        assert_eq!(next["rules"][0], less["rules"][0], "what is there stays");
        assert!(uncovered(&rules(&next), &rules(&wanted)).is_empty());
    }

    #[test]
    fn what_is_marked_is_left_alone() {
        let wanted = role(json!([rule(&["get"], &["pods"])]));
        let mut live = role(json!([]));
        live["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
        assert_eq!(reconcile(&wanted, Some(&live)), Write::Nothing);
        live["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "true".into();
        assert!(matches!(reconcile(&wanted, Some(&live)), Write::Update(_)));
    }

    #[test]
    fn bindings_get_the_subjects_they_lack() {
        let binding = |role: &str, subjects: Value| json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": subjects});
        let (one, two) = (json!({"kind": "User", "name": "1"}), json!({"kind": "User", "name": "2"}));
        let wanted = binding("r", json!([one]));
        assert_eq!(reconcile(&wanted, Some(&binding("r", json!([two, one])))), Write::Nothing);
        assert_eq!(
            reconcile(&wanted, Some(&binding("r", json!([two])))),
            Write::Update(binding("r", json!([two, one])))
        );
        assert_eq!(
            reconcile(&wanted, Some(&binding("other", json!([two])))),
            Write::Replace(binding("r", json!([two, one])))
        );
    }
}
