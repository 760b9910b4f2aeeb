//! Reviews: answered, never stored.

use crate::resource::*;
use crate::{MetaRules, NameRule, Strategy};

/// A kind of reviews.
pub(crate) struct Review(&'static Resource);

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

pub(crate) const SELF_SUBJECT: Review = Review(&Resource {
    singular: "selfsubjectreview",
    ..Resource::review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews")
});

pub(crate) const TOKEN: Review = Review(&Resource {
    singular: "tokenreview",
    ..Resource::review(AUTHENTICATION, "TokenReview", "tokenreviews")
});

pub(crate) const LOCAL_SUBJECT_ACCESS: Review = Review(&Resource {
    singular: "localsubjectaccessreview",
    scope: Scope::Namespaced,
    ..Resource::review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews")
});

pub(crate) const SELF_SUBJECT_ACCESS: Review = Review(&Resource {
    singular: "selfsubjectaccessreview",
    ..Resource::review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews")
});

pub(crate) const SELF_SUBJECT_RULES: Review = Review(&Resource {
    singular: "selfsubjectrulesreview",
    ..Resource::review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews")
});

pub(crate) const SUBJECT_ACCESS: Review = Review(&Resource {
    singular: "subjectaccessreview",
    ..Resource::review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews")
});

impl Strategy for Review {
    fn resource(&self) -> &'static Resource {
        self.0
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Unchecked)
    }
}
