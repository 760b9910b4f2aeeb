//! EndpointSlice.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "endpointslice",
    short_names: &[],
    ..Resource::grouped("discovery.k8s.io", "EndpointSlice", "EndpointSliceList", "endpointslices")
};

/// See the module.
pub(crate) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
