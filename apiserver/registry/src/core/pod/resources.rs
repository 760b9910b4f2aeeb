//! Requests and limits.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::quantity::Quantity;

use super::container::is_sidecar;
use super::options::Options;
use crate::format::{self, invalid};
use crate::quantity::{amount, is_negative, parse, zero};
use crate::view::items;

/// Amounts by the name of their resource.
pub(crate) type Amounts = BTreeMap<String, Written>;

/// Whose requirements they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// One container's.
    Container,
    /// The Pod's as a whole.
    Pod,
}

/// Resources that count in whole units.
pub(crate) fn is_integer_resource(name: &str) -> bool {
    const COUNTED: &[&str] = &[
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    COUNTED.contains(&name) || is_extended(name)
}

/// Resources beyond Kubernetes' own: with a domain, other than requests in quotas.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && format::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Kubernetes' own resources.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Pages of memory larger than usual.
pub(crate) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether more may be promised than there is: of Kubernetes' own, everything but huge pages.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn check_name(name: &str, level: Level, path: &Path, errors: &mut ErrorList) {
    const STANDARD: &[&str] = &[
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let before = errors.len();
    invalid(format::qualified_name(name), name, path, errors);
    let plain = !name.contains('/');
    if errors.len() == before && plain {
        let huge = is_huge_page(name) || name.starts_with("requests.hugepages-");
        if !STANDARD.contains(&name) && !huge {
            errors.push(FieldError::invalid(path, name, "must be one of Kubernetes' own or have a domain"));
        }
    }
    match level {
        Level::Pod => {
            if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
                errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
            }
        }
        Level::Container if plain => {
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
                errors.push(FieldError::invalid(path, name, "must be a resource that containers can have"));
            }
        }
        Level::Container => {
            if !is_native(name) && !is_extended(name) {
                errors.push(FieldError::invalid(path, name, "must be an extended resource's name"));
            }
        }
    }
}

/// An amount of a resource: not negative, and whole where the resource is counted.
pub(crate) fn check_amount(name: &str, quantity: &Written, path: &Path, errors: &mut ErrorList) {
    if is_negative(quantity) {
        errors.push(FieldError::invalid(path, quantity.0.as_str(), "must be greater than or equal to 0"));
    }
    if is_integer_resource(name) && !amount(quantity).is_whole() {
        errors.push(FieldError::invalid(path, quantity.0.as_str(), "must be an integer"));
    }
}

fn check_huge_pages(name: &str, quantity: &Written, options: &Options, path: &Path, errors: &mut ErrorList) {
    if options.indivisible_huge_pages {
        return;
    }
    if !divides(name, quantity) {
        errors.push(FieldError::invalid(path, quantity.0.as_str(), format!("must be a multiple of {name}")));
    }
}

/// Whether an amount of huge pages is a number of whole pages.
pub(crate) fn divides(name: &str, quantity: &Written) -> bool {
    let page = name.strip_prefix("hugepages-").and_then(parse).filter(|p| p.is_whole() && p.sign().is_gt());
    page.is_some_and(|page| amount(quantity).value() % page.value() == 0)
}

/// Requests and limits of a container or a Pod, in the light of the Pod's claims.
pub(crate) fn check(
    requirements: &api::ResourceRequirements,
    level: Level,
    (claims, options): (&BTreeSet<&str>, &Options),
    path: &Path,
    errors: &mut ErrorList,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let limit = |name: &str| requirements.limits.as_ref().and_then(|l| l.get(name));
    let (mut compute, mut huge) = (false, false);
    let both = [(&limits_path, &requirements.limits), (&requests_path, &requirements.requests)];
    for (list_path, amounts) in both {
        for (name, quantity) in amounts.iter().flatten() {
            let at = list_path.key(name);
            check_name(name, level, &at, errors);
            check_amount(name, quantity, &at, errors);
            if list_path == &requests_path {
                check_against_limit(name, quantity, limit(name), (&limits_path, &requests_path), errors);
            }
            if is_huge_page(name) {
                huge = true;
                check_huge_pages(name, quantity, options, &at, errors);
            }
            compute |= name == "cpu" || name == "memory";
        }
    }
    if huge && !compute {
        errors.push(FieldError::forbidden(path, "huge pages need cpu or memory beside them"));
    }
    check_claims(items(&requirements.claims), claims, &path.child("claims"), errors);
}

fn check_against_limit(
    name: &str,
    quantity: &Written,
    limit: Option<&Written>,
    (limits_path, requests_path): (&Path, &Path),
    errors: &mut ErrorList,
) {
    match limit {
        Some(limit) => {
            let (request, most) = (amount(quantity), amount(limit));
            if request != most && !may_overcommit(name) {
                let detail = format!("must be the {name} limit of {}", limit.0);
                errors.push(FieldError::invalid(requests_path, quantity.0.as_str(), detail));
            } else if request > most {
                let detail = format!("must not be above the {name} limit of {}", limit.0);
                errors.push(FieldError::invalid(requests_path, quantity.0.as_str(), detail));
            }
        }
        None if !may_overcommit(name) => {
            let detail = "a limit must be given for resources that cannot be promised twice";
            errors.push(FieldError::required(limits_path, detail));
        }
        None => {}
    }
}

