//! Role and ClusterRole.

use k8s_openapi::api::rbac::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::rules::{GROUP, check_rules};
use crate::resource::*;
use crate::selector::check_label_selector;
use crate::view::{items, try_view, view};
use crate::{Context, MetaRules, NameRule, Part, Strategy};

/// A kind of roles.
pub(crate) struct Role(&'static Resource);

pub(crate) const ROLE: Role = Role(&Resource {
    singular: "role",
    allow_create_on_update: true,
    ..Resource::grouped(GROUP, "Role", "RoleList", "roles")
});

pub(crate) const CLUSTER_ROLE: Role = Role(&Resource {
    singular: "clusterrole",
    scope: Scope::Cluster,
    allow_create_on_update: true,
    ..Resource::grouped(GROUP, "ClusterRole", "ClusterRoleList", "clusterroles")
});

impl Strategy for Role {
    fn resource(&self) -> &'static Resource {
        self.0
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::PathSegment).full_on_update()
    }

    fn validate_create(&self, obj: &Value, cx: &Context<'_>) -> ErrorList {
        self.validate_update(Part::Main, obj, &Value::Null, cx)
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let rules = obj.get("rules").and_then(|tree| view::<Option<Vec<_>>>(tree, &mut errors)).flatten();
        check_rules(items(&rules), self.0.scope, &mut errors);
        // Only a ClusterRole has one.
        if let Some(rule) = obj.get("aggregationRule").and_then(|tree| view(tree, &mut errors)) {
            check_aggregation(&rule, selectors_were_wrong(old), &mut errors);
        }
        errors
    }
}

/// What was wrong before may stay.
fn selectors_were_wrong(old: &Value) -> bool {
    let mut errors = ErrorList::new();
    if let Some(rule) = old.get("aggregationRule").and_then(try_view::<api::AggregationRule>) {
        for selector in items(&rule.cluster_role_selectors) {
            check_label_selector(Some(selector), false, &Path::root(), &mut errors);
        }
    }
    !errors.is_empty()
}

fn check_aggregation(rule: &api::AggregationRule, allow_values: bool, errors: &mut ErrorList) {
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = items(&rule.cluster_role_selectors);
    if selectors.is_empty() {
        errors.push(FieldError::required(&path, "an aggregation rule needs a selector"));
    }
    for (i, selector) in selectors.iter().enumerate() {
        let at = path.index(i);
        let before = errors.len();
        check_label_selector(Some(selector), allow_values, &at, errors);
        // What is wrong with a part makes the selector useless as a whole.
        let mut strict = ErrorList::new();
        check_label_selector(Some(selector), false, &at, &mut strict);
        if errors.len() > before || !strict.is_empty() {
            errors.push(FieldError::invalid(&at, Value::Null, "must be a label selector"));
        }
    }
}
