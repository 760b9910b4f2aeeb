//! Volumes that gather files from several sources.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::env::{FILE_FIELDS, check_field_ref, check_resource_ref};
use super::options::Options;
use super::volume::{check_file_path, check_keys, check_mode, check_user, need};
use crate::format::{self, invalid};
use crate::selector::check_label_selector;
use crate::view::{items, text};

/// The downward API as a volume.
pub(crate) fn check_downward_api(source: &api::DownwardAPIVolumeSource, path: &Path, errors: &mut ErrorList) {
    check_mode(source.default_mode, &path.child("defaultMode"), errors);
    check_user(source.default_user, &path.child("defaultUser"), errors);
    for file in items(&source.items) {
        // Causes name the volume, not the item.
        check_downward_file(file, path, errors);
    }
}

fn check_downward_file(file: &api::DownwardAPIVolumeFile, path: &Path, errors: &mut ErrorList) {
    need(&file.path, &path.child("path"), errors);
    check_file_path(&file.path, &path.child("path"), errors);
    if let Some(field) = &file.field_ref {
        check_field_ref(field, FILE_FIELDS, &path.child("fieldRef"), errors);
        if file.resource_field_ref.is_some() {
            errors.push(FieldError::invalid(
                path,
                "resource",
                "fieldRef and resourceFieldRef exclude each other",
            ));
        }
    } else if let Some(resource) = &file.resource_field_ref {
        check_resource_ref(resource, true, &path.child("resourceFieldRef"), errors);
    } else {
        errors.push(FieldError::required(path, "fieldRef or resourceFieldRef must be given"));
    }
    check_mode(file.mode, &path.child("mode"), errors);
    check_user(file.user, &path.child("user"), errors);
}

/// A projected volume.
pub(crate) fn check_projected(
    volume: &api::ProjectedVolumeSource,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    check_mode(volume.default_mode, &path.child("defaultMode"), errors);
    check_user(volume.default_user, &path.child("defaultUser"), errors);
    let mut files = Files { seen: BTreeSet::new(), path };
    for (i, source) in items(&volume.sources).iter().enumerate() {
        check_projection(source, &mut files, options, &path.child("sources").index(i), errors);
    }
}

/// The files that sources have brought so far; each path can be taken once.
struct Files<'a> {
    seen: BTreeSet<String>,
    path: &'a Path,
}

impl Files<'_> {
    fn take(&mut self, file: &str, errors: &mut ErrorList) {
        if !self.seen.insert(file.to_owned()) {
            errors.push(FieldError::invalid(self.path, file, "two sources write the same path"));
        }
    }

    fn take_keys(&mut self, keys: &[api::KeyToPath], errors: &mut ErrorList) {
        for key in keys.iter().filter(|k| !k.path.is_empty()) {
            self.take(&key.path, errors);
        }
    }
}

fn check_projection(
    source: &api::VolumeProjection,
    files: &mut Files<'_>,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut sources = 0;
    if let Some(secret) = &source.secret {
        sources += 1;
        let at = path.child("secret");
        need(&secret.name, &at.child("name"), errors);
        check_keys(items(&secret.items), &at, errors);
        files.take_keys(items(&secret.items), errors);
    }
    if let Some(map) = &source.config_map {
        sources += 1;
        let at = path.child("configMap");
        need(&map.name, &at.child("name"), errors);
        check_keys(items(&map.items), &at, errors);
        files.take_keys(items(&map.items), errors);
    }
    if let Some(api) = &source.downward_api {
        sources += 1;
        for file in items(&api.items) {
            check_downward_file(file, &path.child("downwardAPI"), errors);
            if !file.path.is_empty() {
                files.take(&file.path, errors);
            }
        }
    }
    if let Some(token) = &source.service_account_token {
        sources += 1;
        check_token(token, files.path, options, &path.child("serviceAccountToken"), errors);
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        sources += 1;
        let at = path.child("clusterTrustBundle");
        check_bundle(bundle, &at, errors);
        need(&bundle.path, &at.child("path"), errors);
        check_user(bundle.user, &at.child("user"), errors);
        check_file_path(&bundle.path, &at.child("path"), errors);
        files.take(&bundle.path, errors);
    }
    if let Some(certificate) = &source.pod_certificate {
        sources += 1;
        check_certificate(certificate, files, &path.child("podCertificate"), errors);
    }
    if sources > 1 {
        errors.push(FieldError::forbidden(path, "each entry has one source"));
    }
}

const TOKEN_MIN_SECONDS: i64 = 10 * 60;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// Causes of a token's path name the volume.
fn check_token(
    token: &api::ServiceAccountTokenProjection,
    volume: &Path,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let at = path.child("expirationSeconds");
    match token.expiration_seconds {
        None => errors.push(FieldError::required(&at, "")),
        Some(seconds) if seconds < TOKEN_MIN_SECONDS => {
            errors.push(FieldError::invalid(&at, seconds, "must be at least 10 minutes"));
        }
        Some(seconds) if seconds > TOKEN_MAX_SECONDS => {
            errors.push(FieldError::invalid(&at, seconds, "must be at most 2^32 seconds"));
        }
        Some(_) => {}
    }
    let at = volume.child("path");
    if token.path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !options.any_token_path {
        check_file_path(&token.path, &at, errors);
    }
    check_user(token.user, &path.child("user"), errors);
}

