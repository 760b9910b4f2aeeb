//! What a node may say about a Pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::options::Options;
use super::update::annotations_path;
use super::{annotations, container};
use crate::format::{self, check_ip, invalid, is_dual_stack};
use crate::meta::IMMUTABLE;
use crate::view::{items, text};

/// A changed status.
pub(crate) fn check_update(new: &api::Pod, old: &api::Pod, errors: &mut ErrorList) {
    let spec = new.spec.clone().unwrap_or_default();
    let old_spec = old.spec.clone().unwrap_or_default();
    let (status, was) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    annotations::check_change(new, old, errors);
    let options = Options::of_old(Some(&old.metadata), &old_spec);
    annotations::check(&new.metadata, &spec, &options, &annotations_path(), errors);
    let path = Path::new("status");
    check_conditions(items(&status.conditions), &path.child("conditions"), errors);
    check_nomination(&status, &was, &old_spec, &path.child("nominatedNodeName"), errors);
    if let Some(generation) = status.observed_generation.filter(|g| *g < 0) {
        errors.push(FieldError::invalid(
            &path.child("observedGeneration"),
            generation,
            "must not be negative",
        ));
    }
    if status.qos_class != was.qos_class {
        errors.push(FieldError::invalid(&path.child("qosClass"), text(&status.qos_class), IMMUTABLE));
    }
    check_restarts(&status, &was, &old_spec, &path, errors);
    check_claims(&status, &spec, &path, errors);
    check_pod_ips(&status, &was, &path.child("podIPs"), errors);
    check_host_ips(&status, &was, &path.child("hostIPs"), errors);
    let lists = [
        ("containerStatuses", items(&status.container_statuses)),
        ("initContainerStatuses", items(&status.init_container_statuses)),
        ("ephemeralContainerStatuses", items(&status.ephemeral_container_statuses)),
    ];
    let os = spec.os.as_ref().map_or("linux", |os| os.name.as_str());
    for (field, statuses) in lists {
        check_users(statuses, os, &path.child(field), errors);
    }
    check_extended_claim(&status, &spec, &path.child("extendedResourceClaimStatus"), errors);
    for (field, statuses) in lists {
        let containers = match field {
            "containerStatuses" => &spec.containers[..],
            "initContainerStatuses" => items(&spec.init_containers),
            _ => {
                for (i, _) in statuses
                    .iter()
                    .enumerate()
                    .filter(|(_, one)| !items(&one.allocated_resources_status).is_empty())
                {
                    let at = path.child(field).index(i).child("allocatedResourcesStatus");
                    errors.push(FieldError::forbidden(&at, "ephemeral containers have no resources"));
                }
                continue;
            }
        };
        check_allocated(statuses, containers, &status, &path.child(field), errors);
    }
}

/// The claim that stands for extended resources, and which request is for what.
fn check_extended_claim(status: &api::PodStatus, spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(claim) = &status.extended_resource_claim_status else { return };
    let containers = || spec.containers.iter().chain(items(&spec.init_containers));
    let at = path.child("requestMappings");
    if claim.request_mappings.is_empty() {
        errors.push(FieldError::required(&at, "at least one is needed"));
    }
    let mut seen = BTreeSet::new();
    for (i, mapping) in claim.request_mappings.iter().enumerate() {
        let at = at.index(i);
        let (container, resource, request) =
            (&mapping.container_name, &mapping.resource_name, &mapping.request_name);
        match containers().find(|one| one.name == *container) {
            Some(one) if !requests(one).any(|name| name == resource) => {
                let detail = "must be one of the container's requests";
                errors.push(FieldError::invalid(&at.child("resourceName"), resource.as_str(), detail));
            }
            Some(_) => {}
            None => {
                let detail = "must be one of the Pod's containers";
                errors.push(FieldError::invalid(&at.child("containerName"), container.as_str(), detail));
            }
        }
        invalid(format::dns_label(request), request, &path.child("requestName"), errors);
        if !seen.insert((container, resource, request)) {
            for (field, value) in
                [("containerName", container), ("resourceName", resource), ("requestName", request)]
            {
                errors.push(FieldError::duplicate(&at.child(field), value.as_str()));
            }
        }
    }
    let name = &claim.resource_claim_name;
    let at = path.child("resourceClaimName");
    if name.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        invalid(format::dns_subdomain(name), name, &at, errors);
    }
}

fn requests(container: &api::Container) -> impl Iterator<Item = &String> {
    container.resources.iter().flat_map(|resources| &resources.requests).flatten().map(|(name, _)| name)
}

/// The health of what was allocated to containers.
fn check_allocated(
    statuses: &[api::ContainerStatus],
    containers: &[api::Container],
    pod: &api::PodStatus,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (i, status) in statuses.iter().enumerate() {
        let container = containers.iter().find(|one| one.name == status.name);
        for (j, allocated) in items(&status.allocated_resources_status).iter().enumerate() {
            let at = path.index(i).child("allocatedResourcesStatus").index(j);
            if container.is_some_and(|one| !is_allocated(&allocated.name, one, pod)) {
                let detail = "must be one of the container's requests or claims";
                errors.push(FieldError::invalid(&at.child("name"), allocated.name.as_str(), detail));
            }
            check_health(items(&allocated.resources), &at.child("resources"), errors);
        }
    }
}

