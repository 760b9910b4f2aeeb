//! What the kernel knows of a cluster's processes: CPU time and memory.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Ticks of a second in `/proc/PID/stat`, on every Linux that we know of.
const TICKS: u64 = 100;

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    pid: u32,
    /// The first two words of its command line.
    pub name: String,
}

impl Process {
    /// All that are in the cluster's cgroups.
    pub fn all(cluster: &str) -> Result<Vec<Process>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that ended meanwhile is no part of the cluster any more.
            if let Some(process) = Process::of(pid, cluster) {
                all.insert(pid, process);
            }
        }
        Ok(all.into_values().collect())
    }

    /// The cluster's apiserver.
    pub fn apiserver(cluster: &str) -> Result<Process> {
        let mut all = Process::all(cluster)?.into_iter();
        all.find(|process| process.name == "minik apiserver").context("the cluster has no apiserver")
    }

    fn of(pid: u32, cluster: &str) -> Option<Process> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let path = format!("/minik/{cluster}/");
        read("cgroup")?.lines().find(|line| format!("{line}/").contains(&path))?;
        let line = read("cmdline")?.replace('\0', " ");
        let words = line.split(' ').take(2).map(|word| word.rsplit('/').next().unwrap_or(word));
        Some(Process { pid, name: words.collect::<Vec<_>>().join(" ") })
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("{} has ended: reading {path}", self.name))
    }

    /// The CPU time of all its threads, those that ended too; exact to a hundredth of a second.
    pub fn cpu(&self) -> Result<Duration> {
        // Behind the name in parentheses: state is the first field, user and system time are the 12th and 13th.
        let stat = self.read("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has no CPU times")?;
        Ok(Duration::from_millis((user + system) * 1000 / TICKS))
    }

    /// Its memory in KiB, shared pages divided among those who share them.
    pub fn pss_kib(&self) -> Result<u64> {
        number(&self.read("smaps_rollup")?, "Pss:")
    }

    /// Its memory in KiB, and the most that it has had since [`Process::forget_peak`].
    pub fn rss_and_peak_kib(&self) -> Result<(u64, u64)> {
        let status = self.read("status")?;
        Ok((number(&status, "VmRSS:")?, number(&status, "VmHWM:")?))
    }

    /// Has the kernel count the peak from now on.
    pub fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid);
        fs::write(&path, "5").with_context(|| format!("writing {path}"))
    }
}

fn number(text: &str, name: &str) -> Result<u64> {
    let found =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    found.with_context(|| format!("the kernel does not tell {name}"))
}
