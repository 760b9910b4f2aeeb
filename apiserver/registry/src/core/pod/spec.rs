//! The specification of a Pod, in a Pod or in a template.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::container::{
    PodContext, check_containers, check_ephemeral_containers, check_init_containers, one_of,
};
use super::options::Options;
use super::{env, resources, scheduling, security, volume};
use crate::format::{self, check_ip, invalid};
use crate::meta::check_labels;
use crate::view::{items, text, yes};

/// Whether the spec is a Pod's own; templates are looked at a little less strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A Pod.
    Pod,
    /// A template that Pods will be made from.
    Template,
}

/// Everything that is wrong with a specification, whatever it belongs to. `meta` is the Pod's or the template's.
pub(crate) fn check_spec(
    spec: &api::PodSpec,
    meta: Option<&ObjectMeta>,
    (owner, options): (Owner, &Options),
    path: &Path,
    errors: &mut ErrorList,
) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::check_volumes(items(&spec.volumes), meta, options, &path.child("volumes"), errors);
    let claims: BTreeSet<&str> =
        items(&spec.resource_claims).iter().map(|c| c.name.as_str()).filter(|n| !n.is_empty()).collect();
    check_resource_claims(spec, meta, &path.child("resourceClaims"), errors);
    let pod = PodContext {
        volumes,
        claims,
        grace: spec.termination_grace_period_seconds,
        restart_policy: text(&spec.restart_policy),
        host_users: spec.host_users.unwrap_or(true),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        options,
    };
    check_containers(&spec.containers, &pod, &path.child("containers"), errors);
    check_init_containers(spec, &pod, &path.child("initContainers"), errors);
    check_ephemeral_containers(spec, &pod, &path.child("ephemeralContainers"), errors);
    resources::check_pod(spec, (&pod.claims, options), &path.child("resources"), errors);
    check_host_network(spec, owner, &path.child("containers"), errors);
    check_policies(spec, path, errors);
    check_placement(spec, options, path, errors);
    check_isolation(spec, options, path, errors);
    check_names(spec, path, errors);
    check_dns(spec, &path.child("dnsConfig"), errors);
    check_gates(spec, path, errors);
    check_host_aliases(spec, &path.child("hostAliases"), errors);
    if let Some(overhead) = &spec.overhead {
        let as_limits = api::ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
        let at = path.child("overhead");
        let none = BTreeSet::new();
        resources::check(&as_limits, resources::Level::Container, (&none, options), &at, errors);
    }
    env::check_file_volumes(spec, path, errors);
}

fn check_policies(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let restart = ["Always", "OnFailure", "Never"];
    one_of(text(&spec.restart_policy), &restart, &path.child("restartPolicy"), errors);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(text(&spec.dns_policy), &dns, &path.child("dnsPolicy"), errors);
    if let Some(policy) = &spec.preemption_policy {
        check_preemption_policy(policy, &path.child("preemptionPolicy"), errors);
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
}

/// Whether Pods of a priority may displace others.
pub(crate) fn check_preemption_policy(policy: &str, path: &Path, errors: &mut ErrorList) {
    one_of(policy, &["PreemptLowerPriority", "Never"], path, errors);
}

fn check_placement(spec: &api::PodSpec, options: &Options, path: &Path, errors: &mut ErrorList) {
    if let Some(labels) = &spec.node_selector {
        check_labels(labels, &path.child("nodeSelector"), errors);
    }
    if let Some(affinity) = &spec.affinity {
        scheduling::check_affinity(affinity, options, &path.child("affinity"), errors);
    }
    let constraints = items(&spec.topology_spread_constraints);
    scheduling::check_spread(constraints, options, &path.child("topologySpreadConstraints"), errors);
    scheduling::check_tolerations(items(&spec.tolerations), &path.child("tolerations"), errors);
}

fn check_isolation(spec: &api::PodSpec, options: &Options, path: &Path, errors: &mut ErrorList) {
    if let Some(context) = &spec.security_context {
        security::check_pod_context(context, spec, options, &path.child("securityContext"), errors);
    }
    if yes(&spec.share_process_namespace) && yes(&spec.host_pid) {
        let at = path.child("shareProcessNamespace");
        errors.push(FieldError::invalid(&at, true, "cannot be set together with hostPID"));
    }
    security::check_host_process(spec, path, errors);
    security::check_host_users(spec, options, path, errors);
    security::check_os(spec, path, errors);
}

const HOSTNAME_MAX_BYTES: usize = 64;

fn check_names(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let subdomains = [
        ("serviceAccountName", text(&spec.service_account_name)),
        ("nodeName", text(&spec.node_name)),
        ("priorityClassName", text(&spec.priority_class_name)),
    ];
    for (field, name) in subdomains.into_iter().filter(|(_, name)| !name.is_empty()) {
        invalid(format::dns_subdomain(name), name, &path.child(field), errors);
    }
    if let Some(class) = &spec.runtime_class_name {
        invalid(format::dns_subdomain(class), class, &path.child("runtimeClassName"), errors);
    }
    let old_name = text(&spec.service_account);
    if old_name != text(&spec.service_account_name) {
        let detail = "must be the same as serviceAccountName";
        errors.push(FieldError::invalid(&path.child("deprecatedServiceAccount"), old_name, detail));
    }
    for (field, name) in [("hostname", text(&spec.hostname)), ("subdomain", text(&spec.subdomain))] {
        if !name.is_empty() {
            invalid(format::dns_label(name), name, &path.child(field), errors);
        }
    }
    let Some(name) = &spec.hostname_override else { return };
    let at = path.child("hostnameOverride");
    if yes(&spec.set_hostname_as_fqdn) {
        errors.push(FieldError::forbidden(&at, "cannot be set together with setHostnameAsFQDN"));
    }
    if yes(&spec.host_network) {
        errors.push(FieldError::forbidden(&at, "cannot be set together with hostNetwork"));
    }
    if name.len() > HOSTNAME_MAX_BYTES {
        errors.push(FieldError::too_long(&at, HOSTNAME_MAX_BYTES));
    }
    invalid(format::dns_subdomain(name), name, &at, errors);
}

fn check_gates(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    for (i, gate) in items(&spec.readiness_gates).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        invalid(format::qualified_name(&gate.condition_type), &gate.condition_type, &at, errors);
    }
    let mut names = BTreeSet::new();
    for (i, gate) in items(&spec.scheduling_gates).iter().enumerate() {
        let at = path.child("schedulingGates").index(i);
        invalid(format::qualified_name(&gate.name), &gate.name, &at, errors);
        if !names.insert(gate.name.as_str()) {
            errors.push(FieldError::duplicate(&at, gate.name.as_str()));
        }
    }
}

