//! Role.

use crate::resource::*;
use crate::{NameRule, Strategy};

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

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
