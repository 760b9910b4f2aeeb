//! The list of what is served.

use crate::{
    Resource, Strategy, apps, authentication, authorization, certificates, coordination, core, discovery,
    networking, policy, rbac, scheduling,
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
    &authentication::self_subject_review::SelfSubjectReview,
    &authentication::token_review::TokenReview,
    &authorization::local_subject_access_review::LocalSubjectAccessReview,
    &authorization::self_subject_access_review::SelfSubjectAccessReview,
    &authorization::self_subject_rules_review::SelfSubjectRulesReview,
    &authorization::subject_access_review::SubjectAccessReview,
    &certificates::certificate_signing_request::CertificateSigningRequest,
    &coordination::lease::Lease,
    &discovery::endpoint_slice::EndpointSlice,
    &core::events_event::EventsEvent,
    &networking::ip_address::IpAddress,
    &networking::service_cidr::ServiceCidr,
    &policy::pod_disruption_budget::PodDisruptionBudget,
    &rbac::cluster_role_binding::ClusterRoleBinding,
    &rbac::cluster_role::ClusterRole,
    &rbac::role_binding::RoleBinding,
    &rbac::role::Role,
    &scheduling::priority_class::PriorityClass,
];
