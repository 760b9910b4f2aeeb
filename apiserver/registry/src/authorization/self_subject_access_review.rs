//! SelfSubjectAccessReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "selfsubjectaccessreview",
    ..Resource::review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
};

/// See the module.
pub(crate) struct SelfSubjectAccessReview;

impl Strategy for SelfSubjectAccessReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
