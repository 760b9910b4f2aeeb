//! Where a Pod may run: affinity, tolerations, spreading.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::options::Options;
use crate::format::{self, invalid};
use crate::selector::check_label_selector;
use crate::view::{items, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Affinity of every sort.
pub(crate) fn check_affinity(
    affinity: &api::Affinity,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    if let Some(node) = &affinity.node_affinity {
        let at = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            check_node_selector(required, options.node_affinity_values, &at.child(REQUIRED), errors);
        }
        for (i, term) in items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate()
        {
            let at = at.child(PREFERRED).index(i);
            check_weight(term.weight, &at, errors);
            // Values that are no label values were never refused where nodes are only preferred.
            check_node_term(&term.preference, true, &at.child("preference"), errors);
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let terms = (
            items(&pods.required_during_scheduling_ignored_during_execution),
            items(&pods.preferred_during_scheduling_ignored_during_execution),
        );
        check_pod_terms(terms, options, &path.child("podAffinity"), errors);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let terms = (
            items(&pods.required_during_scheduling_ignored_during_execution),
            items(&pods.preferred_during_scheduling_ignored_during_execution),
        );
        check_pod_terms(terms, options, &path.child("podAntiAffinity"), errors);
    }
}

fn check_weight(weight: i32, path: &Path, errors: &mut ErrorList) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            &path.child("weight"),
            weight,
            "must be between 1 and 100, inclusive",
        ));
    }
}

/// A choice of nodes.
pub(crate) fn check_node_selector(
    selector: &api::NodeSelector,
    allow_values: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let at = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(FieldError::required(&at, "a node selector needs a term"));
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        check_node_term(term, allow_values, &at.index(i), errors);
    }
}

fn check_node_term(term: &api::NodeSelectorTerm, allow_values: bool, path: &Path, errors: &mut ErrorList) {
    for (i, requirement) in items(&term.match_expressions).iter().enumerate() {
        check_label_requirement(requirement, allow_values, &path.child("matchExpressions").index(i), errors);
    }
    for (i, requirement) in items(&term.match_fields).iter().enumerate() {
        check_field_requirement(requirement, &path.child("matchFields").index(i), errors);
    }
}

fn check_label_requirement(
    requirement: &api::NodeSelectorRequirement,
    allow_values: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let values = items(&requirement.values);
    let at = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&at, "'In' and 'NotIn' need values"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(FieldError::forbidden(&at, "'Exists' and 'DoesNotExist' have no values"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(FieldError::required(&at, "'Gt' and 'Lt' need one value"))
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "is no operator of selectors"))
        }
    }
    invalid(format::qualified_name(&requirement.key), &requirement.key, &path.child("key"), errors);
    if !allow_values {
        for (i, value) in values.iter().enumerate() {
            invalid(format::label_value(value), value, &at.index(i), errors);
        }
    }
}

fn check_field_requirement(requirement: &api::NodeSelectorRequirement, path: &Path, errors: &mut ErrorList) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                errors.push(FieldError::required(&path.child("values"), "one value must be given"));
            }
        }
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "must be 'In' or 'NotIn'")),
    }
    if requirement.key != "metadata.name" {
        errors.push(FieldError::invalid(
            &path.child("key"),
            requirement.key.as_str(),
            "must be metadata.name",
        ));
        return;
    }
    for (i, value) in values.iter().enumerate() {
        invalid(format::dns_subdomain(value), value, &path.child("values").index(i), errors);
    }
}

type PodTerms<'a> = (&'a [api::PodAffinityTerm], &'a [api::WeightedPodAffinityTerm]);

fn check_pod_terms(
    (required, preferred): PodTerms<'_>,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (i, term) in required.iter().enumerate() {
        check_pod_term(term, options, &path.child(REQUIRED).index(i), errors);
    }
    for (i, term) in preferred.iter().enumerate() {
        let at = path.child(PREFERRED).index(i);
        check_weight(term.weight, &at, errors);
        check_pod_term(&term.pod_affinity_term, options, &at.child("podAffinityTerm"), errors);
    }
}

fn check_pod_term(term: &api::PodAffinityTerm, options: &Options, path: &Path, errors: &mut ErrorList) {
    let allow = options.selector_values;
    check_label_selector(term.label_selector.as_ref(), allow, &path.child("labelSelector"), errors);
    check_label_selector(term.namespace_selector.as_ref(), allow, &path.child("namespaceSelector"), errors);
    for namespace in items(&term.namespaces) {
        invalid(format::dns_label(namespace), namespace, &path.child("namespace"), errors);
    }
    let keys = (items(&term.match_label_keys), items(&term.mismatch_label_keys));
    check_label_keys(keys, term.label_selector.as_ref(), path, errors);
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&path.child("topologyKey"), "must not be empty"));
    }
    invalid(
        format::qualified_name(&term.topology_key),
        &term.topology_key,
        &path.child("topologyKey"),
        errors,
    );
}

