//! Volumes of storage systems that have moved out of Kubernetes: their fields are still checked.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::volume::{check_descending, need};
use crate::format::{self, invalid};
use crate::view::{items, text, yes};

const PARTITION_MAX: i32 = 255;
const LUN_MAX: i32 = 255;

pub(crate) fn check_git_repo(repo: &api::GitRepoVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&repo.repository, &path.child("repository"), errors);
    check_descending(text(&repo.directory), &path.child("directory"), errors);
}

pub(crate) fn check_gce_disk(disk: &api::GCEPersistentDiskVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.pd_name, &path.child("pdName"), errors);
    check_partition(disk.partition, path, errors);
}

pub(crate) fn check_aws_disk(
    disk: &api::AWSElasticBlockStoreVolumeSource,
    path: &Path,
    errors: &mut ErrorList,
) {
    need(&disk.volume_id, &path.child("volumeID"), errors);
    check_partition(disk.partition, path, errors);
}

fn check_partition(partition: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = partition.filter(|p| !(0..=PARTITION_MAX).contains(p)) {
        errors.push(FieldError::invalid(
            &path.child("partition"),
            number,
            "must be between 1 and 255, inclusive",
        ));
    }
}

pub(crate) fn check_iscsi(disk: &api::ISCSIVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.target_portal, &path.child("targetPortal"), errors);
    if disk.iqn.is_empty() {
        errors.push(FieldError::required(&path.child("iqn"), ""));
    } else {
        check_iscsi_node(&disk.iqn, &path.child("iqn"), errors);
    }
    if !(0..=LUN_MAX).contains(&disk.lun) {
        errors.push(FieldError::invalid(
            &path.child("lun"),
            disk.lun,
            "must be between 0 and 255, inclusive",
        ));
    }
    if (yes(&disk.chap_auth_discovery) || yes(&disk.chap_auth_session)) && disk.secret_ref.is_none() {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(initiator) = &disk.initiator_name {
        check_iscsi_node(initiator, &path.child("initiatorname"), errors);
    }
}

/// The name of an iSCSI node in one of its three forms.
fn check_iscsi_node(name: &str, path: &Path, errors: &mut ErrorList) {
    let hex = |prefix: &str, length: usize| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.char_indices().nth(1).map(|(i, _)| &rest[i..]))
            .is_some_and(|rest| rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let fine = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => hex("eui", 16),
        Some("naa") => hex("naa", 32),
        _ => false,
    };
    if !fine {
        errors.push(FieldError::invalid(path, name, "must be an iqn, eui or naa name"));
    }
}

/// `iqn.2001-04.com.example:storage`.
fn is_iqn(name: &str) -> bool {
    let Some((authority, target)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let date = authority.get(..8).unwrap_or("").as_bytes();
    let dated = date.len() == 8
        && date.iter().enumerate().all(|(i, b)| match i {
            4 => *b == b'-',
            7 => *b == b'.',
            _ => b.is_ascii_digit(),
        });
    let domain = authority.get(8..).unwrap_or("");
    dated
        && !domain.is_empty()
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !target.is_empty()
        && !target.contains([',', ';', '*', '&', '$', '|'])
        && !target.contains(char::is_whitespace)
}

const ISCSI_INTERFACE_MAX_BYTES: usize = 64;

/// With an initiator of its own, volume and portal together name an interface.
pub(crate) fn check_iscsi_name(volume: &api::Volume, path: &Path, errors: &mut ErrorList) {
    let Some(disk) = &volume.iscsi else { return };
    if disk.initiator_name.is_some()
        && volume.name.len() + 1 + disk.target_portal.len() > ISCSI_INTERFACE_MAX_BYTES
    {
        let detail = "NAME:TARGETPORTAL must not be longer than 64 bytes with an initiatorName";
        errors.push(FieldError::invalid(&path.child("name"), volume.name.as_str(), detail));
    }
}

pub(crate) fn check_glusterfs(disk: &api::GlusterfsVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.endpoints, &path.child("endpoints"), errors);
    need(&disk.path, &path.child("path"), errors);
}

