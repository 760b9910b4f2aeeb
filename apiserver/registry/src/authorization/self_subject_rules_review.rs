//! SelfSubjectRulesReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

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

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
