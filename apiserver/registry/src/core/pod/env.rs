//! Environment variables and where their values come from.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::volume::check_no_backsteps;
use crate::format::{self, invalid};
use crate::quantity::amount;
use crate::view::{items, text};

/// Fields of the Pod that a variable may hold.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of the Pod that a file may hold.
pub(crate) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Field paths that mean something at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "spec.hostNetwork",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The variables of a container.
pub(crate) fn check_env(vars: &[api::EnvVar], path: &Path, errors: &mut ErrorList) {
    for (i, var) in vars.iter().enumerate() {
        let at = path.index(i);
        if var.name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            invalid(format::env_var_name(&var.name), &var.name, &at.child("name"), errors);
        }
        if let Some(source) = &var.value_from {
            check_source(source, text(&var.value), &at.child("valueFrom"), errors);
        }
    }
}

fn check_source(source: &api::EnvVarSource, value: &str, path: &Path, errors: &mut ErrorList) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        check_field_ref(field, ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        check_resource_ref(resource, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        check_key_ref(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        check_key_ref(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        sources += 1;
        check_file_ref(file, &path.child("fileKeyRef"), errors);
    }
    if sources == 0 {
        errors.push(FieldError::invalid(path, "", "must name one source"));
    } else if !value.is_empty() {
        errors.push(FieldError::invalid(path, "", "must not be given beside `value`"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", "must not name more than one source"));
    }
}

/// A reference to a field of the Pod.
pub(crate) fn check_field_ref(
    field: &api::ObjectFieldSelector,
    allowed: &[&str],
    path: &Path,
    errors: &mut ErrorList,
) {
    let at = path.child("fieldPath");
    if text(&field.api_version).is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if field.field_path.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let value = field.field_path.as_str();
    let subscripted = split_subscript(value);
    let base = subscripted.map_or(value, |(base, _)| base);
    // An old name of the node's name.
    let base = if base == "spec.host" { "spec.nodeName" } else { base };
    let known = match subscripted {
        Some((b, _)) => matches!(b, "metadata.annotations" | "metadata.labels"),
        None => KNOWN_FIELDS.contains(&base),
    };
    if text(&field.api_version) != "v1" || !known {
        errors.push(FieldError::invalid(&at, value, "no such field of a Pod"));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            invalid(format::qualified_name(&key.to_lowercase()), key, path, errors);
        }
        Some((_, key)) => invalid(format::qualified_name(key), key, path, errors),
        None if !allowed.contains(&base) => errors.push(FieldError::not_supported(&at, base, allowed)),
        None => {}
    }
}

/// `metadata.labels['key']` as its two parts.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.strip_suffix("']")?.split_once("['")?;
    (!base.is_empty()).then_some((base, rest))
}

/// A reference to a container's request or limit. A file names the container; a variable need not.
pub(crate) fn check_resource_ref(
    resource: &api::ResourceFieldSelector,
    in_file: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let name = resource.resource.as_str();
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if in_file && text(&resource.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&name) && !huge {
        errors.push(FieldError::not_supported(&path.child("resource"), name, RESOURCE_FIELDS));
    }
    let Some(divisor) = &resource.divisor else { return };
    check_divisor(name, divisor, &path.child("divisor"), errors);
}

fn check_divisor(resource: &str, divisor: &Quantity, path: &Path, errors: &mut ErrorList) {
    const BYTES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if amount(divisor).is_zero() {
        return;
    }
    let allowed: &[&str] = match resource.split_once('.').map(|(_, r)| r) {
        Some("cpu") => &["1m", "1"],
        Some("memory" | "ephemeral-storage") => BYTES,
        Some(r) if r.starts_with("hugepages-") => BYTES,
        _ => return,
    };
    if !allowed.contains(&divisor.0.as_str()) {
        let detail = format!("the divisor of {resource} must be one of {}", allowed.join(", "));
        errors.push(FieldError::invalid(path, divisor.0.as_str(), detail));
    }
}

fn check_key_ref(name: &str, key: &str, path: &Path, errors: &mut ErrorList) {
    invalid(format::dns_subdomain(name), name, &path.child("name"), errors);
    let at = path.child("key");
    if key.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        invalid(format::config_key(key), key, &at, errors);
    }
}

fn check_file_ref(file: &api::FileKeySelector, path: &Path, errors: &mut ErrorList) {
    let at = path.child("key");
    if file.key.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        invalid(format::env_var_name(&file.key), &file.key, &at, errors);
    }
    let at = path.child("volumeName");
    if file.volume_name.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        invalid(format::dns_label(&file.volume_name), &file.volume_name, &at, errors);
    }
    let at = path.child("path");
    if file.path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        check_no_backsteps(&file.path, &at, errors);
    }
}

/// Files that variables are read from lie in an emptyDir of the Pod.
pub(crate) fn check_file_volumes(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    super::visit_containers(spec, path, |container, at| {
        for (i, var) in items(&container.env).iter().enumerate() {
            let Some(file) = var.value_from.as_ref().and_then(|s| s.file_key_ref.as_ref()) else { continue };
            let at = at.child("env").index(i).child("valueFrom.fileKeyRef.volumeName");
            let name = file.volume_name.as_str();
            match items(&spec.volumes).iter().rev().find(|v| v.name == name) {
                None => errors.push(FieldError::not_found(&at, name)),
                Some(volume) if volume.empty_dir.is_none() => {
                    errors.push(FieldError::invalid(&at, name, "the volume must be an emptyDir"));
                }
                Some(_) => {}
            }
        }
    });
}

/// Sets of variables.
pub(crate) fn check_env_from(sources: &[api::EnvFromSource], path: &Path, errors: &mut ErrorList) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            invalid(format::env_var_name(prefix), prefix, &at.child("prefix"), errors);
        }
        let named: BTreeSet<(&str, &str)> = source
            .config_map_ref
            .iter()
            .map(|r| ("configMapRef", r.name.as_str()))
            .chain(source.secret_ref.iter().map(|r| ("secretRef", r.name.as_str())))
            .collect();
        for (field, name) in &named {
            let at = at.child(field).child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                invalid(format::config_source_name(name), name, &at, errors);
            }
        }
        match named.len() {
            0 => errors.push(FieldError::invalid(path, "", "each entry must name a ConfigMap or Secret")),
            1 => {}
            _ => errors.push(FieldError::invalid(path, "", "no entry may name more than one source")),
        }
    }
}
