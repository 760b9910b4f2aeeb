//! SelfSubjectAccessReview: answered, never stored.

use crate::resource::*;
use crate::{NameRule, Strategy};

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

    fn name_rule(&self) -> NameRule {
        NameRule::Unchecked
    }
}
