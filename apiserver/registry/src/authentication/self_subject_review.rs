//! SelfSubjectReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "selfsubjectreview",
    ..Resource::review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews")
};

/// See the module.
pub(crate) struct SelfSubjectReview;

impl Strategy for SelfSubjectReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
