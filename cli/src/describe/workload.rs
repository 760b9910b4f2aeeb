//! A Deployment, a ReplicaSet.

use super::writer::{Writer, time};
use super::{events, pod};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::selector;

fn written(selector: Option<&LabelSelector>) -> String {
    let tree = selector.and_then(|selector| serde_json::to_value(selector).ok());
    selector::LabelSelector::from_object(tree.as_ref()).map(|one| one.to_string()).unwrap_or_default()
}

fn conditions<'a>(all: impl Iterator<Item = [&'a Option<String>; 3]>, writer: &mut Writer) {
    let mut all = all.peekable();
    if all.peek().is_some() {
        writer.line(0, "Conditions:");
        writer.line(1, "Type\tStatus\tReason");
        writer.line(1, "----\t------\t------");
        all.for_each(|one| {
            let [kind, status, reason] = one.map(|text| text.as_deref().unwrap_or_default());
            writer.line(1, &format!("{kind} \t{status}\t{reason}"));
        });
    }
}

/// All about a Deployment; `sets` are its ReplicaSets.
pub fn deployment(
    deployment: &Deployment,
    sets: &[ReplicaSet],
    about: Option<&[Event]>,
    now: Timestamp,
) -> String {
    let mut writer = Writer::default();
    let (meta, spec) = (&deployment.metadata, deployment.spec.clone());
    let status = deployment.status.clone().unwrap_or_default();
    writer.field(0, "Name", meta.name.as_deref().unwrap_or_default());
    writer.field(0, "Namespace", meta.namespace.as_deref().unwrap_or_default());
    let created = meta.creation_timestamp.as_ref().map(|at| time(at.0)).unwrap_or_default();
    writer.field(0, "CreationTimestamp", &created);
    writer.map(0, "Labels", meta.labels.as_ref(), "=");
    writer.map(0, "Annotations", meta.annotations.as_ref(), ": ");
    writer.field(0, "Selector", &written(Some(&spec.selector)));
    let of = |count: Option<i32>| count.unwrap_or(0);
    let replicas = format!(
        "{} desired | {} updated | {} total | {} available | {} unavailable",
        spec.replicas.unwrap_or(1),
        of(status.updated_replicas),
        of(status.replicas),
        of(status.available_replicas),
        of(status.unavailable_replicas)
    );
    writer.field(0, "Replicas", &replicas);
    let strategy = spec.strategy.clone().unwrap_or_default();
    writer.field(0, "StrategyType", strategy.type_.as_deref().unwrap_or_default());
    writer.field(0, "MinReadySeconds", &of(spec.min_ready_seconds).to_string());
    if let Some(rolling) = &strategy.rolling_update {
        let text = |value: &Option<IntOrString>| match value {
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
            None => String::new(),
        };
        let words = format!(
            "{} max unavailable, {} max surge",
            text(&rolling.max_unavailable),
            text(&rolling.max_surge)
        );
        writer.field(0, "RollingUpdateStrategy", &words);
    }
    pod::template(&spec.template, &mut writer);
    let all = status.conditions.iter().flatten();
    conditions(all.map(|one| [&one.type_, &one.status, &one.reason]), &mut writer);
    let (new, old): (Vec<&ReplicaSet>, Vec<&ReplicaSet>) =
        sets.iter().partition(|set| same_template(set, &spec.template));
    writer.field(0, "OldReplicaSets", &named(&old));
    writer.field(0, "NewReplicaSet", &named(&new));
    events::write(about, now, &mut writer);
    writer.text()
}

/// Whether a ReplicaSet is of this template.
fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let mut own = set.spec.template.clone().unwrap_or_default();
    if let Some(labels) = own.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove("pod-template-hash");
    }
    own == *template
}

fn named(sets: &[&ReplicaSet]) -> String {
    let one = |set: &&ReplicaSet| {
        let wanted = set.spec.replicas.unwrap_or(0);
        let made = set.status.as_ref().map_or(0, |status| status.replicas);
        format!("{} ({made}/{wanted} replicas created)", set.metadata.name.as_deref().unwrap_or_default())
    };
    match sets {
        [] => "<none>".to_owned(),
        sets => sets.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

/// All about a ReplicaSet; `pods` are its Pods.
pub fn replica_set(set: &ReplicaSet, pods: &[Pod], about: Option<&[Event]>, now: Timestamp) -> String {
    let mut writer = Writer::default();
    let (meta, spec) = (&set.metadata, set.spec.clone());
    let status = set.status.clone().unwrap_or_default();
    writer.field(0, "Name", meta.name.as_deref().unwrap_or_default());
    writer.field(0, "Namespace", meta.namespace.as_deref().unwrap_or_default());
    writer.field(0, "Selector", &written(Some(&spec.selector)));
    writer.map(0, "Labels", meta.labels.as_ref(), "=");
    writer.map(0, "Annotations", meta.annotations.as_ref(), ": ");
    let mut owners = meta.owner_references.iter().flatten();
    if let Some(owner) = owners.find(|owner| owner.controller == Some(true)) {
        writer.field(0, "Controlled By", &format!("{}/{}", owner.kind, owner.name));
    }
    writer.field(
        0,
        "Replicas",
        &format!("{} current / {} desired", status.replicas, spec.replicas.unwrap_or(1)),
    );
    let count = |phase: &str| {
        let is = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
        pods.iter().filter(is).count()
    };
    let words = format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    );
    writer.field(0, "Pods Status", &words);
    pod::template(&spec.template.unwrap_or_default(), &mut writer);
    let all = status.conditions.iter().flatten();
    conditions(all.map(|one| [&one.type_, &one.status, &one.reason]), &mut writer);
    events::write(about, now, &mut writer);
    writer.text()
}
