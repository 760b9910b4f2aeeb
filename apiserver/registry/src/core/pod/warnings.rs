//! What is odd about a new Pod and yet not wrong.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use minik_apimachinery::field::Path;
use serde_json::Value;

use super::visit_containers;
use crate::format;
use crate::quantity::amount;
use crate::view::{items, text, try_view};

/// Warnings for a new Pod.
pub(crate) fn on_create(obj: &Value) -> Vec<String> {
    let Some(pod) = try_view::<api::Pod>(obj) else { return Vec::new() };
    let mut all = Vec::new();
    let faults = format::dns_label(text(&pod.metadata.name));
    if !faults.is_empty() {
        all.push(format!("metadata.name: it becomes the hostname, which should be a DNS label: {faults:?}"));
    }
    if let Some(spec) = &pod.spec {
        let annotations = pod.metadata.annotations.unwrap_or_default();
        of_spec(spec, &annotations, &Path::root(), &mut all);
    }
    all
}

/// Warnings for the template of a workload.
pub(crate) fn of_template(obj: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let template =
        obj.pointer("/spec/template").and_then(try_view::<api::PodTemplateSpec>).unwrap_or_default();
    if let Some(spec) = &template.spec {
        let annotations = template.metadata.and_then(|meta| meta.annotations).unwrap_or_default();
        of_spec(spec, &annotations, &Path::new("spec").child("template"), &mut all);
    }
    all
}

/// Warnings for the Pod (or the template of Pods) at a path.
fn of_spec(spec: &api::PodSpec, annotations: &BTreeMap<String, String>, root: &Path, all: &mut Vec<String>) {
    let path = root.child("spec");
    node_labels(spec, &path, all);
    let annotation = |key: &str| root.child("metadata").child("annotations").key(key);
    for key in DEAD_ANNOTATIONS.iter().filter(|key| annotations.contains_key(**key)) {
        all.push(format!("{}: non-functional; use the field instead", annotation(key)));
    }
    volumes(items(&spec.volumes), &path.child("volumes"), all);
    repeated(items(&spec.host_aliases).iter().map(|alias| alias.ip.as_str()), |i, ip| {
        all.push(format!("{}: duplicate ip {ip:?}", path.child("hostAliases").index(i).child("ip")));
    });
    let secrets = items(&spec.image_pull_secrets);
    let at = path.child("imagePullSecrets");
    repeated(secrets.iter().map(|secret| secret.name.as_str()), |i, name| {
        all.push(format!("{}: duplicate name {name:?}", at.index(i).child("name")));
    });
    for (i, _) in secrets.iter().enumerate().filter(|(_, secret)| secret.name.is_empty()) {
        all.push(format!("{}: invalid empty name", at.index(i).child("name")));
    }
    fractions(&spec.overhead, &path.child("overhead"), all);
    seccomp(spec, annotations, &annotation, all);
    visit_containers(spec, &path, |container, at| of_container(container, at, all));
    ports(spec, &path, all);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        all.push(format!("{at}: negative values are invalid and will be treated as 1"));
    }
    null_selectors(spec, &path, all);
    let servers = spec.dns_config.as_ref().map_or(&[][..], |dns| items(&dns.nameservers));
    let at = path.child("dnsConfig").child("nameservers");
    all.extend(servers.iter().enumerate().filter_map(|(i, ip)| format::warn_ip(ip, &at.index(i))));
    let at = path.child("hostAliases");
    let aliases = items(&spec.host_aliases).iter().enumerate();
    all.extend(aliases.filter_map(|(i, alias)| format::warn_ip(&alias.ip, &at.index(i).child("ip"))));
}

const DEAD_ANNOTATIONS: [&str; 3] = [
    "scheduler.alpha.kubernetes.io/critical-pod",
    "security.alpha.kubernetes.io/sysctls",
    "security.alpha.kubernetes.io/unsafe-sysctls",
];

/// What a deprecated label of nodes should be replaced by.
fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use taints and tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

