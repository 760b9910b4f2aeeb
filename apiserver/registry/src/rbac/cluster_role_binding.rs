//! ClusterRoleBinding.

use crate::resource::*;
use crate::{NameRule, Strategy};

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

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
