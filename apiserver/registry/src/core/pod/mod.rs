//! Pod: the specification, its changes, its status.
//!
//! `spec` is the entry to the rules of a specification, for Pods and templates alike; `update` and `status` hold what may change;
//! `prepare` fills in what the API server decides.

pub(crate) mod annotations;
pub(crate) mod claim_template;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod handler;
pub(crate) mod legacy_volume;
pub(crate) mod mount;
pub(crate) mod options;
pub(crate) mod prepare;
pub(crate) mod projected;
pub(crate) mod qos;
pub(crate) mod resources;
mod row;
pub(crate) mod scheduling;
pub(crate) mod security;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod template;
pub(crate) mod update;
pub(crate) mod volume;
pub(crate) mod warnings;

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, Path};
use serde_json::Value;

use crate::Column;
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{at, items, str_at, view};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    delete: DeleteStyle::Graceful,
    ..Resource::core("Pod", "PodList", "pods")
}
.with_status(&[
    Subresource::other("attach", Kind::core("PodAttachOptions"), CONNECT),
    Subresource::other("binding", Kind::core("Binding"), Verbs::CREATE),
    Subresource {
        reset_fields: FieldFilter::IncludeOnly(&[&["spec", "ephemeralContainers"]]),
        ..Subresource::other("ephemeralcontainers", Kind::core("Pod"), Verbs::STATUS)
    },
    Subresource::other("eviction", Kind { group: "policy", version: "v1", kind: "Eviction" }, Verbs::CREATE),
    Subresource::other("exec", Kind::core("PodExecOptions"), CONNECT),
    Subresource::other("log", Kind::core("Pod"), Verbs::of(&[Verb::Get])),
    Subresource::other("portforward", Kind::core("PodPortForwardOptions"), CONNECT),
    Subresource::other("proxy", Kind::core("PodProxyOptions"), Verbs::PROXY),
    Subresource {
        reset_fields: FieldFilter::IncludeOnly(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
        ]),
        ..Subresource::other("resize", Kind::core("Pod"), Verbs::STATUS)
    },
    Subresource::status(
        Kind::core("Pod"),
        &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
    ),
]);

/// What opens a stream into a Pod.
const CONNECT: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);

/// See the module.
pub(crate) struct Pod;

impl Strategy for Pod {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn update_meta_rules(&self, part: Part) -> MetaRules {
        let full_on_update = part != Part::Status;
        MetaRules { full_on_update, ..self.meta_rules() }
    }

    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        prepare::create(obj, cx.now);
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        prepare::update(part, obj, old);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(pod) = view::<api::Pod>(obj, &mut errors) {
            update::check_create(&pod, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (Some(new), Some(was)) = (view::<api::Pod>(obj, &mut errors), view::<api::Pod>(old, &mut errors))
        else {
            return errors;
        };
        match part {
            Part::Status => status::check_update(&new, &was, &mut errors),
            Part::EphemeralContainers => update::check_ephemeral(&new, &was, &mut errors),
            Part::Resize => update::check_resize(&new, &was, &mut errors),
            _ => update::check_update(&new, &was, &mut errors),
        }
        errors
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        warnings::on_create(obj)
    }

    fn warnings_on_update(&self, part: Part, obj: &Value, _old: &Value) -> Vec<String> {
        if part == Part::Status { status::warnings(obj) } else { Vec::new() }
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        let host_network = at(obj, &["spec", "hostNetwork"]).and_then(Value::as_bool).unwrap_or(false);
        let ip =
            at(obj, &["status", "podIPs"]).and_then(|ips| ips.get(0)).map_or("", |ip| str_at(ip, &["ip"]));
        let value = |name: &str| match name {
            "spec.hostNetwork" if host_network => "true",
            "spec.hostNetwork" => "false",
            "status.podIP" => ip,
            other => other.split_once('.').map_or("", |(part, field)| str_at(obj, &[part, field])),
        };
        self.selectable_names().iter().map(|name| (*name, Cow::Borrowed(value(name)))).collect()
    }

    fn delete_grace(&self, obj: &Value, requested: Option<i64>) -> Option<i64> {
        let own = at(obj, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        let phase = str_at(obj, &["status", "phase"]);
        // Nobody has to stop what never started or has ended.
        if str_at(obj, &["spec", "nodeName"]).is_empty() || phase == "Failed" || phase == "Succeeded" {
            return Some(0);
        }
        match requested.unwrap_or(own) {
            negative if negative < 0 => Some(1),
            seconds => Some(seconds),
        }
    }

    fn columns(&self) -> &'static [Column] {
        row::COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        row::cells(obj, now)
    }

    fn row_conditions(&self, obj: &Value) -> Vec<Value> {
        row::conditions(obj)
    }
}

/// Every container of the Pod with its path: init containers, ordinary ones, ephemeral ones.
pub(crate) fn visit_containers(
    spec: &api::PodSpec,
    path: &Path,
    mut visit: impl FnMut(&api::Container, &Path),
) {
    let lists =
        [("initContainers", items(&spec.init_containers)), ("containers", spec.containers.as_slice())];
    for (field, containers) in lists {
        for (i, container) in containers.iter().enumerate() {
            visit(container, &path.child(field).index(i));
        }
    }
    for (i, ephemeral) in items(&spec.ephemeral_containers).iter().enumerate() {
        visit(&container::as_container(ephemeral), &path.child("ephemeralContainers").index(i));
    }
}