/// Keys whose values the Pod's own labels give.
pub(crate) fn check_label_keys(
    (same, different): (&[String], &[String]),
    selector: Option<&LabelSelector>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, keys) in [("matchLabelKeys", same), ("mismatchLabelKeys", different)] {
        let at = path.child(field);
        if keys.is_empty() {
            continue;
        }
        if selector.is_none() {
            errors.push(FieldError::forbidden(&at, "needs a labelSelector"));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            invalid(format::qualified_name(key), key, &at.index(i), errors);
        }
    }
    if let Some(selector) = selector {
        // One requirement about such a key is the one that was added for it; a second one is the writer's.
        let mut named: BTreeSet<&str> =
            selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()).collect();
        for expression in items(&selector.match_expressions) {
            let key = expression.key.as_str();
            let position = same.iter().rposition(|k| k == key);
            if let Some(i) = position.filter(|_| named.contains(key)) {
                let detail = "stands in matchLabelKeys and in labelSelector";
                errors.push(FieldError::invalid(&path.index(i), key, detail));
            }
            named.insert(key);
        }
    }
    for (i, key) in same.iter().enumerate().filter(|(_, key)| different.contains(key)) {
        let detail = "stands in matchLabelKeys and in mismatchLabelKeys";
        errors.push(FieldError::invalid(&path.child("matchLabelKeys").index(i), key.as_str(), detail));
    }
}

/// The rule about such keys of old Pods, whose selectors were not merged.
pub(crate) fn check_unmerged_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
    errors: &mut ErrorList,
) {
    if keys.is_empty() {
        return;
    }
    let Some(selector) = selector else {
        errors.push(FieldError::forbidden(path, "needs a labelSelector"));
        for (i, key) in keys.iter().enumerate() {
            invalid(format::qualified_name(key), key, &path.index(i), errors);
        }
        return;
    };
    for (i, key) in keys.iter().enumerate() {
        invalid(format::qualified_name(key), key, &path.index(i), errors);
        let in_labels = selector.match_labels.as_ref().is_some_and(|l| l.contains_key(key));
        if in_labels || items(&selector.match_expressions).iter().any(|e| &e.key == key) {
            errors.push(FieldError::invalid(&path.index(i), key.as_str(), "stands in labelSelector, too"));
        }
    }
}

/// How Pods are spread.
pub(crate) fn check_spread(
    constraints: &[api::TopologySpreadConstraint],
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        if constraint.max_skew <= 0 {
            errors.push(FieldError::invalid(
                &at.child("maxSkew"),
                constraint.max_skew,
                "must be greater than zero",
            ));
        }
        if constraint.topology_key.is_empty() {
            errors.push(FieldError::required(&at.child("topologyKey"), "must not be empty"));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(&at.child("whenUnsatisfiable"), action, ACTIONS));
        }
        let again = constraints[i + 1..]
            .iter()
            .any(|c| c.topology_key == constraint.topology_key && c.when_unsatisfiable == action);
        if again {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            errors.push(FieldError::duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(domains) = constraint.min_domains {
            let at = at.child("minDomains");
            if domains <= 0 {
                errors.push(FieldError::invalid(&at, domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                errors.push(FieldError::invalid(&at, domains, "needs whenUnsatisfiable=DoNotSchedule"));
            }
        }
        let policies = [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ];
        for (field, policy) in policies {
            if let Some(policy) = policy.as_deref().filter(|p| !["Honor", "Ignore"].contains(p)) {
                errors.push(FieldError::not_supported(&at.child(field), policy, &["Honor", "Ignore"]));
            }
        }
        let (keys, selector) = (items(&constraint.match_label_keys), constraint.label_selector.as_ref());
        if options.unmerged_spread_keys {
            check_unmerged_keys(keys, selector, &at.child("matchLabelKeys"), errors);
        } else {
            check_label_keys((keys, &[]), selector, &at, errors);
        }
        if !options.spread_selector {
            check_label_selector(selector, false, &at.child("labelSelector"), errors);
        }
    }
}

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint.
pub(crate) fn check_taint_effect(effect: &str, path: &Path, errors: &mut ErrorList) {
    super::container::one_of(effect, EFFECTS, path, errors);
}

/// The taints that a Pod bears.
pub(crate) fn check_tolerations(tolerations: &[api::Toleration], path: &Path, errors: &mut ErrorList) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (value, effect) = (text(&toleration.value), text(&toleration.effect));
        let operator_path = at.child("operator");
        if key.is_empty() {
            if operator != "Exists" {
                errors.push(FieldError::invalid(&operator_path, operator, "must be Exists without a key"));
            }
        } else {
            invalid(format::qualified_name(key), key, &at.child("key"), errors);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.push(FieldError::invalid(
                &at.child("effect"),
                effect,
                "must be NoExecute with tolerationSeconds",
            ));
        }
        match operator {
            "Equal" | "" => {
                let faults = format::label_value(value);
                if !faults.is_empty() {
                    errors.push(FieldError::invalid(&operator_path, value, faults.join("; ")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.push(FieldError::invalid(
                        &operator_path,
                        value,
                        "the value must be empty with 'Exists'",
                    ));
                }
            }
            other => errors.push(FieldError::not_supported(&operator_path, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            check_taint_effect(effect, &at.child("effect"), errors);
        }
    }
}