fn node_labels(spec: &api::PodSpec, path: &Path, all: &mut Vec<String>) {
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some(message) = deprecated_label(key) {
            all.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    if let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
        let at = path.child("affinity").child("nodeAffinity");
        let required = at.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        let terms = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        for (i, term) in terms.map_or(&[][..], |one| &one.node_selector_terms).iter().enumerate() {
            selector_term(term, false, &required.index(i), all);
        }
        let preferred = at.child("preferredDuringSchedulingIgnoredDuringExecution");
        let terms = items(&affinity.preferred_during_scheduling_ignored_during_execution);
        for (i, term) in terms.iter().enumerate() {
            selector_term(&term.preference, true, &preferred.index(i).child("preference"), all);
        }
    }
    let at = path.child("topologySpreadConstraints");
    for (i, constraint) in items(&spec.topology_spread_constraints).iter().enumerate() {
        let key = &constraint.topology_key;
        if let Some(message) = deprecated_label(key) {
            all.push(format!("{}: {key} is {message}", at.index(i).child("topologyKey")));
        }
        if constraint.label_selector.is_none() {
            all.push(format!("{}: {NULL_SELECTOR}", at.index(i).child("labelSelector")));
        }
    }
}

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

fn selector_term(term: &api::NodeSelectorTerm, values: bool, path: &Path, all: &mut Vec<String>) {
    for (i, expression) in items(&term.match_expressions).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        if let Some(message) = deprecated_label(&expression.key) {
            all.push(format!("{}: {} is {message}", at.child("key"), expression.key));
        }
        // A wrong value is refused where it is required and matches nothing where it is preferred.
        for (j, value) in items(&expression.values).iter().enumerate().filter(|_| values) {
            for fault in format::label_value(value) {
                all.push(format!("{}: {value} is invalid, {fault}", at.child("values").index(j)));
            }
        }
    }
}

fn null_selectors(spec: &api::PodSpec, path: &Path, all: &mut Vec<String>) {
    let Some(affinity) = &spec.affinity else { return };
    let (mut required, mut preferred) = (Vec::new(), Vec::new());
    if let Some(one) = &affinity.pod_affinity {
        required.push(("podAffinity", &one.required_during_scheduling_ignored_during_execution));
        preferred.push(("podAffinity", &one.preferred_during_scheduling_ignored_during_execution));
    }
    if let Some(one) = &affinity.pod_anti_affinity {
        required.push(("podAntiAffinity", &one.required_during_scheduling_ignored_during_execution));
        preferred.push(("podAntiAffinity", &one.preferred_during_scheduling_ignored_during_execution));
    }
    let at = path.child("affinity");
    for (kind, terms) in required {
        let at = at.child(kind).child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, _) in items(terms).iter().enumerate().filter(|(_, term)| term.label_selector.is_none()) {
            all.push(format!("{}: {NULL_SELECTOR}", at.index(i).child("labelSelector")));
        }
    }
    for (kind, terms) in preferred {
        let at = at.child(kind).child("preferredDuringSchedulingIgnoredDuringExecution");
        let without = |term: &api::WeightedPodAffinityTerm| term.pod_affinity_term.label_selector.is_none();
        for (i, _) in items(terms).iter().enumerate().filter(|(_, term)| without(term)) {
            let at = at.index(i).child("podAffinityTerm").child("labelSelector");
            all.push(format!("{at}: {NULL_SELECTOR}"));
        }
    }
}

/// Calls `told` for every item that was there before.
fn repeated<'a>(list: impl Iterator<Item = &'a str>, mut told: impl FnMut(usize, &str)) {
    let mut seen = BTreeSet::new();
    for (i, item) in list.enumerate() {
        if !seen.insert(item) {
            told(i, item);
        }
    }
}

fn fractions(amounts: &Option<BTreeMap<String, Quantity>>, path: &Path, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(written) = amounts.as_ref().and_then(|amounts| amounts.get(name))
            && amount(written).milli_value() % 1000 != 0
        {
            let value = &written.0;
            all.push(format!(
                "{}: fractional byte value {value:?} is invalid, must be an integer",
                path.key(name)
            ));
        }
    }
}

