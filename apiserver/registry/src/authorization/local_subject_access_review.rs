//! LocalSubjectAccessReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "localsubjectaccessreview",
    scope: Scope::Namespaced,
    ..Resource::review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews")
};

/// See the module.
pub(crate) struct LocalSubjectAccessReview;

impl Strategy for LocalSubjectAccessReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
