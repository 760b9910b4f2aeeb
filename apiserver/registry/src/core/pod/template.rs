//! Templates that workloads make Pods from.

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::annotations;
use super::options::Options;
use super::spec::{Owner, check_spec};
use crate::meta::{check_annotations, check_labels};
use crate::view::items;

pub(crate) use super::prepare::drop_disabled;

/// Everything that is wrong with a template; what the one before had wrong may stay.
pub(crate) fn check(
    template: &api::PodTemplateSpec,
    before: Option<&api::PodTemplateSpec>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let options = before.map_or_else(Options::default, |before| {
        Options::of_old(before.metadata.as_ref(), &before.spec.clone().unwrap_or_default())
    });
    let meta = template.metadata.clone().unwrap_or_default();
    let spec = template.spec.clone().unwrap_or_default();
    let (of_spec, of_annotations) = (path.child("spec"), path.child("annotations"));
    check_labels(&meta.labels.clone().unwrap_or_default(), &path.child("labels"), errors);
    check_annotations(&meta.annotations.clone().unwrap_or_default(), &of_annotations, errors);
    annotations::check(&meta, &spec, &options, &of_annotations, errors);
    check_spec(&spec, None, (Owner::Template, &options), &of_spec, errors);
    annotations::check_fields_match(&meta, &spec, &of_spec, errors);
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(FieldError::forbidden(&of_spec.child("ephemeralContainers"), "a new Pod has none"));
    }
}