/// The annotation of Pods that a kubelet runs without being told by the API.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

fn check_resource_claims(
    spec: &api::PodSpec,
    meta: Option<&ObjectMeta>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mirror = meta.and_then(|m| m.annotations.as_ref()).is_some_and(|a| a.contains_key(MIRROR));
    let mut names = BTreeSet::new();
    for (i, claim) in items(&spec.resource_claims).iter().enumerate() {
        if mirror {
            errors.push(FieldError::forbidden(&Path::new(""), "static Pods have no resource claims"));
            continue;
        }
        let at = path.index(i);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !names.insert(claim.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), claim.name.as_str()));
        } else {
            invalid(format::dns_label(&claim.name), &claim.name, &at.child("name"), errors);
        }
        if claim.resource_claim_name.is_some() == claim.resource_claim_template_name.is_some() {
            let detail = "resourceClaimName or resourceClaimTemplateName must be given, not both";
            errors.push(FieldError::invalid(&at, claim.name.as_str(), detail));
        }
        let sources = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        for (field, name) in sources {
            if let Some(name) = name {
                invalid(format::dns_subdomain(name), name, &at.child(field), errors);
            }
        }
    }
}

/// In the host's network a container's ports are the host's.
fn check_host_network(spec: &api::PodSpec, owner: Owner, path: &Path, errors: &mut ErrorList) {
    if !yes(&spec.host_network) {
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in items(&container.ports).iter().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (owner == Owner::Pod || host != 0) && host != port.container_port {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::invalid(&at, host, "must be containerPort in the host's network"));
            }
        }
    }
}

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_MAX_BYTES: usize = 2048;

fn check_dns(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let none = text(&spec.dns_policy) == "None";
    let Some(config) = &spec.dns_config else {
        if none {
            errors.push(FieldError::required(path, "dnsPolicy None needs it"));
        }
        return;
    };
    let servers = items(&config.nameservers);
    let at = path.child("nameservers");
    if none && servers.is_empty() {
        errors.push(FieldError::required(&at, "dnsPolicy None needs a nameserver"));
        return;
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX}");
        errors.push(FieldError::invalid(&at, servers.to_vec(), detail));
    }
    for (i, server) in servers.iter().enumerate() {
        check_ip(server, &[], &at.index(i), errors);
    }
    check_searches(items(&config.searches), &path.child("searches"), errors);
    for (i, option) in items(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(i), "must have a name"));
        }
    }
}

fn check_searches(searches: &[String], path: &Path, errors: &mut ErrorList) {
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX}");
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    if searches.join(" ").len() > SEARCH_LIST_MAX_BYTES {
        let detail = format!("must not be longer than {SEARCH_LIST_MAX_BYTES} bytes, blanks included");
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        invalid(format::dns_subdomain_with_underscore(name), name, &path.index(i), errors);
    }
}

fn check_host_aliases(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        let at = path.index(i);
        check_ip(&alias.ip, &[], &at.child("ip"), errors);
        for (j, name) in items(&alias.hostnames).iter().enumerate() {
            invalid(format::dns_subdomain(name), name, &at.child("hostnames").index(j), errors);
        }
    }
}
