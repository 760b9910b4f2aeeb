//! Pod.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    delete: DeleteStyle::Graceful,
    ..Resource::core("Pod", "PodList", "pods")
}
.with_status(&[
    Subresource::other("attach", Kind::core("PodAttachOptions"), CONNECT),
    Subresource::other("binding", Kind::core("Binding"), Verbs::CREATE),
    Subresource {
        reset_fields: FieldFilter::IncludeOnly(&[&["spec", "ephemeralContainers"]]),
        ..Subresource::other("ephemeralcontainers", Kind::core("Pod"), Verbs::STATUS)
    },
    Subresource::other("eviction", Kind { group: "policy", version: "v1", kind: "Eviction" }, Verbs::CREATE),
    Subresource::other("exec", Kind::core("PodExecOptions"), CONNECT),
    Subresource::other("log", Kind::core("Pod"), Verbs::of(&[Verb::Get])),
    Subresource::other("portforward", Kind::core("PodPortForwardOptions"), CONNECT),
    Subresource::other("proxy", Kind::core("PodProxyOptions"), Verbs::PROXY),
    Subresource {
        reset_fields: FieldFilter::IncludeOnly(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
        ]),
        ..Subresource::other("resize", Kind::core("Pod"), Verbs::STATUS)
    },
    Subresource::status(
        Kind::core("Pod"),
        &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
    ),
]);

/// What opens a stream into a Pod.
const CONNECT: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);

/// See the module.
pub(crate) struct Pod;

impl Strategy for Pod {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
