//! Lease.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "lease",
    short_names: &[],
    allow_create_on_update: true,
    allow_unconditional_update: false,
    ..Resource::grouped("coordination.k8s.io", "Lease", "LeaseList", "leases")
};

/// See the module.
pub(crate) struct Lease;

impl Strategy for Lease {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
