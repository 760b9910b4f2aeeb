//! TokenReview: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "tokenreview",
    ..Resource::review("authentication.k8s.io", "TokenReview", "tokenreviews")
};

/// See the module.
pub(crate) struct TokenReview;

impl Strategy for TokenReview {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