fn seccomp(
    spec: &api::PodSpec,
    annotations: &BTreeMap<String, String>,
    annotation: &impl Fn(&str) -> Path,
    all: &mut Vec<String>,
) {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let mut tell = |key: &str, has_field: bool| {
        if !has_field && annotations.contains_key(key) {
            all.push(format!(
                "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                annotation(key)
            ));
        }
    };
    let of_pod = spec.security_context.as_ref().is_some_and(|context| context.seccomp_profile.is_some());
    tell(POD, of_pod);
    visit_containers(spec, &Path::root(), |container, _| {
        let context = container.security_context.as_ref();
        let has_field = context.is_some_and(|context| context.seccomp_profile.is_some());
        tell(&format!("{CONTAINER}{}", container.name), has_field);
    });
}

fn of_container(container: &api::Container, path: &Path, all: &mut Vec<String>) {
    if let Some(resources) = &container.resources {
        let at = path.child("resources");
        fractions(&resources.limits, &at.child("limits"), all);
        fractions(&resources.requests, &at.child("requests"), all);
    }
    let mut seen = BTreeSet::new();
    for (i, var) in items(&container.env).iter().enumerate() {
        if seen.insert(var.name.as_str()) {
            continue;
        }
        // A later definition may build on the earlier one.
        let earlier = format!("$({})", var.name);
        let value = text(&var.value);
        if var.value_from.is_some() || value == earlier || !value.contains(&earlier) {
            let at = path.child("env").index(i);
            let name = &var.name;
            all.push(format!(
                "{at}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// So many ports with the same number are compared with a further one, and so many warnings are enough: of twenty thousand equal
/// ports each pair would be told of.
const MOST_TOLD: usize = 100;

fn ports(spec: &api::PodSpec, path: &Path, all: &mut Vec<String>) {
    let most = all.len() + MOST_TOLD;
    let mut by_port: BTreeMap<String, Vec<(Path, api::ContainerPort)>> = BTreeMap::new();
    visit_containers(spec, path, |container, at| {
        for (i, port) in items(&container.ports).iter().enumerate() {
            if all.len() >= most {
                return;
            }
            let at = at.child("ports").index(i);
            let (ip, host) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            if !ip.is_empty() && host == 0 {
                all.push(format!("{at}: hostIP set without hostPort"));
            }
            let key = format!("{}/{}", port.container_port, text(&port.protocol));
            let others = by_port.entry(key).or_default();
            for (other_at, other) in others.iter() {
                let (other_ip, other_host) = (text(&other.host_ip), other.host_port.unwrap_or(0));
                if ip == other_ip && host == other_host {
                    all.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if host == 0 || other_host == 0 {
                    all.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    all.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            if others.len() < MOST_TOLD {
                others.push((at, port.clone()));
            }
        }
    });
    let mut names: BTreeMap<String, Path> = BTreeMap::new();
    visit_containers(spec, path, |container, at| {
        for (i, port) in items(&container.ports).iter().enumerate() {
            let (at, name) = (at.child("ports").index(i), text(&port.name));
            if name.is_empty() {
                continue;
            }
            match names.get(name) {
                Some(_) if all.len() >= most + MOST_TOLD => return,
                Some(other) => all.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, which is what selecting by name finds"
                )),
                None => {
                    names.insert(name.to_owned(), at);
                }
            }
        }
    });
}

fn volumes(volumes: &[api::Volume], path: &Path, all: &mut Vec<String>) {
    for (i, volume) in volumes.iter().enumerate() {
        let old = [
            (
                volume.photon_persistent_disk.is_some(),
                "photonPersistentDisk",
                "v1.11, non-functional in v1.16+",
            ),
            (volume.git_repo.is_some(), "gitRepo", "v1.11, and disabled by default in v1.33+"),
            (volume.scale_io.is_some(), "scaleIO", "v1.16, non-functional in v1.22+"),
            (volume.flocker.is_some(), "flocker", "v1.22, non-functional in v1.25+"),
            (volume.storageos.is_some(), "storageOS", "v1.22, non-functional in v1.25+"),
            (volume.quobyte.is_some(), "quobyte", "v1.22, non-functional in v1.25+"),
            (volume.glusterfs.is_some(), "glusterfs", "v1.25, non-functional in v1.26+"),
            (volume.cephfs.is_some(), "cephfs", "v1.28, non-functional in v1.31+"),
            (volume.rbd.is_some(), "rbd", "v1.28, non-functional in v1.31+"),
        ];
        for (_, field, since) in old.iter().filter(|(given, ..)| *given) {
            all.push(format!("{}: deprecated in {since}", path.index(i).child(field)));
        }
        if let Some(template) = volume.ephemeral.as_ref().and_then(|one| one.volume_claim_template.as_ref())
            && let Some(resources) = &template.spec.resources
        {
            let at = path
                .index(i)
                .child("ephemeral")
                .child("volumeClaimTemplate")
                .child("spec")
                .child("resources");
            for (field, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
                if let Some(written) = amounts.as_ref().and_then(|amounts| amounts.get("storage"))
                    && amount(written).milli_value() % 1000 != 0
                {
                    let at = at.child(field).key("storage");
                    all.push(format!("{at}: fractional byte value {:?} is invalid", written.0));
                }
            }
        }
    }
    for volume in volumes {
        overlaps(volume, all);
    }
}

/// A path within a volume and what puts it there.
type Placed = (String, String);

/// Paths of one volume that hide each other.
fn overlaps(volume: &api::Volume, all: &mut Vec<String>) {
    let keys = |list: &Option<Vec<api::KeyToPath>>, source: &str| -> Vec<Placed> {
        items(list).iter().map(|one| (one.path.clone(), source.to_owned())).collect()
    };
    let downward = |list: &Option<Vec<api::DownwardAPIVolumeFile>>, source: &str| -> Vec<Placed> {
        items(list).iter().map(|one| (one.path.clone(), source.to_owned())).collect()
    };
    let name = &volume.name;
    if let Some(one) = &volume.config_map {
        collide(name, &format!("ConfigMap {:?}", one.name), keys(&one.items, ""), &mut Vec::new(), all);
    }
    if let Some(one) = &volume.secret {
        let source = format!("Secret {:?}", text(&one.secret_name));
        collide(name, &source, keys(&one.items, ""), &mut Vec::new(), all);
    }
    if let Some(one) = &volume.downward_api {
        collide(name, "DownwardAPI", downward(&one.items, ""), &mut Vec::new(), all);
    }
    let mut placed = Vec::new();
    for source in volume.projected.iter().flat_map(|one| items(&one.sources)) {
        if *source == api::VolumeProjection::default() {
            all.push(format!("volume {name:?} (Projected) has no sources provided"));
            continue;
        }
        let mut paths = Vec::new();
        if let Some(one) = &source.config_map {
            paths = keys(&one.items, &format!("ConfigMap {:?}", one.name));
        } else if let Some(one) = &source.secret {
            paths = keys(&one.items, &format!("Secret {:?}", one.name));
        } else if let Some(one) = &source.downward_api {
            paths = downward(&one.items, "DownwardAPI");
        } else if let Some(one) = &source.service_account_token {
            paths = vec![(one.path.clone(), "ServiceAccountToken".into())];
        } else if let Some(one) = &source.cluster_trust_bundle {
            let bundle = one.name.as_ref().or(one.signer_name.as_ref());
            paths = vec![(one.path.clone(), format!("ClusterTrustBundle {:?}", text(&bundle.cloned())))];
        } else if let Some(one) = &source.pod_certificate {
            let files = [&one.certificate_chain_path, &one.key_path, &one.credential_bundle_path];
            let files = files.into_iter().filter(|path| !text(path).is_empty());
            paths = files.map(|path| (text(path).to_owned(), "PodCertificate".into())).collect();
        }
        collide(name, "Projected", paths, &mut placed, all);
    }
}

fn collide(name: &str, source: &str, paths: Vec<Placed>, placed: &mut Vec<Placed>, all: &mut Vec<String>) {
    let tell = |(path, source): &Placed| match source.as_str() {
        "" => format!("{path:?}"),
        source => format!("{path:?} ({source})"),
    };
    for (path, from) in paths {
        let new = (path.trim_end_matches('/').to_owned(), from);
        let within = |outer: &str, inner: &str| format!("{inner}/").starts_with(&format!("{outer}/"));
        for old in placed.iter().filter(|old| !old.0.is_empty() && !new.0.is_empty()) {
            if within(&old.0, &new.0) || within(&new.0, &old.0) {
                let (new, old) = (tell(&new), tell(old));
                all.push(format!("volume {name:?} ({source}): overlapping paths: {new} with {old}"));
            }
        }
        placed.push(new);
    }
}
