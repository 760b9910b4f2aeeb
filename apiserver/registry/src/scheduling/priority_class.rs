//! PriorityClass.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "priorityclass",
    short_names: &["pc"],
    scope: Scope::Cluster,
    ..Resource::grouped("scheduling.k8s.io", "PriorityClass", "PriorityClassList", "priorityclasses")
};

/// See the module.
pub(crate) struct PriorityClass;

impl Strategy for PriorityClass {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
