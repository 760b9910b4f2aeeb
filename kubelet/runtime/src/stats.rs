//! What containers and sandboxes use, read from their cgroups when asked.

use crate::record::{ContainerRecord, SandboxRecord};
use crate::runtime::Runtime;
use crate::spec;
use minik_cri::v1;
use minik_shim::cgroup::{Cgroup, CgroupSpec};
use std::path::Path;

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of a line `NAME VALUE`.
fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn value(value: Option<u64>) -> Option<v1::UInt64Value> {
    value.map(|value| v1::UInt64Value { value })
}

fn cpu(cgroup: &Cgroup, timestamp: i64) -> v1::CpuUsage {
    let used = if cgroup.is_unified() {
        let stat = cgroup.folder("").and_then(|folder| std::fs::read_to_string(folder.join("cpu.stat")).ok());
        stat.and_then(|stat| line(&stat, "usage_usec")).map(|us| us * 1000)
    } else {
        cgroup.folder("cpuacct").and_then(|folder| number(&folder.join("cpuacct.usage")))
    };
    v1::CpuUsage { timestamp, usage_core_nano_seconds: value(used), ..Default::default() }
}

fn memory(cgroup: &Cgroup, timestamp: i64) -> v1::MemoryUsage {
    let Some(folder) = cgroup.folder("memory") else { return v1::MemoryUsage::default() };
    let unified = cgroup.is_unified();
    let usage = number(&folder.join(if unified { "memory.current" } else { "memory.usage_in_bytes" }));
    let limit = number(&folder.join(if unified { "memory.max" } else { "memory.limit_in_bytes" }));
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let (inactive, rss, faults, major) = match unified {
        true => ("inactive_file", "anon", "pgfault", "pgmajfault"),
        false => ("total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"),
    };
    let working = usage.map(|usage| usage.saturating_sub(line(&stat, inactive).unwrap_or(0)));
    // Version 1 shows no limit as a number near the largest.
    let limit = limit.filter(|limit| *limit < 1 << 60);
    let available = limit.zip(working).map(|(limit, working)| limit.saturating_sub(working));
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(working),
        available_bytes: value(available),
        usage_bytes: value(usage),
        rss_bytes: value(line(&stat, rss)),
        page_faults: value(line(&stat, faults)),
        major_page_faults: value(line(&stat, major)),
        psi: None,
    }
}

/// Bytes and files below a folder.
fn usage(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    let mut sum = (0, 0);
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let (bytes, files) = if metadata.is_dir() { usage(&entry.path()) } else { (0, 0) };
        sum = (sum.0 + metadata.blocks() * 512 + bytes, sum.1 + 1 + files);
    }
    sum
}

/// What a container uses.
pub fn container(runtime: &Runtime, record: &ContainerRecord) -> v1::ContainerStats {
    let (cgroup, timestamp) = (runtime.cgroup(&record.spec.cgroup), runtime.now());
    let (bytes, files) = usage(&record.spec.rootfs.upper);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: Some(cpu(&cgroup, timestamp)),
        memory: Some(memory(&cgroup, timestamp)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: runtime.images.root().display().to_string() }),
            used_bytes: value(Some(bytes)),
            inodes_used: value(Some(files)),
        }),
        ..Default::default()
    }
}

/// What a sandbox uses, its containers included.
pub fn sandbox(runtime: &Runtime, record: &SandboxRecord) -> v1::PodSandboxStats {
    let timestamp = runtime.now();
    // The Pod's own cgroup: the kubelet made it, and everything of the Pod is below it.
    let parent = spec::cgroup_parent(&record.config);
    let cgroup = runtime.cgroup(&CgroupSpec { parent, name: String::new() });
    let containers = runtime.containers_of(&record.id);
    let running = containers.iter().filter(|container| container.process.is_some());
    let containers: Vec<_> = running.map(|record| container(runtime, record)).collect();
    let processes = cgroup.folder("pids").and_then(|folder| number(&folder.join("pids.current")));
    let linux = v1::LinuxPodSandboxStats {
        cpu: Some(cpu(&cgroup, timestamp)),
        memory: Some(memory(&cgroup, timestamp)),
        network: record.pause.as_ref().and_then(|pause| network(pause.pid, timestamp)),
        process: Some(v1::ProcessUsage { timestamp, process_count: value(processes) }),
        containers,
        io: None,
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn network(pid: i32, timestamp: i64) -> Option<v1::NetworkUsage> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let interfaces: Vec<_> = text.lines().filter_map(interface).filter(|link| link.name != "lo").collect();
    let default = interfaces.iter().find(|link| link.name == "eth0").or(interfaces.first()).cloned();
    Some(v1::NetworkUsage { timestamp, default_interface: default, interfaces })
}

fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let counter = |index: usize| value(counters.get(index).copied());
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: counter(0),
        rx_errors: counter(2),
        tx_bytes: counter(8),
        tx_errors: counter(10),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_of_a_link_are_read() {
        let link = super::interface("  eth0:  100  2 3 0 0 0 0 0  400 5 6 0 0 0 0 0").unwrap();
        let values = [&link.rx_bytes, &link.rx_errors, &link.tx_bytes, &link.tx_errors];
        assert_eq!(values.map(|value| value.as_ref().map(|value| value.value)), [100, 3, 400, 6].map(Some));
        assert!(super::interface("Inter-|   Receive  |  Transmit").is_none());
    }
}
