//! Claims that are made for one Pod.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::resources::check_amount;
use super::volume::need;
use crate::format::{self, invalid};
use crate::meta::{check_annotations, check_labels};
use crate::quantity::amount;
use crate::selector::check_label_selector;
use crate::view::{items, text};

/// A volume whose claim lives as long as the Pod.
pub(crate) fn check(source: &api::EphemeralVolumeSource, path: &Path, errors: &mut ErrorList) {
    let at = path.child("volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else {
        errors.push(FieldError::required(&at, ""));
        return;
    };
    if let Some(meta) = &template.metadata {
        check_meta(meta, &at.child("metadata"), errors);
    }
    check_spec(&template.spec, &at.child("spec"), errors);
}

/// Labels and annotations are handed on; nothing else can be said beforehand.
fn check_meta(meta: &ObjectMeta, path: &Path, errors: &mut ErrorList) {
    if let Some(annotations) = &meta.annotations {
        check_annotations(annotations, &path.child("annotations"), errors);
    }
    if let Some(labels) = &meta.labels {
        check_labels(labels, &path.child("labels"), errors);
    }
    let set = [
        ("name", !text(&meta.name).is_empty()),
        ("generateName", !text(&meta.generate_name).is_empty()),
        ("namespace", !text(&meta.namespace).is_empty()),
        ("selfLink", !text(&meta.self_link).is_empty()),
        ("uID", !text(&meta.uid).is_empty()),
        ("resourceVersion", !text(&meta.resource_version).is_empty()),
        ("generation", meta.generation.unwrap_or(0) != 0),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ];
    for (field, is_set) in set {
        if is_set {
            errors.push(FieldError::forbidden(&path.child(field), "cannot be set in a template"));
        }
    }
}

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// What a claim asks for.
pub(crate) fn check_spec(spec: &api::PersistentVolumeClaimSpec, path: &Path, errors: &mut ErrorList) {
    check_access_modes(items(&spec.access_modes), &path.child("accessModes"), errors);
    check_label_selector(spec.selector.as_ref(), false, &path.child("selector"), errors);
    let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let at = path.child("resources").key("storage");
    match storage {
        None => errors.push(FieldError::required(&at, "")),
        Some(size) if !amount(size).sign().is_gt() => {
            errors.push(FieldError::invalid(&at, size.0.as_str(), "must be greater than zero"));
        }
        Some(size) => check_amount("storage", size, &at, errors),
    }
    let classes = [
        ("storageClassName", text(&spec.storage_class_name)),
        ("volumeAttributesClassName", text(&spec.volume_attributes_class_name)),
    ];
    for (field, class) in classes.into_iter().filter(|(_, class)| !class.is_empty()) {
        invalid(format::dns_subdomain(class), class, &path.child(field), errors);
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !["Block", "Filesystem"].contains(m)) {
        errors.push(FieldError::not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]));
    }
    check_data_source(spec, path, errors);
}

fn check_access_modes(modes: &[String], path: &Path, errors: &mut ErrorList) {
    if modes.is_empty() {
        errors.push(FieldError::required(path, "an access mode must be given"));
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.push(FieldError::not_supported(path, mode.as_str(), ACCESS_MODES));
    }
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    if alone && modes.iter().any(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m.as_str())) {
        errors.push(FieldError::forbidden(path, "ReadWriteOncePod stands alone"));
    }
}

/// What a volume begins with.
struct Source<'a> {
    group: &'a str,
    kind: &'a str,
    name: &'a str,
}

fn check_data_source(spec: &api::PersistentVolumeClaimSpec, path: &Path, errors: &mut ErrorList) {
    let plain =
        spec.data_source.as_ref().map(|s| Source { group: text(&s.api_group), kind: &s.kind, name: &s.name });
    let reference = spec.data_source_ref.as_ref().map(|s| Source {
        group: text(&s.api_group),
        kind: &s.kind,
        name: &s.name,
    });
    for (field, source) in [("dataSource", &plain), ("dataSourceRef", &reference)] {
        if let Some(source) = source {
            check_source(source, &path.child(field), errors);
        }
    }
    let namespace = spec.data_source_ref.as_ref().map_or("", |s| text(&s.namespace));
    if !namespace.is_empty() {
        let at = path.child("dataSourceRef").child("namespace");
        invalid(format::dns_label(namespace), namespace, &at, errors);
    }
    if let (Some(plain), Some(reference)) = (plain, reference) {
        let same =
            plain.group == reference.group && plain.kind == reference.kind && plain.name == reference.name;
        if !namespace.is_empty() || !same {
            errors.push(FieldError::invalid(
                path,
                "dataSource",
                "must say the same as dataSourceRef, or nothing",
            ));
        }
    }
}

fn check_source(source: &Source<'_>, path: &Path, errors: &mut ErrorList) {
    need(source.name, &path.child("name"), errors);
    need(source.kind, &path.child("kind"), errors);
    if source.group.is_empty() {
        if source.kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' in the core group";
            errors.push(FieldError::invalid(path, source.kind, detail));
        }
    } else {
        invalid(format::dns_subdomain(source.group), source.group, &path.child("apiGroup"), errors);
    }
}
