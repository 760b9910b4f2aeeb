//! ClusterRoleBinding.

use k8s_openapi::api::rbac::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::rules::{check_role_ref, check_subjects};
use crate::Column;
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{items, view};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "clusterrolebinding",
    short_names: &[],
    scope: Scope::Cluster,
    allow_create_on_update: true,
    ..Resource::grouped(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "ClusterRoleBindingList",
        "clusterrolebindings",
    )
};

/// See the module.
pub(crate) struct ClusterRoleBinding;

impl Strategy for ClusterRoleBinding {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::PathSegment).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(binding) = view::<api::ClusterRoleBinding>(obj, &mut errors) else { return errors };
        check_role_ref(&binding.role_ref, RESOURCE.scope, &mut errors);
        check_subjects(items(&binding.subjects), RESOURCE.scope, &mut errors);
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
        super::BINDING_COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        super::binding_cells(obj, now)
    }
}
