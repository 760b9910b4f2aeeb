//! SubjectAccessReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "subjectaccessreview",
    ..Resource::review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews")
};

/// See the module.
pub(crate) struct SubjectAccessReview;

impl Strategy for SubjectAccessReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
