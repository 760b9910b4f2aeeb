//! Service.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    storage_prefix: Some("services/specs"),
    ..Resource::core("Service", "ServiceList", "services")
}
.with_status(&[
    Subresource::other("proxy", Kind::core("ServiceProxyOptions"), Verbs::PROXY),
    Subresource::status(Kind::core("Service"), &[&["spec"]]),
]);

/// See the module.
pub(crate) struct Service;

impl Strategy for Service {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsLabel)
    }
}
