//! What the node and its containers use: `/stats/summary` and `/metrics/resource`.

use super::{Body, State, text};
use crate::names;
use crate::node::machine;
use crate::runtime::RuntimeError;
use crate::worker::Context;
use http::{Response, StatusCode};
use jiff::Timestamp;
use minik_cri::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The answer of `/stats/summary`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    node: NodeStats,
    pods: Vec<PodStats>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats {
    node_name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    fs: Option<Fs>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    start_time: Option<String>,
    containers: Vec<ContainerStats>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Default, Clone, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats {
    name: String,
    start_time: Option<String>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
    rootfs: Option<Fs>,
}

#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: u64,
}

#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
}

#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fs {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    used_bytes: u64,
}

fn time(nanos: i64) -> String {
    let time = Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    crate::status::whole_seconds(time).to_string()
}

fn value(value: &Option<v1::UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

/// What the node and its Pods use.
///
/// # Errors
/// When the runtime does not answer.
pub async fn summary(state: &State) -> Result<Summary, RuntimeError> {
    let context = &state.context;
    let mut pods: BTreeMap<PodRef, PodStats> = BTreeMap::new();
    for stats in context.runtime.stats(None).await? {
        let attributes = stats.attributes.clone().unwrap_or_default();
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let pod_ref = PodRef {
            name: label(names::POD_NAME),
            namespace: label(names::POD_NAMESPACE),
            uid: label(names::POD_UID),
        };
        let pod = pods.entry(pod_ref.clone()).or_insert_with(|| PodStats {
            start_time: state.mailboxes.get(&pod_ref.uid).and_then(|mailbox| {
                mailbox.wanted().pod.status.start_time.as_ref().map(|time| time.0.to_string())
            }),
            pod_ref,
            ..PodStats::default()
        });
        let one = container(&stats, label(names::CONTAINER_NAME));
        add(pod, &one);
        pod.containers.push(one);
    }
    Ok(Summary { node: node(context), pods: pods.into_values().collect() })
}

fn container(stats: &v1::ContainerStats, name: String) -> ContainerStats {
    ContainerStats {
        name,
        start_time: None,
        cpu: stats.cpu.as_ref().map(|cpu| Cpu {
            time: time(cpu.timestamp),
            usage_nano_cores: value(&cpu.usage_nano_cores),
            usage_core_nano_seconds: value(&cpu.usage_core_nano_seconds).unwrap_or(0),
        }),
        memory: stats.memory.as_ref().map(|memory| Memory {
            time: time(memory.timestamp),
            available_bytes: value(&memory.available_bytes),
            usage_bytes: value(&memory.usage_bytes).unwrap_or(0),
            working_set_bytes: value(&memory.working_set_bytes).unwrap_or(0),
        }),
        rootfs: stats.writable_layer.as_ref().map(|layer| Fs {
            time: time(layer.timestamp),
            used_bytes: value(&layer.used_bytes).unwrap_or(0),
            ..Fs::default()
        }),
    }
}

fn add(pod: &mut PodStats, one: &ContainerStats) {
    if let Some(cpu) = &one.cpu {
        let sum = pod.cpu.get_or_insert_with(|| Cpu { time: cpu.time.clone(), ..Cpu::default() });
        sum.usage_core_nano_seconds += cpu.usage_core_nano_seconds;
        if let Some(now) = cpu.usage_nano_cores {
            *sum.usage_nano_cores.get_or_insert(0) += now;
        }
    }
    if let Some(memory) = &one.memory {
        let sum = pod.memory.get_or_insert_with(|| Memory { time: memory.time.clone(), ..Memory::default() });
        sum.usage_bytes += memory.usage_bytes;
        sum.working_set_bytes += memory.working_set_bytes;
    }
}

fn node(context: &Context) -> NodeStats {
    let now = crate::status::whole_seconds(context.config.clock.now()).to_string();
    let whole = context.node.machine.memory_bytes.max(0) as u64;
    let available = machine::available_memory_bytes().map(|bytes| (bytes.max(0) as u64).min(whole));
    let disk = machine::file_system(&context.config.root_dir);
    NodeStats {
        node_name: context.config.node_name.clone(),
        cpu: machine::cpu_nanos().map(|nanos| Cpu {
            time: now.clone(),
            usage_nano_cores: None,
            usage_core_nano_seconds: nanos,
        }),
        memory: available.map(|available| Memory {
            time: now.clone(),
            available_bytes: Some(available),
            usage_bytes: whole - available,
            working_set_bytes: whole - available,
        }),
        fs: disk.map(|disk| Fs {
            time: now,
            available_bytes: Some(disk.available_bytes),
            capacity_bytes: Some(disk.capacity_bytes),
            used_bytes: disk.capacity_bytes.saturating_sub(disk.available_bytes),
        }),
    }
}

/// `/metrics/resource`, by upstream's names.
pub async fn resource_metrics(context: &Context) -> Response<Body> {
    let stats = match context.runtime.stats(None).await {
        Ok(stats) => stats,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let mut out = String::new();
    let node = node(context);
    // Writing to memory cannot fail.
    let _ = writeln!(out, "# TYPE node_cpu_usage_seconds_total counter");
    if let Some(cpu) = &node.cpu {
        let _ = writeln!(out, "node_cpu_usage_seconds_total {}", seconds(cpu.usage_core_nano_seconds));
    }
    let _ = writeln!(out, "# TYPE node_memory_working_set_bytes gauge");
    if let Some(memory) = &node.memory {
        let _ = writeln!(out, "node_memory_working_set_bytes {}", memory.working_set_bytes);
    }
    let labels = |one: &v1::ContainerStats| {
        let attributes = one.attributes.clone().unwrap_or_default();
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        format!(
            "container={:?},namespace={:?},pod={:?}",
            label(names::CONTAINER_NAME),
            label(names::POD_NAMESPACE),
            label(names::POD_NAME)
        )
    };
    let _ = writeln!(out, "# TYPE container_cpu_usage_seconds_total counter");
    for one in &stats {
        if let Some(cpu) = one.cpu.as_ref().and_then(|cpu| value(&cpu.usage_core_nano_seconds)) {
            let _ = writeln!(out, "container_cpu_usage_seconds_total{{{}}} {}", labels(one), seconds(cpu));
        }
    }
    let _ = writeln!(out, "# TYPE container_memory_working_set_bytes gauge");
    for one in &stats {
        if let Some(bytes) = one.memory.as_ref().and_then(|memory| value(&memory.working_set_bytes)) {
            let _ = writeln!(out, "container_memory_working_set_bytes{{{}}} {bytes}", labels(one));
        }
    }
    let _ = writeln!(out, "# TYPE resource_scrape_error gauge\nresource_scrape_error 0");
    text(StatusCode::OK, out)
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
