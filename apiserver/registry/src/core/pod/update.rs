//! New Pods, and what may change of a Pod that is there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::container::{check_image_padding, is_sidecar};
use super::options::Options;
use super::scheduling::check_tolerations;
use super::spec::{MIRROR, Owner, check_spec};
use super::{annotations, qos};
use crate::meta::check_nonnegative;
use crate::view::{items, text};

fn spec_of(pod: &api::Pod) -> api::PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// Where a Pod's annotations stand.
pub(crate) fn annotations_path() -> Path {
    Path::new("metadata").child("annotations")
}

/// A new Pod.
pub(crate) fn check_create(pod: &api::Pod, errors: &mut ErrorList) {
    let spec = spec_of(pod);
    check_whole(pod, &spec, &Options::default(), errors);
    let path = Path::new("spec");
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "a new Pod has none"));
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("nodeName"),
            "cannot be set while schedulingGates remain",
        ));
    }
    annotations::check_fields_match(&pod.metadata, &spec, &path, errors);
}

/// A Pod as it stands, new or changed.
fn check_whole(pod: &api::Pod, spec: &api::PodSpec, options: &Options, errors: &mut ErrorList) {
    annotations::check(&pod.metadata, spec, options, &annotations_path(), errors);
    let path = Path::new("spec");
    check_spec(spec, Some(&pod.metadata), (Owner::Pod, options), &path, errors);
    if text(&spec.service_account_name).is_empty() {
        for (i, volume) in items(&spec.volumes).iter().enumerate() {
            let sources = volume.projected.iter().flat_map(|p| items(&p.sources)).enumerate();
            for (j, _) in sources.filter(|(_, s)| s.service_account_token.is_some()) {
                let at = path.child("volumes").index(i).child("projected.sources").index(j);
                let at = at.child("serviceAccountToken");
                errors.push(FieldError::forbidden(&at, "needs a serviceAccountName"));
            }
        }
    }
    if let Some(grace) = spec.termination_grace_period_seconds {
        check_nonnegative(grace, &path.child("terminationGracePeriodSeconds"), errors);
    }
    for (field, containers) in
        [("containers", &spec.containers[..]), ("initContainers", items(&spec.init_containers))]
    {
        for (i, container) in containers.iter().enumerate() {
            check_image_padding(container, &path.child(field).index(i), errors);
        }
    }
}

/// A changed Pod: of the specification, images, the deadline, tolerations and gates may change, and while it is gated, where it may
/// run.
pub(crate) fn check_update(new: &api::Pod, old: &api::Pod, errors: &mut ErrorList) {
    let (spec, was) = (spec_of(new), spec_of(old));
    let options = Options::of_old(Some(&old.metadata), &was);
    check_whole(new, &spec, &options, errors);
    annotations::check_change(new, old, errors);
    annotations::check(&new.metadata, &spec, &options, &annotations_path(), errors);
    let path = Path::new("spec");
    let lists = [
        ("containers", &spec.containers[..], &was.containers[..]),
        ("initContainers", items(&spec.init_containers), items(&was.init_containers)),
    ];
    for (field, containers, before) in lists {
        let at = path.child(field);
        if containers.len() != before.len() {
            errors.push(FieldError::forbidden(&at, "containers cannot be added or removed"));
            return;
        }
        for (i, container) in containers.iter().enumerate() {
            if text(&container.image).is_empty() {
                errors.push(FieldError::required(&at.index(i).child("image"), ""));
            }
            check_image_padding(container, &at.index(i), errors);
        }
    }
    if !check_deadline(&spec, &was, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    check_added_tolerations(&spec, &was, &path.child("tolerations"), errors);
    check_removed_gates(&spec, &was, &path.child("schedulingGates"), errors);
    if spec == was {
        return;
    }
    let munged = with_old_mutable_fields(&spec, &was, &path, errors);
    if munged != was {
        let detail = "of a Pod's specification only container images, activeDeadlineSeconds, additional tolerations and \
                      terminationGracePeriodSeconds (to 1, if it was negative) may change";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

/// False when nothing more is to be said.
fn check_deadline(spec: &api::PodSpec, was: &api::PodSpec, path: &Path, errors: &mut ErrorList) -> bool {
    match (spec.active_deadline_seconds, was.active_deadline_seconds) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(FieldError::invalid(path, seconds, detail));
            false
        }
        (Some(seconds), Some(before)) if seconds > before => {
            errors.push(FieldError::invalid(path, seconds, "must not become later"));
            false
        }
        (None, Some(_)) => {
            errors.push(FieldError::invalid(path, Value::Null, "must not be taken away"));
            true
        }
        _ => true,
    }
}

fn check_added_tolerations(spec: &api::PodSpec, was: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let tolerations = items(&spec.tolerations);
    for old in items(&was.tolerations) {
        let kept = tolerations.iter().any(|t| {
            let same = api::Toleration { toleration_seconds: t.toleration_seconds, ..old.clone() };
            same == *t
        });
        if !kept {
            let detail = "of a toleration only tolerationSeconds may change";
            errors.push(FieldError::forbidden(path, detail));
            return;
        }
    }
    check_tolerations(tolerations, path, errors);
}

fn check_removed_gates(spec: &api::PodSpec, was: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let before = items(&was.scheduling_gates);
    let mut added: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, gate) in items(&spec.scheduling_gates).iter().enumerate() {
        if !before.iter().any(|b| b.name == gate.name) {
            added.insert(&gate.name, i);
        }
    }
    for (name, i) in added {
        let detail = format!("gates can only be removed, {name:?} is new");
        errors.push(FieldError::forbidden(&path.index(i).child("name"), detail));
    }
}

