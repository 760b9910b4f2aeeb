//! What is tolerated in a change because the Pod had it already. Rules have become stricter over time; nothing that was
//! accepted once may make an object unchangeable.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_apimachinery::field::{ErrorList, Path};

use super::annotations::{DELETION_COST, is_deletion_cost};
use super::container::is_sidecar;
use super::resources::{divides, is_huge_page};
use super::scheduling::check_label_keys;
use super::security::sysctl_of_host;
use super::visit_containers;
use super::volume::check_file_path;
use crate::format;
use crate::selector::check_label_selector;
use crate::view::{items, text, yes};

/// Each field: what the old object had.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Huge pages that are no whole pages.
    pub(crate) indivisible_huge_pages: bool,
    /// Values in selectors of Pod affinity that are no label values.
    pub(crate) selector_values: bool,
    /// Values in required node affinity that are no label values.
    pub(crate) node_affinity_values: bool,
    /// A selector of a spread constraint that is none.
    pub(crate) spread_selector: bool,
    /// Spread keys that were not merged into the selector.
    pub(crate) unmerged_spread_keys: bool,
    /// A path of a projected token outside its volume.
    pub(crate) any_token_path: bool,
    /// Kernel parameters of the host.
    pub(crate) host_sysctls: bool,
    /// Init containers that would restart on resize.
    pub(crate) init_restart_on_resize: bool,
    /// Block devices in a user namespace.
    pub(crate) user_namespace_devices: bool,
    /// An image volume without an image.
    pub(crate) empty_image_volume: bool,
    /// CAP_SYS_ADMIN without privilege escalation.
    pub(crate) sys_admin: bool,
    /// A deletion cost that is no number.
    pub(crate) deletion_cost: bool,
}

impl Options {
    /// What a change of this Pod or template may keep.
    pub(crate) fn of_old(meta: Option<&ObjectMeta>, spec: &api::PodSpec) -> Self {
        let cost = meta.and_then(|meta| meta.annotations.as_ref()?.get(DELETION_COST));
        let mut options = Self {
            deletion_cost: cost.is_some_and(|cost| !is_deletion_cost(cost)),
            selector_values: affinity_terms(spec).any(|t| {
                wrong_values(t.label_selector.as_ref()) || wrong_values(t.namespace_selector.as_ref())
            }),
            node_affinity_values: node_values_wrong(spec),
            any_token_path: token_path_wrong(spec),
            host_sysctls: spec
                .security_context
                .iter()
                .flat_map(|s| items(&s.sysctls))
                .any(|s| sysctl_of_host(&s.name, spec).is_some()),
            init_restart_on_resize: items(&spec.init_containers).iter().any(|c| {
                !is_sidecar(c)
                    && items(&c.resize_policy).iter().any(|p| p.restart_policy == "RestartContainer")
            }),
            empty_image_volume: items(&spec.volumes)
                .iter()
                .any(|v| v.image.as_ref().is_some_and(|i| text(&i.reference).is_empty())),
            ..Self::default()
        };
        let mut found = ErrorList::new();
        for constraint in items(&spec.topology_spread_constraints) {
            let selector = constraint.label_selector.as_ref();
            check_label_selector(selector, false, &Path::root(), &mut found);
            options.spread_selector |= !found.is_empty();
            let mut keys = ErrorList::new();
            check_label_keys((items(&constraint.match_label_keys), &[]), selector, &Path::root(), &mut keys);
            options.unmerged_spread_keys |= !keys.is_empty();
        }
        visit_containers(spec, &Path::root(), |container, _| {
            let resources =
                container.resources.iter().flat_map(|r| r.limits.iter().chain(&r.requests)).flatten();
            options.indivisible_huge_pages |=
                resources.into_iter().any(|(name, q)| is_huge_page(name) && !divides(name, q));
            options.user_namespace_devices |=
                spec.host_users == Some(false) && !items(&container.volume_devices).is_empty();
            if let Some(sc) = &container.security_context {
                let admin = sc.capabilities.iter().flat_map(|c| items(&c.add)).any(|c| c == "CAP_SYS_ADMIN");
                options.sys_admin |= admin && !yes(&sc.allow_privilege_escalation);
            }
        });
        options
    }
}

fn affinity_terms(spec: &api::PodSpec) -> impl Iterator<Item = &api::PodAffinityTerm> {
    let affinity = spec.affinity.as_ref();
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let near = near.into_iter().flat_map(|a| {
        items(&a.required_during_scheduling_ignored_during_execution).iter().chain(
            items(&a.preferred_during_scheduling_ignored_during_execution)
                .iter()
                .map(|w| &w.pod_affinity_term),
        )
    });
    let far = far.into_iter().flat_map(|a| {
        items(&a.required_during_scheduling_ignored_during_execution).iter().chain(
            items(&a.preferred_during_scheduling_ignored_during_execution)
                .iter()
                .map(|w| &w.pod_affinity_term),
        )
    });
    near.chain(far)
}

fn wrong_values(selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>) -> bool {
    let expressions = selector.map(|s| items(&s.match_expressions)).unwrap_or(&[]);
    expressions.iter().flat_map(|e| items(&e.values)).any(|v| !format::label_value(v).is_empty())
}

fn node_values_wrong(spec: &api::PodSpec) -> bool {
    let node = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|r| r.node_selector_terms.as_slice()).unwrap_or(&[]);
    terms
        .iter()
        .flat_map(|t| items(&t.match_expressions))
        .flat_map(|e| items(&e.values))
        .any(|v| !format::label_value(v).is_empty())
}

fn token_path_wrong(spec: &api::PodSpec) -> bool {
    let sources =
        items(&spec.volumes).iter().filter_map(|v| v.projected.as_ref()).flat_map(|p| items(&p.sources));
    let mut errors = ErrorList::new();
    for token in sources.filter_map(|s| s.service_account_token.as_ref()) {
        check_file_path(&token.path, &Path::root(), &mut errors);
    }
    !errors.is_empty()
}
