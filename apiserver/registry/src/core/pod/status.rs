//! What a node may say about a Pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::options::Options;
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
    annotations::check(new, &spec, &Options::of_old(&old_spec), errors);
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
        && !first.is_empty()
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
    if let Some(head) = all.first().filter(|_| first.is_empty()) {
        errors.push(FieldError::invalid(
            &path.index(0).child("ip"),
            head.as_str(),
            "must be equal to `hostIP`",
        ));
    }
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
