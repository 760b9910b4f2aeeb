//! What is checked and filled in for a kind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use minik_apimachinery::field::ErrorList;
use serde_json::Value;

use crate::meta::{self, MetaRules, NameRule};
use crate::{Column, Resource};

/// What a write goes to: the object itself or one of its subresources that change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The object.
    Main,
    /// `/status`.
    Status,
    /// `/finalize` of a Namespace.
    Finalize,
    /// `/ephemeralcontainers` of a Pod.
    EphemeralContainers,
    /// `/resize` of a Pod.
    Resize,
    /// `/approval` of a CertificateSigningRequest.
    Approval,
}

impl Part {
    /// The part that writes to this subresource change, if there is one.
    pub fn of_subresource(name: &str) -> Option<Self> {
        match name {
            // A `scale` is another face of the object.
            "" | "scale" => Some(Self::Main),
            "status" => Some(Self::Status),
            "finalize" => Some(Self::Finalize),
            "ephemeralcontainers" => Some(Self::EphemeralContainers),
            "resize" => Some(Self::Resize),
            "approval" => Some(Self::Approval),
            _ => None,
        }
    }
}

/// What a strategy may know besides the object.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// The namespace of the request; empty for cluster-wide kinds.
    pub namespace: &'a str,
    /// The user who asks.
    pub user: User<'a>,
}

/// A user as authentication knows one.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The name; empty when nobody is known.
    pub name: &'a str,
    /// The identity in time, often empty.
    pub uid: &'a str,
    /// The groups.
    pub groups: &'a [String],
    /// More, by key.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

/// A refusal that is no list of field errors. Final.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StrategyError {
    /// The fields are wrong: 422 Invalid.
    #[error("{}", .0.aggregate())]
    Invalid(ErrorList),
    /// The request makes no sense for this object: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The object is not in a state that allows it: 409 Conflict.
    #[error("{0}")]
    Conflict(String),
    /// There is nothing left to allocate, or what was asked for is taken: 500 InternalError.
    #[error("{0}")]
    Exhausted(String),
}

/// Why nothing could be allocated. Final for a value that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// Somebody else has it.
    #[error("it is allocated already")]
    Taken,
    /// It is none of those that can be given.
    #[error("it is not in the valid range")]
    OutOfRange,
    /// All are taken.
    #[error("the range is full")]
    Full,
}

/// Gives Services their addresses and ports. One allocator serves one request: when the request fails afterwards, the apiserver
/// takes back what was given; what a successful one no longer holds ([`crate::held_by_service`]) is freed then.
pub trait Allocator {
    /// The families of which the cluster has addresses, the default first: `IPv4`, `IPv6`.
    fn families(&self) -> &[&'static str];

    /// An address of a family: the wanted one, or any.
    ///
    /// # Errors
    /// It cannot be given.
    fn cluster_ip(&mut self, family: &str, wanted: Option<&str>) -> Result<String, AllocationError>;

    /// A port of every node: the wanted one, or any. In a dry run stock refuses a wanted port only when it is taken, not when
    /// it is out of range.
    ///
    /// # Errors
    /// It cannot be given.
    fn node_port(&mut self, wanted: Option<i32>) -> Result<i32, AllocationError>;
}

/// Field selectors' names and values.
pub type SelectableFields<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// What is special about one kind. Objects are normalized, defaulted trees in the storage version; an update's `obj` has had
/// the system's own metadata (uid, creationTimestamp, ...) carried over from `old` already.
pub trait Strategy: Send + Sync {
    /// How the kind is served and stored.
    fn resource(&self) -> &'static Resource;

    /// Gives the object what only one object can have (addresses, ports). Comes before preparation; `old` is what is stored.
    ///
    /// # Errors
    /// Something that was asked for cannot be given.
    fn allocate(
        &self,
        _obj: &mut Value,
        _old: Option<&Value>,
        _allocator: &mut dyn Allocator,
    ) -> Result<(), StrategyError> {
        Ok(())
    }

    /// Drops what a creator cannot set and fills in what a new object starts with (status, generation, conditions).
    fn prepare_create(&self, _obj: &mut Value, _cx: &Context<'_>) {}

    /// How metadata is checked.
    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain)
    }

    /// How metadata is checked when this part changes.
    fn update_meta_rules(&self, part: Part) -> MetaRules {
        let rules = self.meta_rules();
        MetaRules { full_on_update: rules.full_on_update && part == Part::Main, ..rules }
    }

    /// Everything that is wrong with a new object besides its metadata; callers use `dyn Strategy`'s `check_create`.
    fn validate_create(&self, _obj: &Value, _cx: &Context<'_>) -> ErrorList {
        ErrorList::new()
    }

    /// Carries over from `old` what this endpoint does not change, and counts the generation on.
    fn prepare_update(&self, _part: Part, _obj: &mut Value, _old: &Value, _cx: &Context<'_>) {}

    /// Everything that is wrong with a change besides its metadata; callers use `dyn Strategy`'s `check_update`.
    fn validate_update(&self, _part: Part, obj: &Value, _old: &Value, cx: &Context<'_>) -> ErrorList {
        self.validate_create(obj, cx)
    }

    /// Brings a valid object into its one stored form.
    fn canonicalize(&self, _obj: &mut Value) {}

    /// Warning headers for a valid new object.
    fn warnings_on_create(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Warning headers for a valid change.
    fn warnings_on_update(&self, _part: Part, _obj: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Fields that selectors may name besides `metadata.name` and `metadata.namespace`, in the storage version. Every name
    /// stands in the answer for every object: an unknown name is refused by looking at [`Strategy::selectable_names`].
    fn selectable_fields<'a>(&self, _obj: &'a Value) -> SelectableFields<'a> {
        Vec::new()
    }

    /// The names of [`Strategy::selectable_fields`].
    fn selectable_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// The seconds that a graceful deletion takes, when the request asks for `requested`. `None`: at once.
    fn delete_grace(&self, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Turns a tree of `version` as served (the resource's own group) into the storage version.
    fn served_to_stored(&self, _version: &str, _obj: &mut Value) {}

    /// Turns a stored tree into `version` as served.
    fn stored_to_served(&self, _version: &str, _obj: &mut Value) {}

    /// Columns of a Table.
    fn columns(&self) -> &'static [Column] {
        crate::table::DEFAULT_COLUMNS
    }

    /// The cells of an object's row, one a column.
    fn cells(&self, obj: &Value, _now: Timestamp) -> Vec<Value> {
        crate::table::default_cells(obj)
    }

    /// Conditions of an object's row (`Completed` for a Pod that is done).
    fn row_conditions(&self, _obj: &Value) -> Vec<Value> {
        Vec::new()
    }
}

impl dyn Strategy {
    /// Everything that is wrong with a new, prepared object.
    pub fn check_create(&self, obj: &Value, cx: &Context<'_>) -> ErrorList {
        let rules = self.meta_rules();
        let mut errors = self.validate_create(obj, cx);
        if !rules.generic_only || errors.is_empty() {
            errors.extend(meta::validate(obj, self.resource(), rules));
        }
        // Stock looks at some things twice and tells them once.
        errors.dedup();
        errors
    }

    /// Everything that is wrong with a prepared change.
    pub fn check_update(&self, part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        let mut errors = meta::validate_update(obj, old, self.resource(), self.update_meta_rules(part));
        errors.extend(self.validate_update(part, obj, old, cx));
        errors.dedup();
        errors
    }
}