fn is_allocated(name: &str, container: &api::Container, pod: &api::PodStatus) -> bool {
    if !name.starts_with("claim:") {
        return requests(container).any(|request| request == name);
    }
    let full = |claim: &str, request: &str| match request {
        "" => format!("claim:{claim}"),
        request => format!("claim:{claim}/{request}"),
    };
    let claims = container.resources.as_ref().map_or(&[][..], |resources| items(&resources.claims));
    claims.iter().any(|claim| full(&claim.name, text(&claim.request)) == name)
        || pod.extended_resource_claim_status.iter().any(|extended| {
            let own = extended.request_mappings.iter().filter(|one| one.container_name == container.name);
            own.into_iter().any(|one| full(&extended.resource_claim_name, &one.request_name) == name)
        })
}

fn check_health(resources: &[api::ResourceHealth], path: &Path, errors: &mut ErrorList) {
    const MESSAGE_MAX: usize = 1024;
    let mut seen = BTreeSet::new();
    for (k, resource) in resources.iter().enumerate() {
        let at = path.index(k);
        let known = ["Healthy", "Unhealthy", "Unknown"];
        let health = text(&resource.health);
        if !known.contains(&health) {
            errors.push(FieldError::not_supported(&at.child("health"), health, &known));
        }
        match &resource.message {
            Some(message) if message.is_empty() => {
                errors.push(FieldError::required(&at.child("message"), "must not be empty"));
            }
            Some(message) if message.len() > MESSAGE_MAX => {
                errors.push(FieldError::too_long(&at.child("message"), MESSAGE_MAX));
            }
            _ => {}
        }
        if !seen.insert(&resource.resource_id) {
            errors.push(FieldError::duplicate(&at.child("resourceID"), resource.resource_id.as_str()));
        }
    }
}

/// Warnings for a changed status.
pub(crate) fn warnings(obj: &Value) -> Vec<String> {
    let status = Path::new("status");
    let mut all = Vec::new();
    for field in ["podIPs", "hostIPs"] {
        let ips = obj["status"][field].as_array().into_iter().flatten();
        for (i, ip) in ips.enumerate() {
            let at = status.child(field).index(i).child("ip");
            all.extend(format::warn_ip(ip["ip"].as_str().unwrap_or_default(), &at));
        }
    }
    all
}

fn check_conditions(conditions: &[api::PodCondition], path: &Path, errors: &mut ErrorList) {
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.push(FieldError::invalid(
                &at.child("observedGeneration"),
                generation,
                "must not be negative",
            ));
        }
        invalid(format::qualified_name(&condition.type_), &condition.type_, &at.child("Type"), errors);
    }
}

fn check_nomination(
    status: &api::PodStatus,
    was: &api::PodStatus,
    old_spec: &api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    let name = text(&status.nominated_node_name);
    if name.is_empty() || name == text(&was.nominated_node_name) {
        return;
    }
    invalid(format::dns_subdomain(name), name, path, errors);
    if !text(&old_spec.node_name).is_empty() {
        errors.push(FieldError::forbidden(path, "the Pod is bound to a node already"));
    }
}

/// A container that has ended and will not be restarted stays ended.
fn check_restarts(
    status: &api::PodStatus,
    was: &api::PodStatus,
    spec: &api::PodSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    if !all_may_restart(spec) {
        let lists = [
            (
                "containerStatuses",
                items(&status.container_statuses),
                items(&was.container_statuses),
                &spec.containers[..],
            ),
            (
                "initContainerStatuses",
                items(&status.init_container_statuses),
                items(&was.init_container_statuses),
                items(&spec.init_containers),
            ),
        ];
        for (field, now, then, containers) in lists {
            let may = |name: &str, code: i32| {
                containers.iter().find(|c| c.name == name).is_some_and(|c| may_restart(c, spec, code))
            };
            check_ended(now, then, may, &path.child(field), errors);
        }
    }
    let (now, then) = (items(&status.ephemeral_container_statuses), items(&was.ephemeral_container_statuses));
    check_ended(now, then, |_, _| false, &path.child("ephemeralContainerStatuses"), errors);
}

fn check_ended(
    now: &[api::ContainerStatus],
    then: &[api::ContainerStatus],
    may_restart: impl Fn(&str, i32) -> bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let ended =
        |s: &api::ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    for (i, old) in then.iter().enumerate() {
        let Some(code) = ended(old) else { continue };
        let back = now.iter().any(|s| s.name == old.name && ended(s).is_none());
        if back && !may_restart(&old.name, code) {
            errors.push(FieldError::forbidden(
                &path.index(i).child("state"),
                "the container has ended for good",
            ));
        }
    }
}