fn check_bundle(bundle: &api::ClusterTrustBundleProjection, path: &Path, errors: &mut ErrorList) {
    match (bundle.name.as_deref(), bundle.signer_name.as_deref()) {
        (Some(name), Some(_)) => {
            errors.push(FieldError::invalid(path, name, "name and signerName exclude each other"))
        }
        (Some(name), None) => {
            let at = path.child("name");
            need(name, &at, errors);
            check_bundle_name(name, &at, errors);
            if bundle.label_selector.is_some() {
                let detail = "must not be given with a name";
                errors.push(FieldError::invalid(
                    &path.child("labelSelector"),
                    serde_json::Value::Null,
                    detail,
                ));
            }
        }
        (None, Some(signer)) => {
            let at = path.child("signerName");
            if signer.is_empty() {
                errors.push(FieldError::required(&at, ""));
            }
            check_signer(signer, &at, errors);
            check_label_selector(bundle.label_selector.as_ref(), false, &path.child("labelSelector"), errors);
        }
        (None, None) => errors.push(FieldError::required(path, "name or signerName must be given")),
    }
}

/// `name`, or `domain:path:name` for the bundle of a signer.
fn check_bundle_name(name: &str, path: &Path, errors: &mut ErrorList) {
    match name.rsplit_once(':') {
        Some((_, last)) => invalid(format::dns_subdomain(last), name, path, errors),
        None => invalid(format::dns_subdomain(name), name, path, errors),
    }
}

const SIGNER_MAX_BYTES: usize = 2 * format::SUBDOMAIN_MAX + 65;

/// `example.com/name`.
pub(crate) fn check_signer(signer: &str, path: &Path, errors: &mut ErrorList) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let (domain, name) = match signer.split('/').collect::<Vec<_>>().as_slice() {
        [domain, name] => (*domain, *name),
        _ => {
            errors.push(FieldError::invalid(path, signer, "must be a domain, '/' and a name"));
            return;
        }
    };
    if domain.len() > format::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, format::SUBDOMAIN_MAX));
    }
    // The first part that is wrong stands for all.
    let domain_faults = domain.split('.').map(format::dns_label).find(|f| !f.is_empty());
    invalid(domain_faults.unwrap_or_default(), domain, path, errors);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(path, domain, "must have at least two parts joined by a dot"));
    }
    let name_faults = name.split('.').map(format::dns_subdomain).find(|f| !f.is_empty());
    invalid(name_faults.unwrap_or_default(), name, path, errors);
    if signer.len() > SIGNER_MAX_BYTES {
        errors.push(FieldError::too_long(path, SIGNER_MAX_BYTES));
    }
}

const CERTIFICATE_MIN_SECONDS: i32 = 3600;
const CERTIFICATE_MAX_SECONDS: i32 = 91 * 24 * 3600;
const KUBERNETES_CERTIFICATE_MAX_SECONDS: i32 = 24 * 3600;

fn check_certificate(
    certificate: &api::PodCertificateProjection,
    files: &mut Files<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    const KEYS: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    check_signer(&certificate.signer_name, &path.child("signerName"), errors);
    for key in certificate.user_annotations.iter().flatten().map(|(key, _)| key) {
        let at = path.child("userAnnotations");
        let faults = format::qualified_name(&key.to_lowercase());
        if !faults.is_empty() {
            invalid(faults, key, &at, errors);
        } else if !key.contains('/') {
            errors.push(FieldError::invalid(&at, key.as_str(), "must have a domain, as in example.com/name"));
        }
    }
    check_user(certificate.user, &path.child("user"), errors);
    if !KEYS.contains(&certificate.key_type.as_str()) {
        errors.push(FieldError::not_supported(&path.child("keyType"), certificate.key_type.as_str(), KEYS));
    }
    if let Some(seconds) = certificate.max_expiration_seconds {
        let at = path.child("maxExpirationSeconds");
        let own = certificate.signer_name.split_once('/').is_some_and(|(d, _)| d.ends_with("kubernetes.io"));
        let most = if own { KUBERNETES_CERTIFICATE_MAX_SECONDS } else { CERTIFICATE_MAX_SECONDS };
        if !(CERTIFICATE_MIN_SECONDS..=most).contains(&seconds) {
            let detail = format!("must be between {CERTIFICATE_MIN_SECONDS} and {most}, inclusive");
            errors.push(FieldError::invalid(&at, seconds, detail));
        }
    }
    let paths = [
        ("credentialBundlePath", text(&certificate.credential_bundle_path)),
        ("keyPath", text(&certificate.key_path)),
        ("certificateChainPath", text(&certificate.certificate_chain_path)),
    ];
    for (field, file) in paths.iter().filter(|(_, file)| !file.is_empty()) {
        check_file_path(file, &path.child(field), errors);
        files.take(file, errors);
    }
    if paths.iter().all(|(_, file)| file.is_empty()) {
        errors.push(FieldError::required(path, "a path must be given"));
    }
}
