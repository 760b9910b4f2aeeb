//! Why something made of Pods is not as it should be: too few Pods run, or none stands behind a Service.

use super::diagnosis::{Diagnosis, Suggestion, What};
use super::reader::Reader;
use crate::query;
use crate::session::CallError;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::selector::LabelSelector;
use minik_client::segment;
use serde::Deserialize;
use serde_json::Value;

/// Pods that are looked at: of many that are alike, a few tell.
const LOOK_AT: usize = 20;

/// What controllers of Pods have in common.
#[derive(Deserialize)]
pub struct Controller {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    selector: Value,
    #[serde(default)]
    replicas: Option<i64>,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    available_replicas: i64,
    number_available: i64,
    desired_number_scheduled: i64,
    updated_replicas: Option<i64>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
}

/// Why a controller has fewer Pods available than it wants.
pub async fn of_controller(
    reader: &Reader<'_>,
    controller: Controller,
    kind: &str,
) -> Result<Option<Diagnosis>, CallError> {
    let (spec, status) = (&controller.spec, &controller.status);
    let name = controller.metadata.name.as_deref().unwrap_or_default();
    let (wanted, available) = match kind {
        "DaemonSet" => (status.desired_number_scheduled, status.number_available),
        _ => (spec.replicas.unwrap_or(1), status.available_replicas),
    };
    let holds = |kind: &str, value: &str| {
        status.conditions.iter().find(|one| one.kind == kind && one.status == value)
    };
    let outdated = status.updated_replicas.is_some_and(|updated| updated < wanted);
    if available >= wanted && !outdated && holds("ReplicaFailure", "True").is_none() {
        return Ok(None);
    }
    let mut diagnosis =
        Diagnosis::new("not Available", format!("{available} of {wanted} Pods are available"));
    let who = format!("{} {name}", kind.to_lowercase());
    if spec.paused {
        diagnosis.cause(&who, What::NoProgress { words: "is paused: changes wait".into() });
        diagnosis.suggest(Suggestion::run("go on", format!("minikctl rollout resume deployment/{name}")));
    }
    if let Some(condition) = holds("ReplicaFailure", "True") {
        let words = condition.message.clone();
        if words.contains("exceeded quota") {
            let what = "raise the namespace's quota, ask for less, or want fewer replicas";
            diagnosis.suggest(Suggestion::run(what, "minikctl get resourcequotas"));
        } else {
            diagnosis.suggest(Suggestion::words("mend what the refusal names in the Pod's template"));
        }
        diagnosis.cause(&who, What::CannotMakePods { words: format!("cannot make Pods: {words}") });
    }
    if let Some(condition) = holds("Progressing", "False") {
        diagnosis.cause(&who, What::NoProgress { words: condition.message.clone() });
        let undo = format!("minikctl rollout undo deployment/{name}");
        diagnosis.suggest(Suggestion::run("go back to what worked", undo));
    }
    let selector = LabelSelector::from_object(Some(&spec.selector)).map(|selector| selector.to_string());
    let namespace = controller.metadata.namespace.as_deref().unwrap_or_default();
    let pods = pods(reader, namespace, &selector.unwrap_or_default()).await?;
    add_pods(reader, pods, &mut diagnosis).await?;
    Ok(Some(diagnosis))
}

async fn pods(reader: &Reader<'_>, namespace: &str, selector: &str) -> Result<Vec<Pod>, CallError> {
    let path = format!("/api/v1/namespaces/{}/pods", segment(namespace));
    reader.list(&query::with(&path, &[("labelSelector", selector)])).await
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|one| one.type_ == "Ready").any(|one| one.status == "True")
}

/// Adds why Pods do not run; what is said of several is said once.
async fn add_pods(reader: &Reader<'_>, pods: Vec<Pod>, diagnosis: &mut Diagnosis) -> Result<(), CallError> {
    for pod in pods.into_iter().filter(|pod| !is_ready(pod)).take(LOOK_AT) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(found) = super::of_pod(reader, pod).await? else { continue };
        for cause in found.causes {
            if !diagnosis.causes.iter().any(|known| known.what == cause.what) {
                diagnosis.cause(format!("pod {name}, {}", cause.subject), cause.what);
            }
        }
        found.suggestions.into_iter().take(2).for_each(|one| {
            if !diagnosis.suggestions.iter().any(|known| known.what == one.what) {
                diagnosis.suggest(one);
            }
        });
    }
    Ok(())
}

/// Why nothing answers behind a Service.
pub async fn of_service(reader: &Reader<'_>, service: Service) -> Result<Option<Diagnosis>, CallError> {
    let spec = service.spec.unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    // Somebody else looks after the endpoints of one without a selector.
    if selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let namespace = service.metadata.namespace.unwrap_or_default();
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let found = pods(reader, &namespace, &pairs.join(",")).await?;
    let ready: Vec<&Pod> = found.iter().filter(|pod| is_ready(pod)).collect();
    let has_port =
        |name: &str| {
            ready.iter().flat_map(|pod| pod.spec.iter()).flat_map(|spec| &spec.containers).any(|container| {
                container.ports.iter().flatten().any(|port| port.name.as_deref() == Some(name))
            })
        };
    let named = |port: &k8s_openapi::api::core::v1::ServicePort| match &port.target_port {
        Some(IntOrString::String(name)) => Some(name.clone()),
        _ => None,
    };
    let mut diagnosis = Diagnosis::new("without endpoints", "no Pod stands behind it");
    if found.is_empty() {
        diagnosis.cause("selector", What::NoPods { selector: pairs.join(",") });
        let what = format!(
            "give Pods these labels, or let the Service select others: minikctl get pods --show-labels -n {namespace}"
        );
        let (what, command) = what.split_once(": ").unwrap_or((&what, ""));
        diagnosis.suggest(Suggestion::run(what, command));
        return Ok(Some(diagnosis));
    }
    if ready.is_empty() {
        diagnosis.summary = format!("none of its {} Pods is ready", found.len());
        add_pods(reader, found, &mut diagnosis).await?;
        return Ok(Some(diagnosis));
    }
    for port in spec.ports.iter().flatten().filter_map(named).filter(|name| !has_port(name)) {
        diagnosis.summary = "a port leads nowhere".into();
        diagnosis.suggest(Suggestion::words(format!(
            "name a container port {port:?}, or let targetPort be a number"
        )));
        diagnosis.cause("targetPort", What::NoPort { port });
    }
    Ok((!diagnosis.causes.is_empty()).then_some(diagnosis))
}
