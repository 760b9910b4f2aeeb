//! Namespace.

use crate::resource::*;
use crate::{NameRule, Strategy};

const RESOURCE: Resource = Resource {
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    verbs: Verbs::ALL.without(Verb::DeleteCollection),
    delete: DeleteStyle::SpecFinalizers,
    ..Resource::core("Namespace", "NamespaceList", "namespaces")
}
.with_status(&[
    Subresource {
        reset_fields: FieldFilter::Exclude(&[&["status"]]),
        ..Subresource::other("finalize", Kind::core("Namespace"), Verbs::of(&[Verb::Update]))
    },
    Subresource::status(Kind::core("Namespace"), &[&["spec"]]),
]);

/// See the module.
pub(crate) struct Namespace;

impl Strategy for Namespace {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }
}
