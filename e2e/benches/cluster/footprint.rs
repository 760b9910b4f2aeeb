//! What an idle cluster costs: proportional set size and CPU time of every process in its cgroups.

use crate::print;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How long a cluster may settle before it counts as idle.
const SETTLE: Duration = Duration::from_secs(10);
/// How long CPU time is counted.
const WINDOW: Duration = Duration::from_secs(30);
/// Ticks of a second in `/proc/PID/stat`, on every Linux that we know of.
const TICKS: f64 = 100.0;

struct Process {
    name: String,
    pss_kib: u64,
    ticks: u64,
}

/// Measures `footprint`.
pub async fn measure(cluster: &str) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let (began, before) = (Instant::now(), processes(cluster)?);
    ensure!(!before.is_empty(), "no process is in a cgroup minik/{cluster}");
    tokio::time::sleep(WINDOW).await;
    let (seconds, after) = (began.elapsed().as_secs_f64(), processes(cluster)?);
    let ticks = |all: &BTreeMap<u32, Process>| all.values().map(|process| process.ticks).sum::<u64>() as f64;
    let percent = (ticks(&after) - ticks(&before)) / TICKS / seconds * 100.0;
    let mib = |kib: u64| (kib as f64 / 102.4).round() / 10.0;
    let pss = after.values().map(|process| process.pss_kib).sum();
    let each: Vec<Value> = after
        .values()
        .map(|process| json!({"process": process.name, "pss_mib": mib(process.pss_kib)}))
        .collect();
    print(&json!({"figure": "footprint_pss", "mib": mib(pss), "processes": each}));
    print(
        &json!({"figure": "footprint_cpu", "percent_of_a_core": (percent * 100.0).round() / 100.0, "seconds": seconds.round()}),
    );
    Ok(())
}

/// The processes in the cluster's cgroups, by pid.
fn processes(cluster: &str) -> Result<BTreeMap<u32, Process>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile is no part of the cluster any more.
        if let Some(process) = process(pid, cluster) {
            all.insert(pid, process);
        }
    }
    Ok(all)
}

fn process(pid: u32, cluster: &str) -> Option<Process> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let path = format!("/minik/{cluster}/");
    read("cgroup")?.lines().find(|line| format!("{line}/").contains(&path))?;
    let line = read("cmdline")?.replace('\0', " ");
    let name =
        line.split(' ').take(2).map(|word| word.rsplit('/').next().unwrap_or(word)).collect::<Vec<_>>();
    let pss = read("smaps_rollup")?
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())?;
    // After the name in parentheses: state is the first field, user and system time are the 12th and 13th.
    let stat = read("stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process { name: name.join(" "), pss_kib: pss, ticks: ticks(11)? + ticks(12)? })
}
