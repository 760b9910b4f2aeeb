//! Cgroups of Pods: the tree of classes of service, and each Pod's limits, under cgroup v1 (per controller), v2 or both
//! (<https://kubernetes.io/docs/concepts/architecture/cgroups/>).
//!
//! ```text
//!  ROOT/kubepods/pod…  ROOT/kubepods/burstable/pod…  ROOT/kubepods/besteffort/pod…
//! ```
//! `ROOT` lies, in each hierarchy, below the place where minik was started: the own cgroup up to `/minik/`.

use crate::containers::resources::{PodLimits, pod_limits, shares};
use crate::pod::{PodObject, Qos};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Version 1 controllers that get limits.
const LIMITED: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers; empty for version 2.
    controllers: Vec<String>,
    /// Where paths of `cgroup_parent` begin.
    base: PathBuf,
}

impl Hierarchy {
    /// Whether Pods get limits in it; in others the runtime makes what it needs.
    fn limits(&self) -> bool {
        self.controllers.is_empty() || LIMITED.iter().any(|controller| self.has(controller))
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }
}

/// Why a cgroup cannot be made or removed. Retryable.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the cgroup {}", path.display())]
pub struct CgroupError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The cgroups of this node's Pods.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    root: String,
    most_pids: i64,
}

impl Cgroups {
    /// Finds the hierarchies of this process; Pods' cgroups are made below `root` in each, or not at all.
    pub fn discover(root: Option<&str>, most_pids: i64) -> Cgroups {
        let Some(root) = root else {
            return Cgroups { hierarchies: Vec::new(), root: String::new(), most_pids };
        };
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let hierarchies = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Cgroups { hierarchies, root: root.trim_end_matches('/').to_owned(), most_pids }
    }

    fn class(&self, qos: Qos) -> String {
        match qos {
            Qos::Guaranteed => format!("{}/kubepods", self.root),
            Qos::Burstable => format!("{}/kubepods/burstable", self.root),
            Qos::BestEffort => format!("{}/kubepods/besteffort", self.root),
        }
    }

    /// A Pod's cgroup, as the runtime is told it.
    pub fn of(&self, pod: &PodObject) -> String {
        format!("{}/pod{}", self.class(pod.qos()), pod.uid())
    }

    /// Makes a Pod's cgroup with its limits; brings limits up to date if it is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn make(&self, pod: &PodObject) -> Result<(), CgroupError> {
        let (cgroups, path, limits) = (self.clone(), self.of(pod), pod_limits(pod));
        blocking(move || cgroups.make_now(&path, &limits)).await
    }

    fn make_now(&self, path: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        for hierarchy in self.hierarchies.iter().filter(|one| one.limits()) {
            let dir = self.make_dirs(hierarchy, path)?;
            minik_fault::point("kubelet.cgroup.made");
            limit(hierarchy, &dir, limits, self.most_pids).map_err(|source| CgroupError {
                what: "limit",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(())
    }

    fn make_dirs(&self, hierarchy: &Hierarchy, path: &str) -> Result<PathBuf, CgroupError> {
        let mut dir = hierarchy.base.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => prepare(hierarchy, &parent, &dir).map_err(|source| CgroupError {
                    what: "prepare",
                    path: dir.clone(),
                    source,
                })?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(CgroupError { what: "make", path: dir, source }),
            }
        }
        Ok(dir)
    }

    /// Removes what a Pod's cgroup is, and all below it. One that holds processes still is an error.
    ///
    /// # Errors
    /// When something still runs in it.
    pub async fn remove(&self, uid: &str) -> Result<(), CgroupError> {
        let (cgroups, uid) = (self.clone(), uid.to_owned());
        // The kernel takes its time to remove one.
        blocking(move || cgroups.remove_now(&uid)).await
    }

    fn remove_now(&self, uid: &str) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                let path = format!("{}/pod{uid}", self.class(qos));
                let dir = hierarchy.base.join(path.trim_start_matches('/'));
                remove_tree(&dir).map_err(|source| CgroupError {
                    what: "remove",
                    path: dir.clone(),
                    source,
                })?;
            }
            minik_fault::point("kubelet.cgroup.removed");
        }
        Ok(())
    }

    /// Sets the weight of all Pods that ask for something together, as they come and go.
    pub fn weigh(&self, burstable_milli: i64) {
        for (qos, milli) in [(Qos::Burstable, burstable_milli), (Qos::BestEffort, 0)] {
            let path = self.class(qos);
            for hierarchy in &self.hierarchies {
                let dir = hierarchy.base.join(path.trim_start_matches('/'));
                // Not there before the first such Pod.
                if hierarchy.has("cpu") {
                    let _ = fs::write(dir.join("cpu.shares"), shares(milli).to_string());
                } else if hierarchy.controllers.is_empty() {
                    let _ = fs::write(dir.join("cpu.weight"), weight(shares(milli)).to_string());
                }
            }
        }
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), CgroupError> + Send + 'static,
) -> Result<(), CgroupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(CgroupError { what: "work on", path: PathBuf::new(), source: io::Error::other(error) })
        }
    }
}