pub(crate) fn check_flocker(disk: &api::FlockerVolumeSource, path: &Path, errors: &mut ErrorList) {
    let (name, uuid) = (text(&disk.dataset_name), text(&disk.dataset_uuid));
    if name.is_empty() && uuid.is_empty() {
        errors.push(FieldError::required(path, "datasetName or datasetUUID must be given"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.push(FieldError::invalid(path, "resource", "datasetName and datasetUUID exclude each other"));
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

pub(crate) fn check_rbd(disk: &api::RBDVolumeSource, path: &Path, errors: &mut ErrorList) {
    if disk.monitors.is_empty() {
        errors.push(FieldError::required(&path.child("monitors"), ""));
    }
    need(&disk.image, &path.child("image"), errors);
}

pub(crate) fn check_cinder(disk: &api::CinderVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.volume_id, &path.child("volumeID"), errors);
    if let Some(secret) = &disk.secret_ref {
        need(&secret.name, &path.child("secretRef").child("name"), errors);
    }
}

pub(crate) fn check_ceph_fs(disk: &api::CephFSVolumeSource, path: &Path, errors: &mut ErrorList) {
    if disk.monitors.is_empty() {
        errors.push(FieldError::required(&path.child("monitors"), ""));
    }
}

const TENANT_MAX_BYTES: usize = 64;

pub(crate) fn check_quobyte(disk: &api::QuobyteVolumeSource, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "must be HOST:PORT, or several of them joined by commas";
    if disk.registry.is_empty() {
        errors.push(FieldError::required(&path.child("registry"), DETAIL));
    } else if text(&disk.tenant).len() > TENANT_MAX_BYTES {
        errors.push(FieldError::required(&path.child("tenant"), "must be a UUID of at most 64 bytes"));
    } else {
        for _ in disk.registry.split(',').filter(|pair| !is_host_port(pair)) {
            errors.push(FieldError::invalid(&path.child("registry"), disk.registry.as_str(), DETAIL));
        }
    }
    need(&disk.volume, &path.child("volume"), errors);
}

fn is_host_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') => host.ends_with(']'),
        Some((host, _)) => !host.contains([':', '[', ']']),
        None => false,
    }
}

pub(crate) fn check_fc(disk: &api::FCVolumeSource, path: &Path, errors: &mut ErrorList) {
    let (names, ids) = (items(&disk.target_wwns), items(&disk.wwids));
    if names.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(&path.child("targetWWNs"), "targetWWNs or wwids must be given"));
    }
    if names.is_empty() {
        return;
    }
    if !ids.is_empty() {
        let detail = "targetWWNs and wwids exclude each other";
        errors.push(FieldError::invalid(&path.child("targetWWNs"), names.to_vec(), detail));
    }
    match disk.lun {
        None => errors.push(FieldError::required(&path.child("lun"), "targetWWNs need a lun")),
        Some(lun) if !(0..=LUN_MAX).contains(&lun) => {
            errors.push(FieldError::invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive"));
        }
        Some(_) => {}
    }
}

pub(crate) fn check_flex(disk: &api::FlexVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.driver, &path.child("driver"), errors);
    for key in disk.options.iter().flat_map(BTreeMap::keys) {
        let domain = key.split_once('/').map_or(key.as_str(), |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(FieldError::invalid(
                &path.child("options").key(key),
                key.as_str(),
                "the domain is reserved",
            ));
        }
    }
}

pub(crate) fn check_azure_file(disk: &api::AzureFileVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.secret_name, &path.child("secretName"), errors);
    need(&disk.share_name, &path.child("shareName"), errors);
}

pub(crate) fn check_azure_disk(disk: &api::AzureDiskVolumeSource, path: &Path, errors: &mut ErrorList) {
    const CACHING: &[&str] = &["None", "ReadOnly", "ReadWrite"];
    const KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
    need(&disk.disk_name, &path.child("diskName"), errors);
    need(&disk.disk_uri, &path.child("diskURI"), errors);
    if let Some(mode) = disk.caching_mode.as_deref().filter(|m| !CACHING.contains(m)) {
        errors.push(FieldError::not_supported(&path.child("cachingMode"), mode, CACHING));
    }
    let Some(kind) = disk.kind.as_deref() else { return };
    if !KINDS.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, KINDS));
    }
    let begin = if kind == "Managed" { "/subscriptions/" } else { "https://" };
    if !disk.disk_uri.starts_with(begin) {
        errors.push(FieldError::not_supported(&path.child("diskURI"), disk.disk_uri.as_str(), &[begin]));
    }
}

pub(crate) fn check_storage_os(disk: &api::StorageOSVolumeSource, path: &Path, errors: &mut ErrorList) {
    let (name, namespace) = (text(&disk.volume_name), text(&disk.volume_namespace));
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("volumeName"), ""));
    } else {
        invalid(format::dns_label(name), name, &path.child("volumeName"), errors);
    }
    if !namespace.is_empty() {
        invalid(format::dns_label(namespace), namespace, &path.child("volumeNamespace"), errors);
    }
    if let Some(secret) = &disk.secret_ref {
        need(&secret.name, &path.child("secretRef").child("name"), errors);
    }
}

pub(crate) fn check_scale_io(disk: &api::ScaleIOVolumeSource, path: &Path, errors: &mut ErrorList) {
    need(&disk.gateway, &path.child("gateway"), errors);
    need(&disk.system, &path.child("system"), errors);
    need(text(&disk.volume_name), &path.child("volumeName"), errors);
}
