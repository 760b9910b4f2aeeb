//! What roles allow and bindings name.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use crate::format::{self, invalid};
use crate::resource::Scope;
use crate::view::{items, text};

/// The group of all of RBAC.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of a role; one in a namespace cannot speak of URLs.
pub(crate) fn check_rules(rules: &[PolicyRule], scope: Scope, errors: &mut ErrorList) {
    for (i, rule) in rules.iter().enumerate() {
        check_rule(rule, scope, &Path::new("rules").index(i), errors);
    }
}

fn check_rule(rule: &PolicyRule, scope: Scope, path: &Path, errors: &mut ErrorList) {
    if rule.verbs.is_empty() {
        errors.push(FieldError::required(&path.child("verbs"), "a rule needs a verb"));
    }
    let urls = items(&rule.non_resource_urls);
    let (groups, resources) = (items(&rule.api_groups), items(&rule.resources));
    if !urls.is_empty() {
        let at = path.child("nonResourceURLs");
        if scope == Scope::Namespaced {
            errors.push(FieldError::invalid(&at, urls.to_vec(), "URLs lie in no namespace"));
        }
        if !groups.is_empty() || !resources.is_empty() || !items(&rule.resource_names).is_empty() {
            errors.push(FieldError::invalid(
                &at,
                urls.to_vec(),
                "a rule is about URLs or about resources, not both",
            ));
        }
        return;
    }
    if groups.is_empty() {
        errors.push(FieldError::required(
            &path.child("apiGroups"),
            "a rule about resources needs an API group",
        ));
    }
    if resources.is_empty() {
        errors
            .push(FieldError::required(&path.child("resources"), "a rule about resources needs a resource"));
    }
}

/// The role that a binding names.
pub(crate) fn check_role_ref(role: &RoleRef, scope: Scope, errors: &mut ErrorList) {
    let path = Path::new("roleRef");
    if text(&role.api_group) != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), text(&role.api_group), &[GROUP]));
    }
    let kinds: &[&str] = if scope == Scope::Namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.child("kind"), role.kind.as_str(), kinds));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        invalid(format::path_segment(&role.name), &role.name, &path.child("name"), errors);
    }
}

/// Those to whom a binding gives the role.
pub(crate) fn check_subjects(subjects: &[Subject], scope: Scope, errors: &mut ErrorList) {
    for (i, subject) in subjects.iter().enumerate() {
        check_subject(subject, scope, &Path::new("subjects").index(i), errors);
    }
}

fn check_subject(subject: &Subject, scope: Scope, path: &Path, errors: &mut ErrorList) {
    if subject.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let group = text(&subject.api_group);
    let group_path = path.child("apiGroup");
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                invalid(format::dns_subdomain(&subject.name), &subject.name, &path.child("name"), errors);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&group_path, group, &[""]));
            }
            if scope == Scope::Cluster && text(&subject.namespace).is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(&group_path, group, &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(&path.child("kind"), other, &kinds));
        }
    }
}
