//! Secret.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource =
    Resource { singular: "secret", short_names: &[], ..Resource::core("Secret", "SecretList", "secrets") };

/// See the module.
pub(crate) struct Secret;

impl Strategy for Secret {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
