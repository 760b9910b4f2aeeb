//! Limits, as each version's files want them.

use super::{Cgroup, CgroupError, DeviceRule, Limits, device_filter, write};
use std::path::Path;

/// What every container may do with devices: make any node, and use the harmless ones.
fn common_devices() -> Vec<DeviceRule> {
    let chars = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (5, 1)];
    let mut rules = vec![DeviceRule::new('c', None, None, "m"), DeviceRule::new('b', None, None, "m")];
    rules.extend(chars.map(|(major, minor)| DeviceRule::new('c', Some(major), Some(minor), "rwm")));
    rules.push(DeviceRule::new('c', Some(136), None, "rwm"));
    rules
}

impl Cgroup {
    /// Sets what `limits` names and leaves the rest.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        if self.is_unified() {
            return match self.folder("") {
                Some(folder) => update_v2(folder, limits),
                None => Ok(()),
            };
        }
        self.update_v1(limits)
    }

    fn update_v1(&self, limits: &Limits) -> Result<(), CgroupError> {
        let set = |controller: &str, file: &str, value: String| match self.folder(controller) {
            Some(folder) => write(&folder.join(file), &value),
            None => Ok(()),
        };
        if limits.cpu_shares > 0 {
            set("cpu", "cpu.shares", limits.cpu_shares.to_string())?;
        }
        if limits.cpu_period_us > 0 {
            set("cpu", "cpu.cfs_period_us", limits.cpu_period_us.to_string())?;
        }
        if limits.cpu_quota_us != 0 {
            set("cpu", "cpu.cfs_quota_us", limits.cpu_quota_us.to_string())?;
        }
        if limits.memory_bytes > 0 {
            self.set_memory_v1(limits)?;
        }
        if !limits.cpuset_cpus.is_empty() {
            set("cpuset", "cpuset.cpus", limits.cpuset_cpus.clone())?;
        }
        if !limits.cpuset_mems.is_empty() {
            set("cpuset", "cpuset.mems", limits.cpuset_mems.clone())?;
        }
        for (size, bytes) in &limits.hugepages {
            set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string())?;
        }
        Ok(())
    }

    /// Memory alone may never exceed memory and swap together, so the order depends on which way they go.
    fn set_memory_v1(&self, limits: &Limits) -> Result<(), CgroupError> {
        let Some(folder) = self.folder("memory") else { return Ok(()) };
        let (memory, both) =
            (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
        let value = limits.memory_bytes.to_string();
        if limits.memory_swap_bytes == 0 || !both.exists() {
            return write(&memory, &value);
        }
        let swap = limits.memory_swap_bytes.to_string();
        match write(&memory, &value) {
            Ok(()) => write(&both, &swap),
            Err(_) => write(&both, &swap).and_then(|()| write(&memory, &value)),
        }
    }

    /// Allows these devices, the common ones, and no other.
    pub(super) fn allow_devices(&self, devices: &[DeviceRule]) -> Result<(), CgroupError> {
        let all: Vec<_> = common_devices().into_iter().chain(devices.iter().cloned()).collect();
        if self.is_unified() {
            return match self.folder("") {
                Some(folder) => device_filter::attach(folder, &all),
                None => Ok(()),
            };
        }
        let Some(folder) = self.folder("devices") else { return Ok(()) };
        write(&folder.join("devices.deny"), "a")?;
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        for rule in &all {
            let (major, minor) = (number(rule.major), number(rule.minor));
            let line = format!("{} {major}:{minor} {}", rule.kind, rule.access);
            write(&folder.join("devices.allow"), &line)?;
        }
        Ok(())
    }
}

/// The weight of version 2 (1 to 10000) for the shares of version 1 (2 to 262144).
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn update_v2(folder: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let set = |file: &str, value: String| write(&folder.join(file), &value);
    // A weight is a wish: where the controller is not handed down there is nobody to weigh against.
    if limits.cpu_shares > 0 && folder.join("cpu.weight").exists() {
        set("cpu.weight", weight(limits.cpu_shares).to_string())?;
    }
    if limits.cpu_quota_us != 0 || limits.cpu_period_us > 0 {
        let quota = match limits.cpu_quota_us {
            quota if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = if limits.cpu_period_us > 0 { limits.cpu_period_us } else { 100_000 };
        set("cpu.max", format!("{quota} {period}"))?;
    }
    if limits.memory_bytes > 0 {
        let swap = limits.memory_swap_bytes.saturating_sub(limits.memory_bytes);
        if limits.memory_swap_bytes > 0 && folder.join("memory.swap.max").exists() {
            set("memory.swap.max", swap.max(0).to_string())?;
        }
        set("memory.max", limits.memory_bytes.to_string())?;
    }
    if !limits.cpuset_cpus.is_empty() {
        set("cpuset.cpus", limits.cpuset_cpus.clone())?;
    }
    if !limits.cpuset_mems.is_empty() {
        set("cpuset.mems", limits.cpuset_mems.clone())?;
    }
    for (size, bytes) in &limits.hugepages {
        set(&format!("hugetlb.{size}.max"), bytes.to_string())?;
    }
    limits.unified.iter().try_for_each(|(file, value)| set(file, value.clone()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn weights_follow_shares() {
        assert_eq!([2, 1024, 262_144].map(super::weight), [1, 39, 10_000]);
    }
}
