//! SelfSubjectReview: answered, never stored.

use crate::resource::*;
use crate::{NameRule, Strategy};

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

    fn name_rule(&self) -> NameRule {
        NameRule::Unchecked
    }
}
