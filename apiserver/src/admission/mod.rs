//! Admission: what looks at a write after authorization, changes it, and can refuse it
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>).
//!
//! The chain is walked twice: first all plugins may change the object, then, when it is complete and valid, all may
//! refuse it. Objects are trees in the storage version; what other objects say is read through [`crate::world::View`].

mod certificates;
mod escalation;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod objects;
mod pod_security;
mod priority;
mod references;
mod runtime_class;
mod service_account;
mod tolerations;
mod topology;

pub use escalation::Rights;
pub use objects::Objects;

use crate::authn::UserInfo;
use crate::error::ApiError;
use minik_component::Chance;
use minik_registry::Resource;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An object comes to be.
    Create,
    /// An object changes.
    Update,
    /// An object goes; there is no new state, `old` is the last one.
    Delete,
    /// Something is opened (exec, attach, port forwarding, proxies).
    Connect,
}

/// Warnings for the client, gathered over the chain.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Adds one.
    pub fn push(&self, warning: String) {
        // A list of texts is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// All of them, which are taken out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What plugins know of a request.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// On what kind of object.
    pub resource: &'static Resource,
    /// In which version it was asked for.
    pub version: &'a str,
    /// Through which subresource, empty for none. The object is then what was sent to it (`Binding`, `Eviction`,
    /// `TokenRequest`), or for `status` and the like the whole object.
    pub subresource: &'a str,
    /// What is done.
    pub operation: Operation,
    /// The namespace, empty for cluster-wide kinds.
    pub namespace: &'a str,
    /// The object's name; empty when it is generated later.
    pub name: &'a str,
    /// Nothing will be stored: no side effects.
    pub dry_run: bool,
    /// The stored state, for updates and deletions.
    pub old: Option<&'a Value>,
    /// The options of the request (`DeleteOptions` for deletions), or null.
    pub options: &'a Value,
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// Chance, for generated names.
    pub chance: &'a dyn Chance,
    /// Where warnings go.
    pub warnings: &'a Warnings,
}

/// A plugin. Both walks do nothing unless it says otherwise.
pub trait Admission: Send + Sync {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// May change the object, which is null for deletions.
    ///
    /// # Errors
    /// The request is refused.
    fn admit(&self, _attributes: &Attributes<'_>, _object: &mut Value) -> Result<(), ApiError> {
        Ok(())
    }

    /// May refuse the object, which is null for deletions.
    ///
    /// # Errors
    /// The request is refused.
    fn validate(&self, _attributes: &Attributes<'_>, _object: &Value) -> Result<(), ApiError> {
        Ok(())
    }
}

/// The plugins in order.
#[derive(Default)]
pub struct Chain(Vec<Box<dyn Admission>>);

impl Chain {
    /// A chain of these.
    pub fn new(plugins: Vec<Box<dyn Admission>>) -> Chain {
        Chain(plugins)
    }

    /// Lets all change the object.
    ///
    /// # Errors
    /// The first refusal.
    pub fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        self.0.iter().try_for_each(|plugin| plugin.admit(attributes, object))
    }

    /// Lets all look at the object.
    ///
    /// # Errors
    /// The first refusal.
    pub fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        self.0.iter().try_for_each(|plugin| plugin.validate(attributes, object))
    }
}

/// The plugins that are always on, in upstream's order; last what upstream's storage of roles checks itself.
pub fn plugins(view: &crate::world::View, rights: Arc<dyn Rights>) -> Chain {
    chain(Arc::new(view.clone()), rights)
}

fn chain(objects: Arc<dyn Objects>, rights: Arc<dyn Rights>) -> Chain {
    Chain::new(vec![
        Box::new(namespace_lifecycle::NamespaceLifecycle(objects.clone())),
        Box::new(service_account::ServiceAccount(objects.clone())),
        Box::new(node_restriction::NodeRestriction(objects.clone())),
        Box::new(node_taint::TaintNodesByCondition),
        Box::new(pod_security::PodSecurity(objects.clone())),
        Box::new(priority::Priority(objects.clone())),
        Box::new(tolerations::DefaultTolerationSeconds),
        Box::new(runtime_class::RuntimeClass(objects.clone())),
        Box::new(topology::PodTopologyLabels(objects)),
        Box::new(certificates::CertificateApproval(rights.clone())),
        Box::new(certificates::CertificateSigning(rights.clone())),
        Box::new(certificates::CertificateSubjectRestriction),
        Box::new(escalation::NoEscalation(rights)),
    ])
}

#[cfg(test)]
mod tests;
