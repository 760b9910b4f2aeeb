//! SelfSubjectRulesReview: answered, never stored.

use crate::resource::*;
use crate::{NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "selfsubjectrulesreview",
    ..Resource::review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
};

/// See the module.
pub(crate) struct SelfSubjectRulesReview;

impl Strategy for SelfSubjectRulesReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Unchecked
    }
}