/// The new specification with every field that may change set back.
fn with_old_mutable_fields(
    spec: &api::PodSpec,
    was: &api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) -> api::PodSpec {
    let mut munged = spec.clone();
    for (container, before) in munged.containers.iter_mut().zip(&was.containers) {
        container.image = before.image.clone();
    }
    for (container, before) in munged.init_containers.iter_mut().flatten().zip(items(&was.init_containers)) {
        container.image = before.image.clone();
    }
    munged.active_deadline_seconds = was.active_deadline_seconds;
    munged.scheduling_gates = was.scheduling_gates.clone();
    munged.tolerations = was.tolerations.clone();
    if was.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && munged.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = was.termination_grace_period_seconds;
    }
    if items(&was.scheduling_gates).is_empty() {
        return munged;
    }
    check_gated_node_selector(&munged, was, &path.child("nodeSelector"), errors);
    munged.node_selector = was.node_selector.clone();
    let old_node = was.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let new_node = munged.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    if old_node == new_node {
        return munged;
    }
    check_gated_affinity(new_node.as_ref(), old_node.as_ref(), &path.child("affinity.nodeAffinity"), errors);
    munged.affinity = match munged.affinity.take() {
        None => old_node.map(|node| api::Affinity { node_affinity: Some(node), ..Default::default() }),
        Some(a) if was.affinity.is_none() && a.pod_affinity.is_none() && a.pod_anti_affinity.is_none() => {
            None
        }
        Some(a) => Some(api::Affinity { node_affinity: old_node, ..a }),
    };
    munged
}

/// A gated Pod may ask for more of its node, never for less.
fn check_gated_node_selector(spec: &api::PodSpec, was: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let kept = |(key, value)| spec.node_selector.as_ref().and_then(|s| s.get(key)) == Some(value);
    if !was.node_selector.iter().flatten().all(kept) {
        errors.push(FieldError::invalid(path, Value::Null, "labels can only be added"));
    }
}

fn check_gated_affinity(
    new: Option<&api::NodeAffinity>,
    old: Option<&api::NodeAffinity>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let terms = |affinity: Option<&api::NodeAffinity>| {
        affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|s| s.node_selector_terms.clone())
            .unwrap_or_default()
    };
    let (terms, before) = (terms(new), terms(old));
    let at = path.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    if !before.is_empty() && before.len() != terms.len() {
        errors.push(FieldError::invalid(&at, Value::Null, "terms can be neither added nor removed"));
        return;
    }
    for (i, (term, was)) in terms.iter().zip(&before).enumerate() {
        if !only_additions(term, was) {
            errors.push(FieldError::invalid(&at.index(i), Value::Null, "requirements can only be added"));
        }
    }
}

fn only_additions(term: &api::NodeSelectorTerm, was: &api::NodeSelectorTerm) -> bool {
    let (expressions, fields) = (items(&term.match_expressions), items(&term.match_fields));
    let (old_expressions, old_fields) = (items(&was.match_expressions), items(&was.match_fields));
    // A term without requirements matches nothing: adding one would widen it.
    if old_expressions.is_empty() && old_fields.is_empty() {
        return expressions.is_empty() && fields.is_empty();
    }
    expressions.starts_with(old_expressions) && fields.starts_with(old_fields)
}

