//! RoleBinding and ClusterRoleBinding.

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::rules::{GROUP, check_role_ref, check_subjects};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{items, str_at, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

/// A kind of bindings.
pub(crate) struct Binding(&'static Resource);

pub(crate) const ROLE_BINDING: Binding = Binding(&Resource {
    singular: "rolebinding",
    allow_create_on_update: true,
    ..Resource::grouped(GROUP, "RoleBinding", "RoleBindingList", "rolebindings")
});

pub(crate) const CLUSTER_ROLE_BINDING: Binding = Binding(&Resource {
    singular: "clusterrolebinding",
    scope: Scope::Cluster,
    allow_create_on_update: true,
    ..Resource::grouped(GROUP, "ClusterRoleBinding", "ClusterRoleBindingList", "clusterrolebindings")
});

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role", "What is allowed."),
    Column::AGE,
    Column::text("Users", "Users to whom it is allowed.").wide(),
    Column::text("Groups", "Groups to whom it is allowed.").wide(),
    Column::text("ServiceAccounts", "ServiceAccounts to whom it is allowed.").wide(),
];

impl Strategy for Binding {
    fn resource(&self) -> &'static Resource {
        self.0
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::PathSegment).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(role) = obj.get("roleRef").and_then(|tree| view(tree, &mut errors)) {
            check_role_ref(&role, self.0.scope, &mut errors);
        }
        let subjects =
            obj.get("subjects").and_then(|tree| view::<Option<Vec<_>>>(tree, &mut errors)).flatten();
        check_subjects(items(&subjects), self.0.scope, &mut errors);
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        let mut errors = self.validate_create(obj, cx);
        if obj.get("roleRef") != old.get("roleRef") {
            errors.push(FieldError::invalid(&Path::new("roleRef"), obj["roleRef"].clone(), IMMUTABLE));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let role = format!("{}/{}", str_at(obj, &["roleRef", "kind"]), str_at(obj, &["roleRef", "name"]));
        let subjects = |kind: &str| -> Value {
            let all = obj["subjects"].as_array().into_iter().flatten();
            let named = all.filter(|one| one["kind"] == kind).map(|one| match kind {
                "ServiceAccount" => format!("{}/{}", str_at(one, &["namespace"]), str_at(one, &["name"])),
                _ => str_at(one, &["name"]).to_owned(),
            });
            named.collect::<Vec<_>>().join(", ").into()
        };
        vec![
            table::name(obj),
            role.into(),
            table::age(obj, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    }
}
