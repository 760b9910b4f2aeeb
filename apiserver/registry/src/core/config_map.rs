//! ConfigMap.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "configmap",
    short_names: &["cm"],
    ..Resource::core("ConfigMap", "ConfigMapList", "configmaps")
};

/// See the module.
pub(crate) struct ConfigMap;

impl Strategy for ConfigMap {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
