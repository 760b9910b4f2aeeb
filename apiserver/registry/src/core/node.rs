//! Node.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    storage_prefix: Some("minions"),
    ..Resource::core("Node", "NodeList", "nodes")
}
.with_status(&[
    Subresource::other("proxy", Kind::core("NodeProxyOptions"), Verbs::PROXY),
    Subresource::status(Kind::core("Node"), &[&["spec"]]),
]);

/// See the module.
pub(crate) struct Node;

impl Strategy for Node {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
