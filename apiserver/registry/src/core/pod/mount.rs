//! Where a container sees the Pod's volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::container::PodContext;
use super::volume::{check_descending, check_no_backsteps};
use crate::view::{items, text, yes};

/// The volume mounts of a container.
pub(crate) fn check_mounts(c: &api::Container, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    let devices = items(&c.volume_devices);
    let mut paths = BTreeSet::new();
    for (i, mount) in items(&c.volume_mounts).iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (mount.name.as_str(), mount.mount_path.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        if !pod.volumes.contains_key(name) {
            errors.push(FieldError::not_found(&at.child("name"), name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        }
        if !paths.insert(target) {
            errors.push(FieldError::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        if devices.iter().any(|d| d.name == name) {
            errors.push(FieldError::invalid(&at.child("name"), name, "is used as a device already"));
        }
        if devices.iter().any(|d| d.device_path == target) {
            errors.push(FieldError::invalid(
                &at.child("mountPath"),
                target,
                "is the path of a device already",
            ));
        }
        check_sub_paths(mount, path, &at, errors);
        check_propagation(mount, c, path, errors);
        check_recursive_read_only(mount, path, errors);
        check_bind_options(mount, pod, &at.child("bindMountOptions"), errors);
    }
}

/// Causes of sub paths name the list, not the item.
fn check_sub_paths(mount: &api::VolumeMount, path: &Path, at: &Path, errors: &mut ErrorList) {
    let (plain, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !plain.is_empty() {
        check_descending(plain, &path.child("subPath"), errors);
    }
    if expression.is_empty() {
        return;
    }
    if !plain.is_empty() {
        let detail = "subPath and subPathExpr exclude each other";
        errors.push(FieldError::invalid(&at.child("subPathExpr"), expression, detail));
    }
    check_descending(expression, &path.child("subPathExpr"), errors);
}

fn check_propagation(mount: &api::VolumeMount, c: &api::Container, path: &Path, errors: &mut ErrorList) {
    let Some(mode) = mount.mount_propagation.as_deref() else { return };
    let at = path.child("mountPropagation");
    const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    if !MODES.contains(&mode) {
        errors.push(FieldError::not_supported(&at, mode, MODES));
    }
    let privileged = c.security_context.as_ref().is_some_and(|s| yes(&s.privileged));
    if mode == "Bidirectional" && !privileged {
        errors.push(FieldError::forbidden(&at, "only a privileged container may have it"));
    }
}

fn check_recursive_read_only(mount: &api::VolumeMount, path: &Path, errors: &mut ErrorList) {
    let at = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !yes(&mount.read_only) {
                errors.push(FieldError::forbidden(&at, "needs readOnly"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|m| m != "None") {
                errors.push(FieldError::forbidden(&at, "needs a mountPropagation of None, or none given"));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn check_bind_options(mount: &api::VolumeMount, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    const OPTIONS: &[&str] = &["nodev", "noexec", "nosuid"];
    let options = items(&mount.bind_mount_options);
    let mut seen = BTreeSet::new();
    for (i, option) in options.iter().enumerate() {
        if !OPTIONS.contains(&option.as_str()) {
            errors.push(FieldError::not_supported(&path.index(i), option.as_str(), OPTIONS));
        }
        if !seen.insert(option) {
            errors.push(FieldError::duplicate(&path.index(i), option.as_str()));
        }
    }
    if !options.is_empty() && pod.volumes.get(mount.name.as_str()).is_some_and(|v| v.image.is_some()) {
        errors.push(FieldError::invalid(path, options.to_vec(), "image volumes have no such options"));
    }
}

/// The block devices of a container.
pub(crate) fn check_devices(c: &api::Container, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    let mounts = items(&c.volume_mounts);
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in items(&c.volume_devices).iter().enumerate() {
        let at = path.index(i);
        let (name_path, device_path) = (at.child("name"), at.child("devicePath"));
        let (name, target) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(&name_path, name, "must be unique"));
        }
        match pod.volumes.get(name) {
            None => errors.push(FieldError::not_found(&name_path, name)),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail = "only a persistentVolumeClaim or an ephemeral volume can be a device";
                errors.push(FieldError::invalid(&name_path, name, detail));
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.push(FieldError::required(&device_path, ""));
        }
        if paths.contains(target) {
            errors.push(FieldError::invalid(&device_path, target, "must be unique"));
        }
        let before = errors.len();
        check_no_backsteps(target, &device_path, errors);
        if errors.len() == before {
            paths.insert(target);
        }
        if mounts.iter().any(|m| m.name == name) {
            errors.push(FieldError::invalid(&name_path, name, "is mounted already"));
        }
        if mounts.iter().any(|m| m.mount_path == target) {
            errors.push(FieldError::invalid(&device_path, target, "is the path of a mount already"));
        }
    }
}
