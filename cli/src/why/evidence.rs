//! What a diagnosis is made from: the live state around a Pod, read once.

use super::reader::Reader;
use crate::query;
use crate::session::CallError;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as api, Event, Pod};
use minik_placement::{Labels, Namespaces, NodeState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Lines of a log that are shown.
const LOG_LINES: usize = 3;

/// The state around a Pod.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The Pod.
    pub pod: Pod,
    /// The same as placement sees it.
    pub placement: Arc<minik_placement::Pod>,
    /// All nodes with their Pods, while the Pod has none.
    pub nodes: Vec<NodeState>,
    /// Why nodes are not ready, of those that are not.
    pub not_ready: BTreeMap<String, String>,
    /// Whether its node is still there.
    pub node_exists: bool,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// Pods that nodes are being cleared for.
    pub nominated: Vec<Arc<minik_placement::Pod>>,
    /// The events about it.
    pub events: Vec<Event>,
    /// When the scheduler's Lease was renewed, where one is kept.
    pub scheduler_renewed: Option<Timestamp>,
    /// What it refers to and is not there.
    pub missing: Vec<Reference>,
    /// The last lines of containers that have ended, by container.
    pub logs: BTreeMap<String, Vec<String>>,
    /// When it was read.
    pub now: Timestamp,
}

/// An object that a Pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `secret` or `configmap`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The key of it that is needed.
    pub key: Option<String>,
    /// Who needs it.
    pub used_by: String,
    /// Whether the object is there, without that key.
    pub exists: bool,
}

impl Evidence {
    /// Reads it.
    ///
    /// # Errors
    /// When the server does not answer, or refuses what is needed most.
    pub async fn gather(reader: &Reader<'_>, pod: Pod, now: Timestamp) -> Result<Evidence, CallError> {
        let placement = serde_json::to_value(&pod).and_then(serde_json::from_value::<minik_placement::Pod>);
        let placement = Arc::new(placement.map_err(|error| CallError::Garbled(error.to_string()))?);
        let mut evidence = Evidence { pod, placement, now, node_exists: true, ..Evidence::default() };
        evidence.events = reader.events_of(&evidence.pod.metadata).await?;
        match evidence.placement.node_name.clone() {
            None => evidence.around_unplaced(reader).await?,
            Some(node) => evidence.around_placed(reader, &node).await?,
        }
        Ok(evidence)
    }

    async fn around_unplaced(&mut self, reader: &Reader<'_>) -> Result<(), CallError> {
        let Around { nodes, not_ready, namespaces, nominated, scheduler_renewed } =
            reader.around().await?.clone();
        (self.nodes, self.not_ready, self.namespaces) = (nodes, not_ready, namespaces);
        (self.nominated, self.scheduler_renewed) = (nominated, scheduler_renewed);
        Ok(())
    }

    async fn around_placed(&mut self, reader: &Reader<'_>, node: &str) -> Result<(), CallError> {
        let found: Option<api::Node> =
            reader.find(&format!("/api/v1/nodes/{}", minik_client::segment(node))).await?;
        self.node_exists = found.is_some();
        self.not_ready = found.iter().filter_map(not_ready).collect();
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let mut keys: BTreeMap<(&'static str, String), Option<BTreeSet<String>>> = BTreeMap::new();
        for reference in references(&self.pod) {
            let of = (reference.kind, reference.name.clone());
            if !keys.contains_key(&of) {
                let found = reader.keys(&namespace, reference.kind, &reference.name).await?;
                keys.insert(of.clone(), found);
            }
            let there = keys.get(&of).and_then(Option::as_ref);
            if there.is_none_or(|keys| reference.key.as_ref().is_some_and(|key| !keys.contains(key))) {
                let exists = there.is_some();
                self.missing.push(Reference { exists, ..reference });
            }
        }
        for (container, previous) in ended(&self.pod) {
            let name = self.pod.metadata.name.as_deref().unwrap_or_default();
            let path = format!(
                "/api/v1/namespaces/{}/pods/{}/log",
                minik_client::segment(&namespace),
                minik_client::segment(name)
            );
            let lines = LOG_LINES.to_string();
            let parameters = [
                ("container", container.as_str()),
                ("tailLines", &lines),
                ("limitBytes", "4096"),
                ("previous", if previous { "true" } else { "" }),
            ];
            // A log that cannot be read is no reason to say nothing else.
            if let Ok(text) = reader.text(&query::with(&path, &parameters)).await {
                self.logs.insert(container, text.lines().map(|line| line.trim_end().to_owned()).collect());
            }
        }
        Ok(())
    }
}

/// What Pods without a node are judged by.
#[derive(Debug, Clone, Default)]
pub struct Around {
    nodes: Vec<NodeState>,
    not_ready: BTreeMap<String, String>,
    namespaces: Namespaces,
    nominated: Vec<Arc<minik_placement::Pod>>,
    scheduler_renewed: Option<Timestamp>,
}

impl Around {
    /// Reads it.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn read(reader: &Reader<'_>) -> Result<Around, CallError> {
        let (objects, namespaces, pods, lease) = reader.world().await?;
        let mut around = Around {
            scheduler_renewed: lease.and_then(|lease| Some(lease.spec?.renew_time?.0)),
            not_ready: objects.iter().filter_map(not_ready).collect(),
            ..Around::default()
        };
        for node in &objects {
            let read = serde_json::to_value(node).and_then(serde_json::from_value::<minik_placement::Node>);
            let node = read.map_err(|error| CallError::Garbled(error.to_string()))?;
            around.nodes.push(NodeState::new(Arc::new(node)));
        }
        for namespace in namespaces {
            let labels = namespace.metadata.labels.unwrap_or_default();
            let labels: Labels = labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
            around.namespaces.set(namespace.metadata.name.unwrap_or_default().into(), labels);
        }
        for pod in pods.into_iter().map(Arc::new) {
            let state =
                around.nodes.iter_mut().find(|state| pod.node_name.as_ref() == Some(&state.node.name));
            match state {
                Some(state) => state.add(pod),
                None if pod.nominated_node_name.is_some() => around.nominated.push(pod),
                None => {}
            }
        }
        Ok(around)
    }
}

