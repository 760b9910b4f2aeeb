//! The list of what is served.

use crate::{
    Resource, Strategy, apps, certificates, coordination, core, discovery, networking, policy, rbac, reviews,
    scheduling,
};

/// Every built-in kind, in discovery's order (group by group, plural names sorted).
pub fn all() -> &'static [&'static dyn Strategy] {
    ALL
}

/// The strategy behind `/api/v1/PLURAL` or `/apis/GROUP/VERSION/PLURAL`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn Strategy> {
    let fits = |r: &Resource| r.group == group && r.plural == plural && r.versions.contains(&version);
    ALL.iter().copied().find(|s| fits(s.resource()))
}

/// The strategy of a kind as it stands in objects.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static dyn Strategy> {
    let fits = |r: &Resource| r.group == group && r.kind == kind && r.versions.contains(&version);
    ALL.iter().copied().find(|s| fits(s.resource()))
}

const ALL: &[&dyn Strategy] = &[
    &core::config_map::ConfigMap,
    &core::endpoints::Endpoints,
    &core::event::Event,
    &core::namespace::Namespace,
    &core::node::Node,
    &core::pod::Pod,
    &core::secret::Secret,
    &core::service_account::ServiceAccount,
    &core::service::Service,
    &apps::controller_revision::ControllerRevision,
    &apps::deployment::Deployment,
    &apps::replica_set::ReplicaSet,
    &reviews::SELF_SUBJECT,
    &reviews::TOKEN,
    &reviews::LOCAL_SUBJECT_ACCESS,
    &reviews::SELF_SUBJECT_ACCESS,
    &reviews::SELF_SUBJECT_RULES,
    &reviews::SUBJECT_ACCESS,
    &certificates::certificate_signing_request::CertificateSigningRequest,
    &coordination::lease::Lease,
    &discovery::endpoint_slice::EndpointSlice,
    &core::events_event::EventsEvent,
    &networking::ip_address::IpAddress,
    &networking::service_cidr::ServiceCidr,
    &policy::pod_disruption_budget::PodDisruptionBudget,
    &rbac::binding::CLUSTER_ROLE_BINDING,
    &rbac::role::CLUSTER_ROLE,
    &rbac::binding::ROLE_BINDING,
    &rbac::role::ROLE,
    &scheduling::priority_class::PriorityClass,
];
