//! The verbs, each implemented once over a resource's description and strategy.
//!
//! Writes take trees of the served version, already decoded; they answer with bytes at rest, which the caller brings into
//! the form that was asked for. Nothing here knows HTTP.

mod change;
pub(crate) use change::Made;
mod create;
mod delete;
mod evict;
mod pods;
mod read;
mod scale;

pub(crate) use delete::invalid_options;
pub use delete::{DeleteOptions, Deleted, Preconditions, Propagation};

pub use read::{Age, ListOptions, Selection};
pub(crate) use read::{invalid_list_options, revision};

use crate::admission::{Attributes, Operation, Warnings};
use crate::api::Api;
use crate::authn::UserInfo;
use crate::body::FieldValidation;
use crate::error::{ApiError, Result};
use crate::served::Served;
use crate::world::store_error;
use bytes::Bytes;
use jiff::Timestamp;
use minik_registry::{Context, StrategyError};
use minik_storage::{Record, Revision};
use serde_json::Value;
use std::sync::Arc;

/// What a request is about.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The resource and version.
    pub served: &'a Served,
    /// The namespace, empty for cluster-wide kinds (and for all namespaces of a collection).
    pub namespace: &'a str,
    /// The name, empty for a collection.
    pub name: &'a str,
    /// The subresource, empty for none.
    pub subresource: &'a str,
}

impl Target<'_> {
    /// It does not exist.
    pub fn not_found(&self) -> ApiError {
        ApiError::NotFound(self.served.named(self.name))
    }

    /// It is not as the request expects.
    pub fn conflict(&self, why: impl Into<String>) -> ApiError {
        ApiError::Conflict { on: self.served.named(self.name), why: why.into() }
    }
}

/// Who writes, and how.
#[derive(Clone)]
pub struct WriteOptions {
    /// Who.
    pub user: UserInfo,
    /// The name that changed fields are owned under.
    pub manager: String,
    /// Everything but the write itself.
    pub dry_run: bool,
    /// What happens with unknown fields.
    pub validation: FieldValidation,
    /// Takes over fields that others own (server-side apply).
    pub force: bool,
    /// The time.
    pub now: Timestamp,
    /// The request's own options as admission sees them.
    pub options: Value,
    /// Where warnings for the client go; they are told whether the write succeeds or not.
    pub warnings: Arc<Warnings>,
}

impl WriteOptions {
    /// Plain options of a user at a time.
    pub fn of(user: UserInfo, manager: &str, now: Timestamp) -> WriteOptions {
        WriteOptions {
            user,
            manager: manager.to_owned(),
            dry_run: false,
            validation: FieldValidation::Ignore,
            force: false,
            now,
            options: Value::Null,
            warnings: Arc::default(),
        }
    }
}

impl WriteOptions {
    /// What strategies may know of the request.
    pub(crate) fn context<'a>(&'a self, namespace: &'a str) -> Context<'a> {
        let UserInfo { name, uid, groups, extra } = &self.user;
        Context { now: self.now, namespace, user: minik_registry::User { name, uid, groups, extra } }
    }
}

/// A decoded object of the served version, and what was found odd about it.
pub struct Input {
    /// The tree, normalized.
    pub object: Value,
    /// Unknown and duplicate fields.
    pub findings: Vec<String>,
}

/// What a write came to.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object at rest, in the storage version.
    pub value: Bytes,
    /// Its revision; `None` for what was only tried.
    pub revision: Option<Revision>,
    /// Whether it came to be.
    pub created: bool,
}

/// Everything that a step of a write needs.
pub(crate) struct Step<'a> {
    pub target: Target<'a>,
    pub options: &'a WriteOptions,
    warnings: &'a Warnings,
}

impl<'a> Step<'a> {
    fn new(target: Target<'a>, options: &'a WriteOptions) -> Step<'a> {
        // What an earlier try warned of is told by the next one again.
        drop(options.warnings.take());
        Step { target, options, warnings: &options.warnings }
    }

    fn context(&self) -> Context<'a> {
        self.options.context(self.target.namespace)
    }

    fn attributes<'b>(
        &'b self,
        api: &'b Api,
        operation: Operation,
        name: &'b str,
        old: Option<&'b Value>,
    ) -> Attributes<'b> {
        Attributes {
            user: &self.options.user,
            resource: self.target.served.resource,
            version: self.target.served.version,
            subresource: self.target.subresource,
            operation,
            namespace: self.target.namespace,
            name,
            dry_run: self.options.dry_run,
            old,
            options: &self.options.options,
            now: self.options.now,
            chance: api.chance(),
            warnings: self.warnings,
        }
    }

    fn invalid(&self, name: &str, errors: minik_apimachinery::field::ErrorList) -> ApiError {
        ApiError::Invalid { on: self.target.served.named_kind(name), errors }
    }

    fn strategy_error(&self, name: &str, error: StrategyError) -> ApiError {
        match error {
            StrategyError::Invalid(errors) => self.invalid(name, errors),
            StrategyError::BadRequest(why) => ApiError::BadRequest(why),
            StrategyError::Conflict(why) => ApiError::Conflict { on: self.target.served.named(name), why },
            StrategyError::Exhausted(why) => ApiError::Internal(why),
        }
    }
}

impl Api {
    /// What is stored under a name, now.
    async fn stored(&self, target: &Target<'_>) -> Result<Record> {
        let key = self.key(target)?;
        let record = self.world().storage().get(&key).await.map_err(|error| store_error(&error))?;
        let mut record = record.ok_or_else(|| target.not_found())?;
        record.value = crate::wire::at_rest(record.value)
            .map_err(|error| ApiError::Internal(format!("a stored object cannot be read: {error}")))?;
        Ok(record)
    }

    /// The key of an object.
    fn key(&self, target: &Target<'_>) -> Result<String> {
        let folder = target.served.folder().ok_or(ApiError::MethodNotAllowed)?;
        if target.served.resource.namespaced() && target.namespace.is_empty() {
            return Err(ApiError::BadRequest("namespace is required".into()));
        }
        Ok(self.world().key(folder, target.namespace, target.name))
    }
}