/// A rule that restarts all containers can bring any of them back.
fn all_may_restart(spec: &api::PodSpec) -> bool {
    spec.containers
        .iter()
        .chain(items(&spec.init_containers))
        .flat_map(|c| items(&c.restart_policy_rules))
        .any(|r| r.action == "RestartAllContainers")
}

/// Whether a container is restarted after this exit code, by its rules, its own policy or the Pod's.
fn may_restart(c: &api::Container, spec: &api::PodSpec, code: i32) -> bool {
    for rule in items(&c.restart_policy_rules) {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = items(&codes.values).contains(&code);
        if listed == (codes.operator == "In") && rule.action.starts_with("Restart") {
            return true;
        }
    }
    let of_pod = text(&spec.restart_policy);
    match c.restart_policy.as_deref().unwrap_or(of_pod) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn check_claims(status: &api::PodStatus, spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, claim) in items(&status.resource_claim_statuses).iter().enumerate() {
        let at = path.child("resourceClaimStatuses").index(i);
        let name = claim.name.as_str();
        if !items(&spec.resource_claims).iter().any(|c| c.name == name) {
            errors.push(FieldError::invalid(&at.child("name"), name, "must be one of spec.resourceClaims"));
        }
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        if let Some(claim) = &claim.resource_claim_name {
            invalid(format::dns_subdomain(claim), claim, &at.child("resourceClaimName"), errors);
        }
    }
}

/// Addresses: each well-formed, one of each version, the first of them the plain field's.
fn check_addresses(
    (first, all): (&str, &[String]),
    old: &[String],
    plain: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (i, ip) in all.iter().enumerate() {
        check_ip(ip, old, &path.index(i), errors);
    }
    let list: Vec<&str> = all.iter().map(String::as_str).collect();
    if list.len() > 1 {
        match is_dual_stack(&list) {
            Some(true) if list.len() == 2 => {}
            None => {
                errors.push(FieldError::internal(path, "the versions of the addresses cannot be told"));
                errors.push(FieldError::invalid(
                    path,
                    Value::Null,
                    "one address of each version may be given",
                ));
            }
            Some(_) => {
                errors.push(FieldError::invalid(
                    path,
                    Value::Null,
                    "one address of each version may be given",
                ));
            }
        }
    }
    if let Some(head) = all.first()
        && head != first
    {
        let at = path.index(0).child("ip");
        errors.push(FieldError::invalid(&at, head.as_str(), format!("must be equal to `{plain}`")));
    }
}

fn check_pod_ips(status: &api::PodStatus, was: &api::PodStatus, path: &Path, errors: &mut ErrorList) {
    let of =
        |s: &api::PodStatus| -> Vec<String> { items(&s.pod_ips).iter().map(|ip| ip.ip.clone()).collect() };
    let (all, first) = (of(status), text(&status.pod_ip));
    check_addresses((first, &all), &of(was), "podIP", path, errors);
    if first.is_empty() != all.is_empty() {
        errors.push(FieldError::invalid(path, Value::Null, "podIP and podIPs are given both or not at all"));
    }
}

fn check_host_ips(status: &api::PodStatus, was: &api::PodStatus, path: &Path, errors: &mut ErrorList) {
    let of =
        |s: &api::PodStatus| -> Vec<String> { items(&s.host_ips).iter().map(|ip| ip.ip.clone()).collect() };
    let (all, first) = (of(status), text(&status.host_ip));
    check_addresses((first, &all), &of(was), "hostIP", path, errors);
}

fn check_users(statuses: &[api::ContainerStatus], os: &str, path: &Path, errors: &mut ErrorList) {
    for (i, status) in statuses.iter().enumerate() {
        let Some(user) = status.user.as_ref().and_then(|u| u.linux.as_ref()) else { continue };
        let at = path.index(i).child("user.linux");
        if os == "windows" {
            errors.push(FieldError::forbidden(&at, "cannot be set for a Windows Pod"));
            continue;
        }
        if !(0..=i64::from(u32::MAX)).contains(&user.uid) {
            let detail = format!("must be between 0 and {}, inclusive", u32::MAX);
            errors.push(FieldError::invalid(&at.child("uid"), user.uid, detail));
        }
        for fault in format::unix_id(user.gid) {
            errors.push(FieldError::invalid(&at.child("gid"), user.gid, fault));
        }
        for (g, group) in items(&user.supplemental_groups).iter().enumerate() {
            for fault in format::unix_id(*group) {
                errors.push(FieldError::invalid(&at.child("supplementalGroups").index(g), *group, fault));
            }
        }
    }
}

/// A binding of a Pod to a node.
pub fn check_binding(binding: &api::Binding) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("target");
    let kind = text(&binding.target.kind);
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    let name = text(&binding.target.name);
    if name.is_empty() {
        container::one_of(name, &[], &path.child("name"), &mut errors);
    } else if kind.is_empty() || kind == "Node" {
        invalid(format::dns_subdomain(name), name, &path.child("name"), &mut errors);
    }
    errors
}