/// A node that is not ready, and why.
fn not_ready(node: &api::Node) -> Option<(String, String)> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = conditions.unwrap_or_default().iter().find(|one| one.type_ == "Ready");
    let words = match ready {
        Some(ready) if ready.status == "True" => return None,
        Some(ready) => ready.message.clone().filter(|words| !words.is_empty()),
        None => Some("its kubelet has not reported yet".to_owned()),
    };
    let name = node.metadata.name.clone().unwrap_or_default();
    Some((name, words.unwrap_or_else(|| "its kubelet does not say why".into())))
}

/// Containers whose log tells why they ended, and whether that is of the run before.
fn ended(pod: &Pod) -> Vec<(String, bool)> {
    let of = |one: &api::ContainerStatus| {
        let is_end = |state: &Option<api::ContainerState>| {
            let ended = state.as_ref().and_then(|state| state.terminated.as_ref());
            ended.is_some_and(|ended| ended.exit_code != 0 || one.restart_count > 0)
        };
        let now = is_end(&one.state);
        (now || is_end(&one.last_state)).then(|| (one.name.clone(), !now))
    };
    super::statuses(pod).filter_map(|(_, one)| of(one)).collect()
}

/// Secrets and ConfigMaps that a Pod needs to start.
fn references(pod: &Pod) -> Vec<Reference> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut all = Vec::new();
    let mut add = |kind, name: &str, key: Option<&str>, optional: Option<bool>, used_by: &str| {
        if optional != Some(true) && !name.is_empty() {
            let (name, used_by, key) = (name.to_owned(), used_by.to_owned(), key.map(str::to_owned));
            all.push(Reference { kind, name, key, used_by, exists: false });
        }
    };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    for container in containers {
        let who = format!("container {}", container.name);
        for from in container.env_from.iter().flatten() {
            from.secret_ref.iter().for_each(|one| add("secret", &one.name, None, one.optional, &who));
            from.config_map_ref.iter().for_each(|one| add("configmap", &one.name, None, one.optional, &who));
        }
        for from in container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
            from.secret_key_ref
                .iter()
                .for_each(|one| add("secret", &one.name, Some(&one.key), one.optional, &who));
            from.config_map_key_ref
                .iter()
                .for_each(|one| add("configmap", &one.name, Some(&one.key), one.optional, &who));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        let who = format!("volume {}", volume.name);
        let keys = |items: &Option<Vec<api::KeyToPath>>| -> Vec<Option<String>> {
            let keys: Vec<_> = items.iter().flatten().map(|item| Some(item.key.clone())).collect();
            if keys.is_empty() { vec![None] } else { keys }
        };
        if let Some(one) = &volume.secret {
            let name = one.secret_name.as_deref().unwrap_or_default();
            keys(&one.items).iter().for_each(|key| add("secret", name, key.as_deref(), one.optional, &who));
        }
        if let Some(one) = &volume.config_map {
            keys(&one.items)
                .iter()
                .for_each(|key| add("configmap", &one.name, key.as_deref(), one.optional, &who));
        }
        let projected = volume.projected.iter().flat_map(|one| one.sources.iter().flatten());
        for source in projected {
            if let Some(one) = &source.secret {
                keys(&one.items)
                    .iter()
                    .for_each(|key| add("secret", &one.name, key.as_deref(), one.optional, &who));
            }
            if let Some(one) = &source.config_map {
                keys(&one.items)
                    .iter()
                    .for_each(|key| add("configmap", &one.name, key.as_deref(), one.optional, &who));
            }
        }
    }
    all
}
