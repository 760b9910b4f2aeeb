//! Volumes of every kind.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::container::check_pull_policy;
use super::options::Options;
use super::{claim_template, legacy_volume, projected};
use crate::format::{self, invalid};
use crate::quantity::is_negative;
use crate::view::{items, text};

const FILE_MODE_MAX: i32 = 0o777;
const DIRECTORY_MODE_MAX: i32 = 0o1777;

/// The volumes of a Pod. The answer holds those that are right in themselves: only they can be mounted.
pub(crate) fn check_volumes<'a>(
    volumes: &'a [api::Volume],
    meta: Option<&ObjectMeta>,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) -> BTreeMap<&'a str, &'a api::Volume> {
    let pod_name = meta.map_or("", |m| text(&m.name));
    // Claims that will be made for ephemeral volumes of this Pod.
    let made: BTreeSet<String> = volumes
        .iter()
        .filter(|v| v.ephemeral.is_some() && !pod_name.is_empty())
        .map(|v| format!("{pod_name}-{}", v.name))
        .collect();
    let mut right = BTreeMap::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let before = errors.len();
        check_source(volume, pod_name, options, &at, errors);
        let name = volume.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            invalid(format::dns_label(name), name, &at.child("name"), errors);
        }
        if right.contains_key(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        if errors.len() == before {
            right.insert(name, volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && made.contains(&claim.claim_name)
        {
            let at = at.child("persistentVolumeClaim").child("claimName");
            errors.push(FieldError::invalid(
                &at,
                claim.claim_name.as_str(),
                "is made for an ephemeral volume",
            ));
        }
    }
    right
}

/// Exactly one source must be given. The first is checked; each further one is one too many.
struct OneSource<'a> {
    found: bool,
    path: &'a Path,
}

impl OneSource<'_> {
    /// Looks at one source: its own field, and the name under which it is refused when it is one too many.
    fn take<T>(
        &mut self,
        source: Option<&T>,
        field: &str,
        errors: &mut ErrorList,
        check: impl FnOnce(&T, &Path, &mut ErrorList),
    ) {
        self.take_as(source, (field, field), errors, check);
    }

    fn take_as<T>(
        &mut self,
        source: Option<&T>,
        (field, refused_as): (&str, &str),
        errors: &mut ErrorList,
        check: impl FnOnce(&T, &Path, &mut ErrorList),
    ) {
        let Some(source) = source else { return };
        if self.found {
            errors.push(FieldError::forbidden(&self.path.child(refused_as), "a volume has one source"));
            return;
        }
        self.found = true;
        check(source, &self.path.child(field), errors);
    }
}

fn check_source(
    volume: &api::Volume,
    pod_name: &str,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let v = volume;
    let mut one = OneSource { found: false, path };
    one.take(v.empty_dir.as_ref(), "emptyDir", errors, check_empty_dir);
    one.take(v.host_path.as_ref(), "hostPath", errors, check_host_path);
    one.take(v.git_repo.as_ref(), "gitRepo", errors, legacy_volume::check_git_repo);
    one.take_as(
        v.gce_persistent_disk.as_ref(),
        ("persistentDisk", "gcePersistentDisk"),
        errors,
        legacy_volume::check_gce_disk,
    );
    one.take(
        v.aws_elastic_block_store.as_ref(),
        "awsElasticBlockStore",
        errors,
        legacy_volume::check_aws_disk,
    );
    one.take(v.secret.as_ref(), "secret", errors, check_secret);
    one.take(v.nfs.as_ref(), "nfs", errors, check_nfs);
    one.take(v.iscsi.as_ref(), "iscsi", errors, legacy_volume::check_iscsi);
    legacy_volume::check_iscsi_name(v, path, errors);
    one.take(v.glusterfs.as_ref(), "glusterfs", errors, legacy_volume::check_glusterfs);
    one.take(v.flocker.as_ref(), "flocker", errors, legacy_volume::check_flocker);
    one.take(v.persistent_volume_claim.as_ref(), "persistentVolumeClaim", errors, |claim, at, errors| {
        need(&claim.claim_name, &at.child("claimName"), errors);
    });
    one.take(v.rbd.as_ref(), "rbd", errors, legacy_volume::check_rbd);
    one.take(v.cinder.as_ref(), "cinder", errors, legacy_volume::check_cinder);
    one.take_as(v.cephfs.as_ref(), ("cephfs", "cephFS"), errors, legacy_volume::check_ceph_fs);
    one.take(v.quobyte.as_ref(), "quobyte", errors, legacy_volume::check_quobyte);
    one.take_as(
        v.downward_api.as_ref(),
        ("downwardAPI", "downwarAPI"),
        errors,
        projected::check_downward_api,
    );
    one.take(v.fc.as_ref(), "fc", errors, legacy_volume::check_fc);
    one.take(v.flex_volume.as_ref(), "flexVolume", errors, legacy_volume::check_flex);
    one.take(v.config_map.as_ref(), "configMap", errors, check_config_map);
    one.take(v.azure_file.as_ref(), "azureFile", errors, legacy_volume::check_azure_file);
    one.take(v.vsphere_volume.as_ref(), "vsphereVolume", errors, |disk, at, errors| {
        need(&disk.volume_path, &at.child("volumePath"), errors);
    });
    one.take(v.photon_persistent_disk.as_ref(), "photonPersistentDisk", errors, |disk, at, errors| {
        need(&disk.pd_id, &at.child("pdID"), errors);
    });
    one.take(v.portworx_volume.as_ref(), "portworxVolume", errors, |disk, at, errors| {
        need(&disk.volume_id, &at.child("volumeID"), errors);
    });
    one.take(v.azure_disk.as_ref(), "azureDisk", errors, legacy_volume::check_azure_disk);
    one.take(v.storageos.as_ref(), "storageos", errors, legacy_volume::check_storage_os);
    one.take(v.projected.as_ref(), "projected", errors, |source, at, errors| {
        projected::check_projected(source, options, at, errors);
    });
    one.take(v.scale_io.as_ref(), "scaleIO", errors, legacy_volume::check_scale_io);
    one.take(v.csi.as_ref(), "csi", errors, check_csi);
    one.take(v.ephemeral.as_ref(), "ephemeral", errors, |source, at, errors| {
        claim_template::check(source, at, errors);
        if !pod_name.is_empty() && !v.name.is_empty() {
            let claim = format!("{pod_name}-{}", v.name);
            for fault in format::dns_subdomain(&claim) {
                let detail = format!("the claim's name {claim:?} {fault}");
                errors.push(FieldError::invalid(&path.child("name"), v.name.as_str(), detail));
            }
        }
    });
    one.take(v.image.as_ref(), "image", errors, |image, at, errors| {
        if text(&image.reference).is_empty() && !options.empty_image_volume {
            errors.push(FieldError::required(&at.child("reference"), ""));
        }
        check_pull_policy(text(&image.pull_policy), &at.child("pullPolicy"), errors);
    });
    if !one.found {
        errors.push(FieldError::required(path, "a volume must have a source"));
    }
}

