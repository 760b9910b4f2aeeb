//! ClusterRole.

use crate::resource::*;
use crate::{NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "clusterrole",
    short_names: &[],
    scope: Scope::Cluster,
    allow_create_on_update: true,
    ..Resource::grouped("rbac.authorization.k8s.io", "ClusterRole", "ClusterRoleList", "clusterroles")
};

/// See the module.
pub(crate) struct ClusterRole;

impl Strategy for ClusterRole {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
