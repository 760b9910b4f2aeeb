//! Annotations of Pods that mean something to Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::options::Options;
use super::scheduling::check_tolerations;
use super::security::check_seccomp_annotation;
use super::spec::MIRROR;
use super::visit_containers;
use super::volume::check_descending;
use crate::view::text;

const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// What the loss of a Pod costs, when one of several is to go.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";

type Annotations = BTreeMap<String, String>;

/// The annotations of a Pod or a template, which stand at the path.
pub(crate) fn check(
    meta: &ObjectMeta,
    spec: &api::PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let none = Annotations::new();
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    if let Some(value) = annotations.get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        errors.push(FieldError::invalid(
            &path.key(MIRROR),
            value.as_str(),
            "a mirror Pod needs spec.nodeName",
        ));
    }
    if let Some(json) = annotations.get(TOLERATIONS).filter(|j| !j.is_empty()) {
        match serde_json::from_str::<Vec<api::Toleration>>(json) {
            Ok(tolerations) => check_tolerations(&tolerations, &path.child(TOLERATIONS), errors),
            Err(e) => errors.push(FieldError::invalid(path, TOLERATIONS, e.to_string())),
        }
    }
    if let Some(cost) = annotations.get(DELETION_COST)
        && !options.deletion_cost
        && !is_deletion_cost(cost)
    {
        errors.push(FieldError::invalid(&path.key(DELETION_COST), cost.as_str(), "must be a 32-bit integer"));
    }
    check_seccomp(annotations, path, errors);
    check_app_armor(annotations, spec, path, errors);
}

/// A number of 32 bits without leading zeros or a plus.
pub(crate) fn is_deletion_cost(cost: &str) -> bool {
    let digits = cost.strip_prefix('-').unwrap_or(cost);
    let padded = digits.starts_with('0') && cost != "0";
    !cost.starts_with('+') && !padded && cost.parse::<i32>().is_ok()
}

fn check_seccomp(annotations: &Annotations, path: &Path, errors: &mut ErrorList) {
    for (key, profile) in
        annotations.iter().filter(|(k, _)| *k == SECCOMP_POD || k.starts_with(SECCOMP_PREFIX))
    {
        let at = path.child(key);
        match profile.as_str() {
            "runtime/default" | "docker/default" | "unconfined" => {}
            other => match other.strip_prefix("localhost/") {
                Some(file) => check_descending(file, &at, errors),
                None => errors.push(FieldError::invalid(&at, other, "must be a seccomp profile")),
            },
        }
    }
}

fn check_app_armor(annotations: &Annotations, spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    for (key, profile) in annotations {
        let Some(name) = key.strip_prefix(APP_ARMOR_PREFIX) else { continue };
        let mut known = false;
        visit_containers(spec, path, |container, _| known |= container.name == name);
        if !known {
            errors.push(FieldError::invalid(&path.key(key), name, "there is no such container"));
        }
        let fits = matches!(profile.as_str(), "" | "runtime/default" | "unconfined")
            || profile.starts_with("localhost/");
        if !fits {
            errors.push(FieldError::invalid(&path.key(key), profile.as_str(), "must be an AppArmor profile"));
        }
    }
}

/// Annotations that stay as they are for a Pod's life.
pub(crate) fn check_change(new: &api::Pod, old: &api::Pod, errors: &mut ErrorList) {
    let path = Path::new("metadata").child("annotations");
    let none = Annotations::new();
    let is = new.metadata.annotations.as_ref().unwrap_or(&none);
    let was = old.metadata.annotations.as_ref().unwrap_or(&none);
    let fixed = |key: &str| key == MIRROR || key.starts_with(APP_ARMOR_PREFIX);
    for key in was.keys().filter(|k| fixed(k) && is.get(*k) != was.get(*k)) {
        errors.push(FieldError::forbidden(&path.key(key), "must not be changed or removed"));
    }
    for key in is.keys().filter(|k| fixed(k) && !was.contains_key(*k)) {
        errors.push(FieldError::forbidden(&path.key(key), "must not be added"));
    }
}

/// Where an annotation of old and a field speak of the same thing, they say the same. `path` is the specification's.
pub(crate) fn check_fields_match(
    meta: &ObjectMeta,
    spec: &api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    let Some(annotations) = &meta.annotations else { return };
    let of_pod = spec.security_context.as_ref();
    if let (Some(annotation), Some(profile)) =
        (annotations.get(SECCOMP_POD), of_pod.and_then(|s| s.seccomp_profile.as_ref()))
    {
        check_seccomp_annotation(annotation, profile, &path.child("securityContext.seccompProfile"), errors);
    }
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    visit_containers(spec, path, |container, at| {
        let own = container.security_context.as_ref();
        let at = at.child("securityContext");
        if let (Some(annotation), Some(profile)) = (
            annotations.get(&format!("{SECCOMP_PREFIX}{}", container.name)),
            own.and_then(|s| s.seccomp_profile.as_ref()),
        ) {
            check_seccomp_annotation(annotation, profile, &at.child("seccompProfile"), errors);
        }
        let profile = own
            .and_then(|s| s.app_armor_profile.as_ref())
            .or(of_pod.and_then(|s| s.app_armor_profile.as_ref()));
        let annotation = annotations.get(&format!("{APP_ARMOR_PREFIX}{}", container.name));
        if let (Some(annotation), Some(profile), false) = (annotation, profile, windows) {
            check_app_armor_match(annotation, profile, &at.child("appArmorProfile"), errors);
        }
    });
}

fn check_app_armor_match(
    annotation: &str,
    profile: &api::AppArmorProfile,
    path: &Path,
    errors: &mut ErrorList,
) {
    const DETAIL: &str = "the annotation says something else";
    let local = annotation.strip_prefix("localhost/");
    let fits = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default",
        "Localhost" => local.is_some(),
        _ => true,
    };
    if !fits {
        errors.push(FieldError::forbidden(&path.child("type"), DETAIL));
    } else if profile.type_ == "Localhost" && local != profile.localhost_profile.as_deref() {
        errors.push(FieldError::forbidden(&path.child("localhostProfile"), DETAIL));
    }
}