/// Ephemeral containers are only ever added.
pub(crate) fn check_ephemeral(new: &api::Pod, old: &api::Pod, errors: &mut ErrorList) {
    let (spec, was) = (spec_of(new), spec_of(old));
    if is_mirror(old) {
        *errors = FieldError::forbidden(&Path::new(""), "static Pods have no ephemeral containers").into();
        return;
    }
    let options = Options::of_old(Some(&old.metadata), &was);
    check_whole(new, &spec, &options, errors);
    annotations::check_change(new, old, errors);
    annotations::check(&new.metadata, &spec, &options, &annotations_path(), errors);
    let path = Path::new("spec").child("ephemeralContainers");
    for before in items(&was.ephemeral_containers) {
        match items(&spec.ephemeral_containers).iter().rev().find(|c| c.name == before.name) {
            None => {
                errors.push(FieldError::forbidden(&path, format!("{:?} cannot be removed", before.name)));
            }
            Some(now) if now != before => {
                errors.push(FieldError::forbidden(&path, format!("{:?} cannot be changed", before.name)));
            }
            Some(_) => {}
        }
    }
}

fn is_mirror(pod: &api::Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

/// Requests and limits of a running Pod.
pub(crate) fn check_resize(new: &api::Pod, old: &api::Pod, errors: &mut ErrorList) {
    let (spec, was) = (spec_of(new), spec_of(old));
    let path = Path::new("spec");
    if is_mirror(old) || was.os.as_ref().is_some_and(|os| os.name == "windows") {
        *errors =
            FieldError::forbidden(&Path::new(""), "static Pods and Windows Pods cannot be resized").into();
        return;
    }
    check_whole(new, &spec, &Options::of_old(Some(&old.metadata), &was), errors);
    let class =
        old.status.as_ref().and_then(|s| s.qos_class.clone()).unwrap_or_else(|| qos::class(&was).into());
    if class != qos::class(&spec) {
        errors.push(FieldError::invalid(&path, class, "a resize must not change the Pod's QoS class"));
    }
    if !node_can_resize(old) {
        errors.push(FieldError::forbidden(&path, "the Pod's node cannot resize Pods"));
    }
    let mut munged = spec.clone();
    check_pod_resize(&spec, &was, &mut munged, &path, errors);
    if !check_same_containers(&spec, &was, &path, errors) {
        return;
    }
    check_containers_resize(&spec, &was, &mut munged, &path, errors);
    if spec.volumes != was.volumes {
        errors.push(FieldError::forbidden(&path.child("volumes"), "a resize changes no volumes"));
    }
    if errors.is_empty() && munged != was {
        errors.push(FieldError::forbidden(&path, "a resize changes cpu and memory only"));
    }
}

/// A running container whose status shows no resources runs on a node that does not know resizing.
fn node_can_resize(pod: &api::Pod) -> bool {
    let statuses = pod.status.as_ref().map(|s| items(&s.container_statuses)).unwrap_or(&[]);
    let running = statuses.iter().find(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    running.is_none_or(|s| s.resources.is_some())
}

type Amounts = Option<super::resources::Amounts>;

fn removed(new: &Amounts, old: &Amounts) -> bool {
    old.iter().flatten().any(|(name, _)| !new.as_ref().is_some_and(|n| n.contains_key(name)))
}

/// The new amounts with the old ones of what a resize may change.
fn with_old_compute(new: &Amounts, old: &Amounts) -> Amounts {
    if new.is_none() && old.is_none() {
        return None;
    }
    let mut amounts = new.clone().unwrap_or_default();
    for name in ["cpu", "memory"] {
        match old.as_ref().and_then(|o| o.get(name)) {
            Some(quantity) => amounts.insert(name.into(), quantity.clone()),
            None => amounts.remove(name),
        };
    }
    Some(amounts)
}

/// An absent and an empty set of requirements are the same.
fn normalized(resources: Option<api::ResourceRequirements>) -> Option<api::ResourceRequirements> {
    let filled = |amounts: Amounts| amounts.filter(|a| !a.is_empty());
    resources
        .map(|r| api::ResourceRequirements {
            limits: filled(r.limits),
            requests: filled(r.requests),
            claims: r.claims,
        })
        .filter(|r| *r != api::ResourceRequirements::default())
}

fn with_old_requirements(
    new: Option<&api::ResourceRequirements>,
    old: Option<&api::ResourceRequirements>,
) -> Option<api::ResourceRequirements> {
    let none = api::ResourceRequirements::default();
    let (n, o) = (new.unwrap_or(&none), old.unwrap_or(&none));
    Some(api::ResourceRequirements {
        limits: with_old_compute(&n.limits, &o.limits),
        requests: with_old_compute(&n.requests, &o.requests),
        claims: n.claims.clone(),
    })
}

fn check_pod_resize(
    spec: &api::PodSpec,
    was: &api::PodSpec,
    munged: &mut api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    let (new, old) = (normalized(spec.resources.clone()), normalized(was.resources.clone()));
    if new.is_none() && old.is_none() {
        return;
    }
    let at = path.child("resources");
    if was.resources.is_some() && spec.resources.is_none() {
        errors.push(FieldError::forbidden(&at, "cannot be removed"));
        return;
    }
    let none = api::ResourceRequirements::default();
    let (n, o) = (spec.resources.as_ref().unwrap_or(&none), was.resources.as_ref().unwrap_or(&none));
    for (field, new, old) in [("requests", &n.requests, &o.requests), ("limits", &n.limits, &o.limits)] {
        if removed(new, old) {
            errors.push(FieldError::forbidden(&at.child(field), "cannot be removed"));
        }
    }
    let set_back = normalized(with_old_requirements(spec.resources.as_ref(), was.resources.as_ref()));
    if set_back != old {
        errors.push(FieldError::forbidden(path, "a resize of the Pod changes cpu and memory only"));
    }
    munged.resources = was.resources.clone();
}

fn check_same_containers(
    spec: &api::PodSpec,
    was: &api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) -> bool {
    let before = errors.len();
    let lists = [
        ("containers", &spec.containers[..], &was.containers[..]),
        ("initContainers", items(&spec.init_containers), items(&was.init_containers)),
    ];
    for (field, now, then) in lists {
        let at = path.child(field);
        if now.len() != then.len() {
            errors.push(FieldError::forbidden(&at, "a resize neither adds nor removes containers"));
            continue;
        }
        for (i, _) in now.iter().zip(then).enumerate().filter(|(_, (n, t))| n.name != t.name) {
            errors.push(FieldError::forbidden(&at.index(i).child("name"), "a resize renames no containers"));
        }
    }
    errors.len() == before
}

fn check_containers_resize(
    spec: &api::PodSpec,
    was: &api::PodSpec,
    munged: &mut api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    let none = api::ResourceRequirements::default();
    let lists = [
        ("initContainers", items(&spec.init_containers), items(&was.init_containers)),
        ("containers", &spec.containers[..], &was.containers[..]),
    ];
    for (field, now, then) in lists {
        for (i, (now, then)) in now.iter().zip(then).enumerate() {
            let at = path.child(field).index(i);
            let (n, o) = (now.resources.as_ref().unwrap_or(&none), then.resources.as_ref().unwrap_or(&none));
            for (field, new, old) in
                [("requests", &n.requests, &o.requests), ("limits", &n.limits, &o.limits)]
            {
                if removed(new, old) {
                    let at = at.child("resources").child(field);
                    errors.push(FieldError::forbidden(&at, "cannot be removed"));
                }
            }
            let set_back = api::Container {
                resources: normalized(with_old_requirements(now.resources.as_ref(), then.resources.as_ref())),
                ..now.clone()
            };
            let old = api::Container { resources: normalized(then.resources.clone()), ..then.clone() };
            let init = field == "initContainers";
            if set_back != old {
                let at = if init { at.clone() } else { path.clone() };
                errors.push(FieldError::forbidden(&at, "a resize changes cpu and memory only"));
            }
            let restarts =
                items(&now.resize_policy).iter().filter(|p| p.restart_policy == "RestartContainer").count();
            if init && now != then && !is_sidecar(now) {
                let detail = "an init container that would have to restart cannot be resized";
                (0..restarts).for_each(|_| errors.push(FieldError::forbidden(&at, detail)));
            }
        }
    }
    munged.containers = was.containers.clone();
    munged.init_containers = was.init_containers.clone();
}