/// A string that must not be empty.
pub(crate) fn need(value: &str, path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn check_empty_dir(dir: &api::EmptyDirVolumeSource, path: &Path, errors: &mut ErrorList) {
    if dir.size_limit.as_ref().is_some_and(is_negative) {
        errors.push(FieldError::forbidden(&path.child("sizeLimit"), "must not be negative"));
    }
    if let Some(mode) = dir.mode.filter(|m| !(0..=DIRECTORY_MODE_MAX).contains(m)) {
        errors.push(FieldError::invalid(&path.child("mode"), mode, "must be between 0 and 01777 (octal)"));
    }
}

fn check_host_path(host: &api::HostPathVolumeSource, path: &Path, errors: &mut ErrorList) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if host.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    check_no_backsteps(&host.path, &path.child("path"), errors);
    if let Some(kind) = host.type_.as_deref().filter(|t| !TYPES.contains(t)) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, TYPES));
    }
}

fn check_secret(secret: &api::SecretVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(text(&secret.secret_name), &path.child("secretName"), errors);
    check_mode(secret.default_mode, &path.child("defaultMode"), errors);
    check_user(secret.default_user, &path.child("defaultUser"), errors);
    check_keys(items(&secret.items), path, errors);
}

fn check_config_map(map: &api::ConfigMapVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&map.name, &path.child("name"), errors);
    check_mode(map.default_mode, &path.child("defaultMode"), errors);
    check_user(map.default_user, &path.child("defaultUser"), errors);
    check_keys(items(&map.items), path, errors);
}

/// Which keys become which files.
pub(crate) fn check_keys(keys: &[api::KeyToPath], path: &Path, errors: &mut ErrorList) {
    for (i, key) in keys.iter().enumerate() {
        let at = path.child("items").index(i);
        need(&key.key, &at.child("key"), errors);
        need(&key.path, &at.child("path"), errors);
        check_file_path(&key.path, &at.child("path"), errors);
        check_mode(key.mode, &at.child("mode"), errors);
        check_user(key.user, &at.child("user"), errors);
    }
}

/// The permissions of a file.
pub(crate) fn check_mode(mode: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(mode) = mode.filter(|m| !(0..=FILE_MODE_MAX).contains(m)) {
        errors.push(FieldError::invalid(path, mode, "must be between 0 and 0777 (octal)"));
    }
}

/// The owner of a file.
pub(crate) fn check_user(user: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let Some(user) = user else { return };
    for fault in format::unix_id(user) {
        errors.push(FieldError::invalid(path, user, fault));
    }
}

fn check_nfs(nfs: &api::NFSVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&nfs.server, &path.child("server"), errors);
    need(&nfs.path, &path.child("path"), errors);
    if !nfs.path.starts_with('/') {
        errors.push(FieldError::invalid(&path.child("path"), nfs.path.as_str(), "must be an absolute path"));
    }
}

const DRIVER_MAX_BYTES: usize = 63;

fn check_csi(csi: &api::CSIVolumeSource, path: &Path, errors: &mut ErrorList) {
    let driver = path.child("driver");
    if csi.driver.is_empty() {
        errors.push(FieldError::required(&driver, ""));
    } else {
        if csi.driver.len() > DRIVER_MAX_BYTES {
            errors.push(FieldError::too_long(&driver, DRIVER_MAX_BYTES));
        }
        invalid(format::dns_subdomain(&csi.driver.to_lowercase()), &csi.driver, &driver, errors);
    }
    if let Some(secret) = &csi.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.push(FieldError::required(&path.child("nodePublishSecretRef").child("name"), ""));
        } else {
            invalid(format::dns_subdomain(&secret.name), &secret.name, &path.child("name"), errors);
        }
    }
}

/// A path that stays inside the directory that it starts from.
pub(crate) fn check_descending(target: &str, path: &Path, errors: &mut ErrorList) {
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    check_no_backsteps(target, path, errors);
}

/// A path without `..`.
pub(crate) fn check_no_backsteps(target: &str, path: &Path, errors: &mut ErrorList) {
    if target.split('/').any(|step| step == "..") {
        errors.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}

/// The path of a file that is written for a Pod; names that begin with `..` are kept for the writer.
pub(crate) fn check_file_path(target: &str, path: &Path, errors: &mut ErrorList) {
    check_descending(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid(path, target, "must not start with '..'"));
    }
}
