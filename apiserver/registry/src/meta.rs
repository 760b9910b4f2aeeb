//! Rules about `metadata`, the same for every kind.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::Resource;
use crate::format::{self, Faults, invalid};
use crate::view::{at, items, text, try_view, view, yes};

/// Annotations of one object, keys and values together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
const FIELD_MANAGER_MAX_BYTES: usize = 128;
const SUBRESOURCE_MAX_BYTES: usize = 256;

/// Which names objects of a kind may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Lower-case labels joined by dots, 253 characters in all.
    DnsSubdomain,
    /// One lower-case label of 63 characters.
    DnsLabel,
    /// An IP address in its one canonical form.
    Address,
    /// Whatever can stand in a path (RBAC).
    PathSegment,
    /// Objects are answered and not stored: there is no name to check.
    Unchecked,
}

impl NameRule {
    /// What is wrong with a name.
    pub(crate) fn faults(self, name: &str) -> Faults {
        match self {
            Self::DnsSubdomain => format::dns_subdomain(name),
            Self::DnsLabel => format::dns_label(name),
            Self::Address => match name.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.to_string() == name => Faults::new(),
                _ => vec!["must be an IP address in canonical form".into()],
            },
            Self::PathSegment => format::path_segment(name),
            Self::Unchecked => Faults::new(),
        }
    }

    /// What is wrong with the beginning of a name, to which random letters will be added.
    fn prefix_faults(self, prefix: &str) -> Faults {
        // What stands before the added letters may end in a dash.
        let masked = match prefix.strip_suffix('-') {
            Some(rest) if prefix.len() > 1 => {
                let mut s = rest.to_owned();
                s.pop();
                s.push('a');
                s
            }
            _ => prefix.to_owned(),
        };
        match self {
            Self::PathSegment => format::path_segment(prefix),
            rule => rule.faults(&masked),
        }
    }
}

/// How a kind's metadata is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaRules {
    /// Names.
    pub name: NameRule,
    /// Only the rules that hold for every kind: names are path segments, finalizers need no domain; looked at when the
    /// rest of a new object is right.
    pub generic_only: bool,
    /// Finalizers need no domain.
    pub bare_finalizers: bool,
    /// Changes are checked as new objects are, too, besides the rules for changes (which doubles some causes).
    pub full_on_update: bool,
}

impl MetaRules {
    /// The usual rules with this name rule.
    pub const fn new(name: NameRule) -> Self {
        Self { name, generic_only: false, bare_finalizers: false, full_on_update: false }
    }

    /// With the rules of creation on changes as well.
    #[must_use]
    pub const fn full_on_update(self) -> Self {
        Self { full_on_update: true, ..self }
    }
}

/// What is wrong with the metadata of a new object.
pub(crate) fn validate(obj: &Value, resource: &Resource, rules: MetaRules) -> ErrorList {
    let mut errors = ErrorList::new();
    if rules.name == NameRule::Unchecked {
        return errors;
    }
    let Some(meta) = metadata(obj, &mut errors) else { return errors };
    check_new(&meta, resource, rules.name, &mut errors);
    if !rules.generic_only && !rules.bare_finalizers {
        check_kube_finalizers(&meta, &mut errors);
    }
    errors
}

/// What is wrong with changed metadata.
pub(crate) fn validate_update(obj: &Value, old: &Value, resource: &Resource, rules: MetaRules) -> ErrorList {
    let mut errors = ErrorList::new();
    if rules.name == NameRule::Unchecked {
        return errors;
    }
    let Some(meta) = metadata(obj, &mut errors) else { return errors };
    let old_meta = at(old, &["metadata"]).and_then(try_view::<ObjectMeta>).unwrap_or_default();
    check_new(&meta, resource, NameRule::PathSegment, &mut errors);
    check_change(&meta, &old_meta, &mut errors);
    if rules.generic_only {
        return errors;
    }
    // Every kind checks the change once more in its own name: causes of such faults are counted twice.
    check_change(&meta, &old_meta, &mut errors);
    if !rules.bare_finalizers {
        check_kube_finalizers(&meta, &mut errors);
    }
    if rules.full_on_update {
        check_new(&meta, resource, rules.name, &mut errors);
        check_kube_finalizers(&meta, &mut errors);
    }
    errors
}

fn metadata(obj: &Value, errors: &mut ErrorList) -> Option<ObjectMeta> {
    match obj.get("metadata") {
        Some(meta) => view(meta, errors),
        None => Some(ObjectMeta::default()),
    }
}

fn check_new(meta: &ObjectMeta, resource: &Resource, rule: NameRule, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    if let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty()) {
        invalid(rule.prefix_faults(prefix), prefix, &path.child("generateName"), errors);
    }
    let name = text(&meta.name);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName must be given"));
    } else {
        invalid(rule.faults(name), name, &path.child("name"), errors);
    }
    let namespace = text(&meta.namespace);
    let namespace_path = path.child("namespace");
    if !resource.namespaced() {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(&namespace_path, "objects of this kind have no namespace"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(&namespace_path, ""));
    } else {
        invalid(format::dns_label(namespace), namespace, &namespace_path, errors);
    }
    check_nonnegative(meta.generation.unwrap_or(0), &path.child("generation"), errors);
    check_common(meta, &path, errors);
    check_finalizers(items(&meta.finalizers), &path.child("finalizers"), errors);
}

/// What new and changed objects have in common.
fn check_common(meta: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    if let Some(labels) = &meta.labels {
        check_labels(labels, &path.child("labels"), errors);
    }
    if let Some(annotations) = &meta.annotations {
        check_annotations(annotations, &path.child("annotations"), errors);
    }
    check_owners(items(&meta.owner_references), &path.child("ownerReferences"), errors);
    check_managed_fields(items(&meta.managed_fields), &path.child("managedFields"), errors);
}

