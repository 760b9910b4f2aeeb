//! RoleBinding.

use crate::resource::*;
use crate::{NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "rolebinding",
    short_names: &[],
    allow_create_on_update: true,
    ..Resource::grouped("rbac.authorization.k8s.io", "RoleBinding", "RoleBindingList", "rolebindings")
};

/// See the module.
pub(crate) struct RoleBinding;

impl Strategy for RoleBinding {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
