//! The server's own writes: objects of a new cluster, and what follows the live servers.

use crate::api::Api;
use crate::authn::{MASTERS, UserInfo};
use crate::error::{ApiError, Result};
use crate::object::Object;
use crate::verbs::{DeleteOptions, Input, Preconditions, Target, WriteOptions};
use crate::wire;
use minik_apimachinery::decode;
use serde_json::Value;

/// The name that the server's own changes are owned under.
const MANAGER: &str = "kube-apiserver";

/// Where an object is: group, version, plural, namespace (empty for cluster-wide kinds).
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The group, empty for the core.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The plural.
    pub plural: &'a str,
    /// The namespace.
    pub namespace: &'a str,
}

/// Writes as the server itself, which may do anything; everything else is as for any client.
#[derive(Clone)]
pub struct Loopback(Api);

impl Loopback {
    /// Over this API.
    pub fn new(api: Api) -> Loopback {
        Loopback(api)
    }

    fn options(&self) -> WriteOptions {
        WriteOptions::of(UserInfo::known("system:apiserver", &[MASTERS]), MANAGER, self.0.now())
    }

    fn target<'a>(&'a self, place: Place<'a>, name: &'a str) -> Result<Target<'a>> {
        let served = self.0.served(place.group, place.version, place.plural).ok_or(ApiError::NoSuchPath)?;
        Ok(Target { served, namespace: place.namespace, name, subresource: "" })
    }

    fn input(&self, target: &Target<'_>, object: Value) -> Result<Input> {
        let decoded = decode::normalize(object, target.served.ty)
            .map_err(|error| ApiError::BadRequest(error.to_string()))?;
        Ok(Input { object: decoded.value, findings: decoded.findings })
    }

    /// The stored object with its resourceVersion, as it is now.
    ///
    /// # Errors
    /// The store's; an object that is not there is `None`.
    pub async fn get(&self, place: Place<'_>, name: &str) -> Result<Option<Value>> {
        let target = self.target(place, name)?;
        match self.0.get(&target, crate::verbs::Age::Latest).await {
            Ok(item) => wire::tree(&item.value, Some(item.revision)).map(Some),
            Err(ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an object with apiVersion, kind and `metadata.name`; gives what is stored.
    ///
    /// # Errors
    /// As for any client; [`ApiError::AlreadyExists`] among them.
    pub async fn create(&self, place: Place<'_>, object: Value) -> Result<Value> {
        let target = self.target(place, "")?;
        let input = self.input(&target, object)?;
        let written = self.0.create(target, input, &self.options()).await?;
        wire::tree(&written.value, written.revision)
    }

    /// Replaces an object; with a resourceVersion only what was read.
    ///
    /// # Errors
    /// As for any client; [`ApiError::Conflict`] among them.
    pub async fn update(&self, place: Place<'_>, object: Value) -> Result<Value> {
        let name = object.meta("name").to_owned();
        let target = self.target(place, &name)?;
        let input = self.input(&target, object)?;
        let written = self.0.update(target, input, &self.options()).await?;
        wire::tree(&written.value, written.revision)
    }

    /// Replaces what a subresource (`status`) writes.
    ///
    /// # Errors
    /// As for any client.
    pub async fn update_part(&self, place: Place<'_>, subresource: &str, object: Value) -> Result<Value> {
        let name = object.meta("name").to_owned();
        let target = Target { subresource, ..self.target(place, &name)? };
        let input = self.input(&target, object)?;
        let written = self.0.update(target, input, &self.options()).await?;
        wire::tree(&written.value, written.revision)
    }

    /// Deletes the object of this uid.
    ///
    /// # Errors
    /// As for any client; [`ApiError::Conflict`] when it is another.
    pub async fn delete_one(&self, place: Place<'_>, name: &str, uid: &str) -> Result<()> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let how = DeleteOptions { preconditions, ..DeleteOptions::default() };
        self.0.delete(self.target(place, name)?, &how, &self.options()).await.map(drop)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As for any client.
    pub async fn delete(&self, place: Place<'_>, name: &str) -> Result<()> {
        let target = self.target(place, name)?;
        self.0.delete(target, &DeleteOptions::default(), &self.options()).await.map(drop)
    }
}
