//! ServiceAccount.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource::other(
        "token",
        Kind { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" },
        Verbs::CREATE,
    )],
    ..Resource::core("ServiceAccount", "ServiceAccountList", "serviceaccounts")
};

/// See the module.
pub(crate) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
