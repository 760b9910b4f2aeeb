//! Rules about `metadata`, the same for every kind.

use minik_apimachinery::field::ErrorList;
use serde_json::Value;

use crate::Resource;

/// Which names objects of a kind may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Lower-case labels joined by dots, 253 characters in all.
    DnsSubdomain,
    /// One lower-case label of 63 characters.
    DnsLabel,
    /// One lower-case label of 63 characters that begins with a letter.
    Dns1035Label,
    /// Whatever can stand in a path (RBAC).
    PathSegment,
    /// Objects are answered and not stored: there is no name to check.
    Unchecked,
}

/// What is wrong with the metadata of a new object.
pub fn validate(_obj: &Value, _resource: &Resource, _rule: NameRule) -> ErrorList {
    ErrorList::new()
}

/// What is wrong with changed metadata.
pub fn validate_update(_obj: &Value, _old: &Value, _resource: &Resource, _rule: NameRule) -> ErrorList {
    ErrorList::new()
}
