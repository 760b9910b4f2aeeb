//! NamespaceLifecycle: nothing is made in a namespace that is missing or being deleted, and some namespaces stay.

use super::objects::{Objects, forbidden, missing, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::Value;
use std::sync::Arc;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// See the module.
pub struct NamespaceLifecycle(pub Arc<dyn Objects>);

impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        self.check(attributes, object)
    }

    // Deletions are only validated.
    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete { self.check(attributes, object) } else { Ok(()) }
    }
}

impl NamespaceLifecycle {
    fn check(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let is_namespace = attributes.resource.kind == "Namespace" && attributes.resource.group.is_empty();
        if is_namespace {
            let deletes = attributes.operation == Operation::Delete;
            if deletes && IMMORTAL.contains(&attributes.name) {
                return Err(forbidden(attributes, object, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let namespace = attributes.namespace;
        let asks_only = attributes.resource.kind == "LocalSubjectAccessReview";
        if namespace.is_empty() || attributes.operation == Operation::Delete || asks_only {
            return Ok(());
        }
        let found = self.0.get("namespaces", "", namespace);
        let found = found.ok_or_else(|| missing("namespaces", namespace))?;
        if attributes.operation != Operation::Create || text(&found, "/status/phase") != "Terminating" {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        match forbidden(attributes, object, why) {
            ApiError::Forbidden { on, message } => Err(ApiError::Terminating {
                on,
                message,
                cause: format!("namespace {namespace} is being terminated"),
            }),
            other => Err(other),
        }
    }
}
