//! Role.

use k8s_openapi::api::rbac::v1 as api;
use minik_apimachinery::field::ErrorList;
use serde_json::Value;

use super::rules::check_rules;
use crate::resource::*;
use crate::view::{items, view};
use crate::{Context, MetaRules, NameRule, Part, Strategy};

const RESOURCE: Resource = Resource {
    singular: "role",
    short_names: &[],
    allow_create_on_update: true,
    ..Resource::grouped("rbac.authorization.k8s.io", "Role", "RoleList", "roles")
};

/// See the module.
pub(crate) struct Role;

impl Strategy for Role {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::PathSegment).full_on_update()
    }

    fn validate_create(&self, obj: &Value, cx: &Context<'_>) -> ErrorList {
        self.validate_update(Part::Main, obj, &Value::Null, cx)
    }

    fn validate_update(&self, _part: Part, obj: &Value, _old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(role) = view::<api::Role>(obj, &mut errors) else { return errors };
        check_rules(items(&role.rules), RESOURCE.scope, &mut errors);
        errors
    }
}