fn check_claims(claims: &[api::ResourceClaim], of_pod: &BTreeSet<&str>, path: &Path, errors: &mut ErrorList) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = path.index(i);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if names.contains(name) {
            errors.push(FieldError::duplicate(&at, name));
        } else {
            let key = match claim.request.as_deref().filter(|r| !r.is_empty()) {
                Some(request) => {
                    invalid(format::dns_label(request), request, &at.child("request"), errors);
                    format!("{name}/{request}")
                }
                None => name.to_owned(),
            };
            if names.contains(&key) {
                errors.push(FieldError::duplicate(&at, key.as_str()));
            } else if key == name {
                // The whole claim beside one of its requests.
                let parts =
                    names.iter().filter(|n| n.split_once('/').is_some_and(|(c, _)| c == name)).count();
                (0..parts).for_each(|_| errors.push(FieldError::duplicate(&at, name)));
            }
            names.insert(key);
        }
        if !of_pod.contains(name) {
            errors.push(FieldError::not_found(&at, name));
        }
    }
}

/// The Pod's own requests and limits.
pub(crate) fn check_pod(
    spec: &api::PodSpec,
    (claims, options): (&BTreeSet<&str>, &Options),
    path: &Path,
    errors: &mut ErrorList,
) {
    let Some(requirements) = &spec.resources else { return };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.push(FieldError::forbidden(path, "a Windows Pod has none"));
        return;
    }
    if requirements.claims.is_some() {
        errors.push(FieldError::forbidden(&path.child("claims"), "claims are the containers'"));
    }
    check(requirements, Level::Pod, (claims, options), path, errors);
    check_covers_containers(spec, requirements, path, errors);
}

fn check_covers_containers(
    spec: &api::PodSpec,
    of_pod: &api::ResourceRequirements,
    path: &Path,
    errors: &mut ErrorList,
) {
    let checks = [
        ("requests", &of_pod.requests, total(spec, |r| &r.requests)),
        ("limits", &of_pod.limits, total(spec, |r| &r.limits)),
    ];
    for (field, amounts, totals) in checks {
        for (name, quantity) in amounts.iter().flatten() {
            let looked_at = field == "requests" || is_huge_page(name);
            if looked_at && totals.get(name).is_some_and(|sum| *sum > amount(quantity)) {
                let detail = "must not be below what the containers have together";
                errors.push(FieldError::invalid(&path.child(field).key(name), quantity.0.as_str(), detail));
            }
        }
    }
    let limits = of_pod.limits.as_ref();
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, quantity) in container.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            if limits.and_then(|l| l.get(name)).is_some_and(|most| amount(quantity) > amount(most)) {
                let at = path.child("containers").index(i).key(name).child("limits");
                errors.push(FieldError::invalid(
                    &at,
                    quantity.0.as_str(),
                    "must not be above the Pod's limit",
                ));
            }
        }
    }
}

/// What the containers need together: all ordinary ones and sidecars, or an init container with the sidecars before it, whichever
/// is more.
pub(crate) fn total(
    spec: &api::PodSpec,
    pick: fn(&api::ResourceRequirements) -> &Option<Amounts>,
) -> BTreeMap<String, Quantity> {
    let amounts = |c: &api::Container| -> Vec<(String, Quantity)> {
        let of = |r| pick(r).iter().flatten().map(|(n, q)| (n.clone(), amount(q))).collect();
        c.resources.as_ref().map(of).unwrap_or_default()
    };
    let mut sum: BTreeMap<String, Quantity> = BTreeMap::new();
    let add = |to: &mut BTreeMap<String, Quantity>, name: String, amount: Quantity| {
        let entry = to.entry(name).or_insert_with(zero);
        *entry = entry.add(&amount);
    };
    for container in &spec.containers {
        for (name, amount) in amounts(container) {
            add(&mut sum, name, amount);
        }
    }
    let (mut sidecars, mut most) = (BTreeMap::<String, Quantity>::new(), BTreeMap::<String, Quantity>::new());
    for container in items(&spec.init_containers) {
        let mut here = sidecars.clone();
        for (name, amount) in amounts(container) {
            add(&mut here, name.clone(), amount);
            if is_sidecar(container) {
                add(&mut sum, name.clone(), amount);
                add(&mut sidecars, name, amount);
            }
        }
        for (name, amount) in here {
            let entry = most.entry(name).or_insert_with(zero);
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in most {
        let entry = sum.entry(name).or_insert_with(zero);
        *entry = (*entry).max(amount);
    }
    sum
}
