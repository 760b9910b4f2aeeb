//! What the runtime is told of one container.

use super::resources::container_resources;
use super::sandbox::labels;
use super::security::container_context;
use super::{expand, resources as figures};
use crate::core::plan::hash;
use crate::names;
use crate::pod::{PodObject, list, text};
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What a container is made from beside the Pod.
pub struct ContainerInput<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// The container.
    pub container: &'a api::Container,
    /// How many runs there were before.
    pub attempt: u32,
    /// Its image as the runtime has it.
    pub image: &'a v1::Image,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its mounts.
    pub mounts: Vec<v1::Mount>,
    /// The file of its last words.
    pub message_file: &'a Path,
    /// The instance whose processes it sees.
    pub target_id: Option<String>,
    /// The node's memory.
    pub memory_capacity_bytes: i64,
}

/// What the runtime is told.
pub fn container_config(input: ContainerInput<'_>) -> v1::ContainerConfig {
    let (pod, container) = (input.pod, input.container);
    let expanded = |texts: &Option<Vec<String>>| {
        list(texts).iter().map(|text| expand(text, |name| input.env.get(name).cloned())).collect()
    };
    let mut labels = labels(pod);
    labels.insert(names::CONTAINER_NAME.to_owned(), container.name.clone());
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: input.attempt }),
        image: Some(v1::ImageSpec {
            image: input.image.id.clone(),
            user_specified_image: text(&container.image).to_owned(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: text(&container.working_dir).to_owned(),
        log_path: format!("{}/{}.log", container.name, input.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        labels,
        annotations: annotations(&input),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&input)),
            security_context: Some(container_context(pod, container, input.image, input.target_id.clone())),
        }),
        envs: input.env.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into() }).collect(),
        mounts: input.mounts,
        ..Default::default()
    }
}

fn resources(input: &ContainerInput<'_>) -> v1::LinuxContainerResources {
    let mut limits = container_resources(input.pod, input.container, input.memory_capacity_bytes);
    let requirements = input.container.resources.clone().unwrap_or_default();
    limits.hugepage_limits = huge_pages(&requirements);
    limits
}

/// Limits of huge pages, by size.
fn huge_pages(requirements: &api::ResourceRequirements) -> Vec<v1::HugepageLimit> {
    let limits = requirements.limits.iter().flatten();
    limits
        .filter_map(|(name, quantity)| {
            let size = name.strip_prefix("hugepages-")?;
            let limit = quantity.0.parse::<minik_apimachinery::quantity::Quantity>().ok()?.value();
            // The kernel writes 2MB for 2Mi.
            let page_size = format!("{}B", size.strip_suffix('i').unwrap_or(size));
            Some(v1::HugepageLimit { page_size, limit: limit.max(0) as u64 })
        })
        .collect()
}

fn annotations(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let (pod, container) = (input.pod, input.container);
    let mut all = HashMap::from([
        (names::HASH.to_owned(), hash(container)),
        (names::RESTART_COUNT.to_owned(), input.attempt.to_string()),
        (names::MESSAGE_PATH.to_owned(), text(&container.termination_message_path).to_owned()),
        (names::MESSAGE_POLICY.to_owned(), text(&container.termination_message_policy).to_owned()),
        (names::MESSAGE_FILE.to_owned(), input.message_file.display().to_string()),
    ]);
    if let Some(grace) = pod.spec.termination_grace_period_seconds {
        all.insert(names::GRACE.to_owned(), grace.to_string());
    }
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook.and_then(|hook| serde_json::to_string(hook).ok()) {
        all.insert(names::PRE_STOP.to_owned(), hook);
    }
    all
}

/// Limits of the Pod as a whole, for the runtime to know of.
pub fn sandbox_resources(pod: &PodObject) -> v1::LinuxContainerResources {
    let limits = figures::pod_limits(pod);
    v1::LinuxContainerResources {
        cpu_shares: limits.cpu_shares,
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_period,
        memory_limit_in_bytes: limits.memory_bytes,
        ..Default::default()
    }
}
