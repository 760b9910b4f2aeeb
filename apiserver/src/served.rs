//! What is served: each resource in each version, found by its path.

use crate::error::{ApiError, Named, Result};
use crate::request::ResourcePath;
use minik_apimachinery::facts::{self, TypeId};
use minik_registry::{Resource, Strategy};
use serde_json::Value;

/// A resource in one version.
pub struct Served {
    /// What is special about the kind.
    pub strategy: &'static dyn Strategy,
    /// How it is served and stored.
    pub resource: &'static Resource,
    /// The version.
    pub version: &'static str,
    /// `apiVersion` as it is served.
    pub api_version: String,
    /// The facts of the kind as it is served.
    pub ty: TypeId,
    /// Whether it is stored as it is served.
    pub native: bool,
    /// Numbers this among all that is served, for forms that are shared.
    pub number: u32,
}

impl Served {
    /// Everything that is served.
    ///
    /// # Errors
    /// When the fact tables lack a kind of the registry, which is a defect.
    pub fn all() -> Result<Vec<Served>> {
        let mut all = Vec::new();
        for strategy in minik_registry::all() {
            let resource = strategy.resource();
            for version in resource.versions {
                all.push(Served::one(*strategy, version, all.len() as u32)?);
            }
        }
        Ok(all)
    }

    /// The Scale, which is served below others.
    ///
    /// # Errors
    /// As for [`Served::all`].
    pub fn scale(number: u32) -> Result<Served> {
        Served::one(minik_registry::SCALE, minik_registry::SCALE.resource().versions[0], number)
    }

    fn one(strategy: &'static dyn Strategy, version: &'static str, number: u32) -> Result<Served> {
        let resource = strategy.resource();
        let kind = resource.kind_in(version);
        let api_version = kind.api_version();
        let ty = facts::kind(&api_version, resource.kind)
            .ok_or_else(|| ApiError::Internal(format!("no facts of {} in {api_version}", resource.kind)))?;
        let native = kind == resource.storage;
        Ok(Served { strategy, resource, version, api_version, ty, native, number })
    }

    /// Whether a path is this resource's.
    pub fn is_at(&self, path: &ResourcePath) -> bool {
        self.resource.plural == path.resource
            && self.resource.group == path.group
            && self.version == path.version
    }

    /// The object's name in an error.
    pub fn named(&self, name: &str) -> Named {
        Named { group: self.resource.group.into(), kind: self.resource.plural.into(), name: name.into() }
    }

    /// The object's name in an error about its fields.
    pub fn named_kind(&self, name: &str) -> Named {
        Named { group: self.resource.group.into(), kind: self.resource.kind.into(), name: name.into() }
    }

    /// A stored tree as it is served.
    pub fn to_served(&self, object: &mut Value) {
        if !self.native {
            self.strategy.stored_to_served(self.version, object);
        }
    }

    /// A served tree as it is stored.
    pub fn to_stored(&self, object: &mut Value) {
        self.strategy.served_to_stored(self.version, object);
    }

    /// Where the kind's objects are, below the store's prefix, for kinds that are stored.
    pub fn folder(&self) -> Option<&'static str> {
        self.resource.storage_prefix
    }

    /// Whether a name after the resource is one of its subresources.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.resource.subresource(name).is_some()
    }
}
