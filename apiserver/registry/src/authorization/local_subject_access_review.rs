//! LocalSubjectAccessReview: answered, never stored.

use crate::resource::*;
use crate::{NameRule, Strategy};

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

    fn name_rule(&self) -> NameRule {
        NameRule::Unchecked
    }
}