/// Version 2's weight for version 1's shares, as upstream converts it.
fn weight(shares: i64) -> i64 {
    1 + ((shares - 2) * 9999) / 262_142
}

/// A fresh cgroup can hold processes only once it has some cores and memory nodes (v1), or is given controllers (v2).
fn prepare(hierarchy: &Hierarchy, parent: &Path, dir: &Path) -> io::Result<()> {
    if hierarchy.has("cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let of_parent = fs::read_to_string(parent.join(file))?;
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                fs::write(dir.join(file), of_parent.trim())?;
            }
        }
    }
    if hierarchy.controllers.is_empty() {
        let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
        for controller in available.split_whitespace() {
            // Some cannot be had below a cgroup that holds processes itself; limits by them then fail aloud.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

fn limit(hierarchy: &Hierarchy, dir: &Path, limits: &PodLimits, most_pids: i64) -> io::Result<()> {
    let set = |file: &str, value: String| match fs::write(dir.join(file), &value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let or_max = |value: i64| if value > 0 { value.to_string() } else { "max".to_owned() };
    if hierarchy.controllers.is_empty() {
        let quota = if limits.cpu_quota > 0 { limits.cpu_quota.to_string() } else { "max".into() };
        set("cpu.weight", weight(limits.cpu_shares).to_string())?;
        set("cpu.max", format!("{quota} {}", limits.cpu_period))?;
        set("memory.max", or_max(limits.memory_bytes))?;
        return set("pids.max", or_max(most_pids));
    }
    if hierarchy.has("cpu") {
        set("cpu.shares", limits.cpu_shares.to_string())?;
        set("cpu.cfs_period_us", limits.cpu_period.to_string())?;
        set("cpu.cfs_quota_us", if limits.cpu_quota > 0 { limits.cpu_quota } else { -1 }.to_string())?;
    }
    if hierarchy.has("memory") {
        // Refused where it is so already.
        let _ = set("memory.use_hierarchy", "1".into());
        let bytes = if limits.memory_bytes > 0 { limits.memory_bytes } else { -1 };
        set("memory.limit_in_bytes", bytes.to_string())?;
    }
    if hierarchy.has("pids") {
        set("pids.max", or_max(most_pids))?;
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let below = match fs::read_dir(dir) {
        Ok(below) => below,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for found in below {
        let found = found?;
        if found.file_type()?.is_dir() {
            remove_tree(&found.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The hierarchies that Pods get cgroups in.
fn hierarchies(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut all = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let (mut place, mut kind) = (place.split(' ').skip(3), kind.split(' '));
        let (Some(root), Some(point)) = (place.next(), place.next()) else { continue };
        let controllers: Vec<String> = match kind.next() {
            Some("cgroup") => kind.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect(),
            Some("cgroup2") => Vec::new(),
            _ => continue,
        };
        let controllers: Vec<String> = controllers.into_iter().filter(|one| !is_option(one)).collect();
        let path = own_path(own, &controllers);
        let base = path.split_once("/minik/").map_or(path.as_str(), |(before, _)| before);
        let below = base.strip_prefix(root.trim_end_matches('/')).unwrap_or(base);
        all.push(Hierarchy { controllers, base: Path::new(point).join(below.trim_start_matches('/')) });
    }
    // A hybrid's version 2 has no controllers to limit with.
    let is_hybrid = all.iter().any(|one| one.has("memory") || one.has("cpu"));
    all.retain(|one| !is_hybrid || !one.controllers.is_empty());
    all.dedup_by(|a, b| a.controllers == b.controllers);
    all
}

fn is_option(word: &str) -> bool {
    matches!(word, "rw" | "ro" | "xattr" | "clone_children" | "noprefix")
        || word.starts_with("release_agent=")
}

fn own_path(own: &str, controllers: &[String]) -> String {
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        let is_it = match controllers.first() {
            None => names.is_empty(),
            Some(first) => names.split(',').any(|name| name == first),
        };
        if is_it {
            return path.to_owned();
        }
    }
    "/".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_begin_where_minik_was_started() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/process_api/x/minik/c/n/kubelet\n1:cpu:/minik/c/n/kubelet\n0::/\n";
        let found = hierarchies(mounts, own);
        let lines: Vec<String> =
            found.iter().map(|one| format!("{:?} {}", one.controllers, one.base.display())).collect();
        assert_eq!(
            lines,
            [
                r#"["cpu"] /sys/fs/cgroup/cpu/"#,
                r#"["memory"] /sys/fs/cgroup/memory/process_api/x"#,
                r#"["name=systemd"] /sys/fs/cgroup/systemd/"#,
            ]
        );
        let limited: Vec<bool> = found.iter().map(Hierarchy::limits).collect();
        assert_eq!(limited, [true, true, false], "the third is only cleared");
        let v2 = hierarchies("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/user.slice\n");
        assert_eq!(v2[0].base, Path::new("/sys/fs/cgroup/user.slice"));
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([weight(2), weight(1024), weight(262_144)], [1, 39, 10_000]);
    }
}
