//! What a user means by `pods`, `po`, `pod/web`, `deployments.apps` or `all`.

use crate::Failure;
use minik_client::{Discovery, Resource};

/// One resource, and which of its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The resource.
    pub resource: Resource,
    /// The objects by name; none for all that selectors select.
    pub names: Vec<String>,
}

/// The resource of a name: plural, singular, short, or one of these with `.group` or `.version.group`.
///
/// # Errors
/// When the server has none of that name.
pub fn resolve<'a>(discovery: &'a Discovery, name: &str) -> Result<&'a Resource, Failure> {
    let lower = name.to_lowercase();
    let (plain, rest) = lower.split_once('.').unwrap_or((&lower, ""));
    let (version, group) = rest.split_once('.').unwrap_or((rest, ""));
    let placed = |one: &&Resource| match rest {
        "" => true,
        rest => {
            let core = rest == one.version && one.group.is_empty();
            core || one.group == rest || (one.version == version && one.group == group)
        }
    };
    let named =
        |one: &&Resource| one.plural == plain || one.singular == plain || one.kind.to_lowercase() == plain;
    let short = |one: &&Resource| one.short_names.iter().any(|short| short == plain);
    let preferred = || discovery.preferred();
    preferred()
        .filter(placed)
        .find(named)
        .or_else(|| preferred().filter(placed).find(short))
        .or_else(|| discovery.resources.iter().filter(placed).find(|one| named(one) || short(one)))
        .ok_or_else(|| {
            Failure::new(format!("the server doesn't have a resource type {name:?}"))
                .hint("`minikctl api-resources` lists what it has")
        })
}

/// The resources of a name, which may be a category, or of several with commas between.
fn resolve_all(discovery: &Discovery, names: &str) -> Result<Vec<Resource>, Failure> {
    let mut all = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let in_category = |one: &&Resource| one.categories.iter().any(|category| category == name);
        let category: Vec<Resource> = discovery.preferred().filter(in_category).cloned().collect();
        match category.is_empty() {
            true => all.push(resolve(discovery, name)?.clone()),
            false => all.extend(category),
        }
    }
    Ok(all)
}

/// What arguments such as `pods web`, `pod/web svc/db` or `pods,services` mean.
///
/// # Errors
/// When they mix forms, or name what the server does not have.
pub fn targets(discovery: &Discovery, arguments: &[String]) -> Result<Vec<Target>, Failure> {
    let usage = "write TYPE, TYPE NAME, or TYPE/NAME";
    let Some(first) = arguments.first() else {
        return Err(Failure::new("no resource is named").hint(usage));
    };
    if !first.contains('/') {
        if let Some(mixed) = arguments[1..].iter().find(|one| one.contains('/')) {
            return Err(Failure::new(format!("{first} cannot be followed by {mixed}")).hint(usage));
        }
        let names = arguments[1..].to_vec();
        let of = |resource| Target { resource, names: names.clone() };
        return Ok(resolve_all(discovery, first)?.into_iter().map(of).collect());
    }
    let mut all: Vec<Target> = Vec::new();
    for argument in arguments {
        let Some((kind, name)) = argument.split_once('/').filter(|(_, name)| !name.is_empty()) else {
            return Err(Failure::new(format!("{argument:?} is no TYPE/NAME")).hint(usage));
        };
        for resource in resolve_all(discovery, kind)? {
            match all.last_mut().filter(|last| last.resource == resource) {
                Some(last) => last.names.push(name.to_owned()),
                None => all.push(Target { resource, names: vec![name.to_owned()] }),
            }
        }
    }
    Ok(all)
}

/// `pod/web`, `deployment.apps/web`.
pub fn tagged(resource: &Resource, name: &str) -> String {
    match resource.group.is_empty() {
        true => format!("{}/{name}", resource.singular),
        false => format!("{}.{}/{name}", resource.singular, resource.group),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Pods, Events in two groups, Deployments in two versions.
    pub fn discovery() -> Discovery {
        let one = |group: &str, version: &str, plural: &str, kind: &str, short: &str, categories: &[&str]| {
            Resource {
                group: group.into(),
                version: version.into(),
                plural: plural.into(),
                singular: kind.to_lowercase(),
                kind: kind.into(),
                short_names: vec![short.into()],
                categories: categories.iter().map(|one| (*one).to_owned()).collect(),
                namespaced: true,
                verbs: vec![
                    "get".into(),
                    "list".into(),
                    "watch".into(),
                    "delete".into(),
                    "deletecollection".into(),
                ],
                subresources: if group == "apps" { vec!["scale".into()] } else { vec![] },
            }
        };
        let cluster = |resource| Resource { namespaced: false, ..resource };
        Discovery {
            resources: vec![
                one("", "v1", "configmaps", "ConfigMap", "cm", &[]),
                one("", "v1", "pods", "Pod", "po", &["all"]),
                one("", "v1", "services", "Service", "svc", &["all"]),
                one("", "v1", "events", "Event", "ev", &[]),
                cluster(one("", "v1", "namespaces", "Namespace", "ns", &[])),
                cluster(one("", "v1", "nodes", "Node", "no", &[])),
                one("events.k8s.io", "v1", "events", "Event", "ev", &[]),
                one("apps", "v1", "deployments", "Deployment", "deploy", &["all"]),
                one("apps", "v1beta1", "deployments", "Deployment", "deploy", &["all"]),
            ],
            stale: vec![],
        }
    }

    fn check(arguments: &[&str], wanted: &str) {
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let found = match targets(&discovery(), &arguments) {
            Ok(targets) => targets
                .iter()
                .map(|one| {
                    format!("{}/{} {}", one.resource.api_version(), one.resource.plural, one.names.join("+"))
                })
                .collect::<Vec<_>>()
                .join("; "),
            Err(failure) => failure.to_string(),
        };
        assert_eq!(found, wanted, "{arguments:?}");
    }

    #[test]
    fn names_of_all_forms_are_understood() {
        check(&["pods"], "v1/pods ");
        check(&["Pod", "a", "b"], "v1/pods a+b");
        check(&["po/a", "pod/b", "svc/c"], "v1/pods a+b; v1/services c");
        check(&["po,svc"], "v1/pods ; v1/services ");
        check(&["all"], "v1/pods ; v1/services ; apps/v1/deployments ");
        check(&["events"], "v1/events ");
        check(&["events.events.k8s.io"], "events.k8s.io/v1/events ");
        check(&["deploy.v1beta1.apps"], "apps/v1beta1/deployments ");
        check(&["pods.v1"], "v1/pods ");
        check(
            &["things"],
            "the server doesn't have a resource type \"things\": `minikctl api-resources` lists what it has",
        );
        check(&["pods", "svc/a"], "pods cannot be followed by svc/a: write TYPE, TYPE NAME, or TYPE/NAME");
        check(&["pod/"], "\"pod/\" is no TYPE/NAME: write TYPE, TYPE NAME, or TYPE/NAME");
    }

    #[test]
    fn objects_are_named_with_their_group() {
        let discovery = discovery();
        assert_eq!(tagged(resolve(&discovery, "po").unwrap(), "a"), "pod/a");
        assert_eq!(tagged(resolve(&discovery, "deploy").unwrap(), "a"), "deployment.apps/a");
    }
}