fn check_change(meta: &ObjectMeta, old: &ObjectMeta, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    if old.deletion_timestamp.is_some() {
        let added: Vec<&str> = items(&meta.finalizers)
            .iter()
            .filter(|f| !items(&old.finalizers).contains(f))
            .map(String::as_str)
            .collect();
        if !added.is_empty() {
            let detail = format!("the object is being deleted: no finalizer may be added, found {added:?}");
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if text(&meta.resource_version).is_empty() {
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", "must be given for an update"));
    }
    let generation = meta.generation.unwrap_or(0);
    check_nonnegative(generation, &path.child("generation"), errors);
    if generation < old.generation.unwrap_or(0) {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not become smaller"));
    }
    let mut same = |field: &str, new: Value, was: Value| {
        if new != was {
            errors.push(FieldError::invalid(&path.child(field), new, IMMUTABLE));
        }
    };
    same("name", text(&meta.name).into(), text(&old.name).into());
    same("namespace", text(&meta.namespace).into(), text(&old.namespace).into());
    same("uid", text(&meta.uid).into(), text(&old.uid).into());
    let time = |t: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        t.as_ref().map_or(Value::Null, |t| t.0.to_string().into())
    };
    same("creationTimestamp", time(&meta.creation_timestamp), time(&old.creation_timestamp));
    same("deletionTimestamp", time(&meta.deletion_timestamp), time(&old.deletion_timestamp));
    same(
        "deletionGracePeriodSeconds",
        meta.deletion_grace_period_seconds.into(),
        old.deletion_grace_period_seconds.into(),
    );
    check_common(meta, &path, errors);
}

/// The words for a field that may not change.
pub(crate) const IMMUTABLE: &str = "the field is immutable";

/// A number that may not be below 0.
pub(crate) fn check_nonnegative(value: i64, path: &Path, errors: &mut ErrorList) {
    if value < 0 {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A set of labels.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>, path: &Path, errors: &mut ErrorList) {
    for (key, value) in labels {
        invalid(format::qualified_name(key), key, path, errors);
        invalid(format::label_value(value), value, path, errors);
    }
}

/// A set of annotations.
pub(crate) fn check_annotations(annotations: &BTreeMap<String, String>, path: &Path, errors: &mut ErrorList) {
    for key in annotations.keys() {
        invalid(format::qualified_name(&key.to_lowercase()), key, path, errors);
    }
    let total: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if total > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
}

fn check_owners(owners: &[OwnerReference], path: &Path, errors: &mut ErrorList) {
    let mut controller: Option<&OwnerReference> = None;
    for (i, owner) in owners.iter().enumerate() {
        let at = path.index(i);
        let version_path = at.child("apiVersion");
        if owner.api_version.is_empty() {
            errors.push(FieldError::required(&version_path, "must not be empty"));
        } else if owner.api_version.split('/').count() > 2 || owner.api_version.ends_with('/') {
            let detail = "must be GROUP/VERSION or VERSION";
            errors.push(FieldError::invalid(&version_path, owner.api_version.as_str(), detail));
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::required(&at.child(field), "must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.push(FieldError::invalid(&at, owner.name.as_str(), "an Event cannot own objects"));
        }
        if yes(&owner.controller) {
            if let Some(first) = controller {
                let detail =
                    format!("only one owner may be the controller: {} and {} are", first.name, owner.name);
                errors.push(FieldError::invalid(path, owner.name.as_str(), detail));
            } else {
                controller = Some(owner);
            }
        }
    }
}

fn check_finalizers(finalizers: &[String], path: &Path, errors: &mut ErrorList) {
    for finalizer in finalizers {
        invalid(format::qualified_name(finalizer), finalizer, path, errors);
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(FieldError::invalid(
            path,
            finalizers.to_vec(),
            "orphan and foregroundDeletion exclude each other",
        ));
    }
}

fn check_kube_finalizers(meta: &ObjectMeta, errors: &mut ErrorList) {
    let path = Path::new("metadata").child("finalizers");
    for (i, finalizer) in items(&meta.finalizers).iter().enumerate() {
        check_kube_finalizer(finalizer, &path.index(i), errors);
    }
}

/// A finalizer without a domain must be one of Kubernetes' own.
pub(crate) fn check_kube_finalizer(finalizer: &str, path: &Path, errors: &mut ErrorList) {
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "must be one of Kubernetes' own names or have a domain, as in example.com/name";
        errors.push(FieldError::invalid(path, finalizer, detail));
    }
}

fn check_managed_fields(entries: &[ManagedFieldsEntry], path: &Path, errors: &mut ErrorList) {
    for (i, entry) in entries.iter().enumerate() {
        let at = path.index(i);
        match text(&entry.operation) {
            "" => errors.push(FieldError::required(&at.child("operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => {
                errors.push(FieldError::not_supported(&at.child("operation"), other, &["Apply", "Update"]))
            }
        }
        let fields_type = text(&entry.fields_type);
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(FieldError::invalid(&at.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        check_field_manager(text(&entry.manager), &at.child("manager"), errors);
        if text(&entry.subresource).len() > SUBRESOURCE_MAX_BYTES {
            errors.push(FieldError::too_long(&at.child("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
}

/// A field manager's name: short and printable.
pub fn check_field_manager(manager: &str, path: &Path, errors: &mut ErrorList) {
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(FieldError::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for c in manager.chars().filter(|c| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors.push(FieldError::invalid(path, manager, format!("{c:?} cannot be printed")));
    }
}
