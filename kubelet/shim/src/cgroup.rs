//! Cgroups of sandboxes and containers: version 1 (a tree a controller), version 2 (one tree), and both at once.
//!
//! The kubelet makes a Pod's cgroup and names it; below it each sandbox and container gets one, in every tree. Which
//! trees there are is read from the mounts that this process sees. Concept page:
//! <https://kubernetes.io/docs/concepts/architecture/cgroups/>

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

mod device_filter;
mod limits;

/// The controllers of version 1 that containers are put under.
const CONTROLLERS: [&str; 13] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
];

/// Where a cgroup hangs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupSpec {
    /// The Pod's cgroup, as the kubelet names it (`/kubepods/burstable/pod…`).
    pub parent: String,
    /// Its own name below that.
    pub name: String,
}

/// What a container may use, in CRI's terms; zero and empty set nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds of CPU time in each period; negative is no limit.
    pub cpu_quota_us: i64,
    /// The period, in microseconds.
    pub cpu_period_us: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of memory and swap together.
    pub memory_swap_bytes: i64,
    /// CPUs that it may run on (`0-2,4`).
    pub cpuset_cpus: String,
    /// Memory nodes that it may use.
    pub cpuset_mems: String,
    /// Huge pages: size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2 and what to write to them.
    pub unified: BTreeMap<String, String>,
    /// Devices that it may use beside the ones that every container may; absent allows all.
    pub devices: Option<Vec<DeviceRule>>,
}

/// A device that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `c` or `b`.
    pub kind: char,
    /// Major number; absent means all.
    pub major: Option<u32>,
    /// Minor number; absent means all.
    pub minor: Option<u32>,
    /// Some of `rwm`.
    pub access: String,
}

impl DeviceRule {
    /// A rule.
    pub fn new(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { kind, major, minor, access: access.to_owned() }
    }
}

/// Something that could not be done with a cgroup. Retryable where the source says so.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {path}: {source}")]
pub struct CgroupError {
    /// What was attempted.
    pub attempt: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { attempt, path, source }
}

pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Cgroup files take one write call; creating one is never meant.
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(failed("write to", path))
}

/// The cgroup trees of this machine, as this process sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trees {
    /// Version 1: controllers and where their tree is mounted.
    pub v1: Vec<(Vec<String>, PathBuf)>,
    /// The tree of version 2.
    pub v2: Option<PathBuf>,
}

impl Trees {
    /// Reads them from `/proc/self/mountinfo`, and where this process is in them from `/proc/self/cgroup`.
    ///
    /// Names of cgroups count from where minik was started: the part of the own path before `/minik/`, or all of it.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn detect() -> io::Result<Trees> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        Ok(Trees::parse(&mounts).based(&own))
    }

    /// Moves the trees' roots to where names count from.
    fn based(mut self, own: &str) -> Trees {
        let base = |wanted: &dyn Fn(&str) -> bool| {
            let path = own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                wanted(controllers).then_some(path)
            });
            let path = path.unwrap_or_default();
            let cut = path.find("/minik/").unwrap_or(path.len());
            path[..cut].trim_matches('/').to_owned()
        };
        for (controllers, root) in &mut self.v1 {
            let named = |line: &str| line.split(',').any(|name| controllers.iter().any(|own| own == name));
            *root = root.join(base(&named));
        }
        if let Some(root) = &mut self.v2 {
            *root = root.join(base(&str::is_empty));
        }
        self
    }

    fn parse(mountinfo: &str) -> Trees {
        let mut trees = Trees::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            let point = PathBuf::from(point);
            match kind {
                Some("cgroup2") if trees.v2.is_none() => trees.v2 = Some(point),
                Some("cgroup") => {
                    let named = |option: &&str| CONTROLLERS.contains(option) || *option == "name=systemd";
                    let controllers: Vec<_> = options.split(',').filter(named).map(str::to_owned).collect();
                    let known = trees.v1.iter().any(|(other, _)| *other == controllers);
                    if !controllers.is_empty() && !known {
                        trees.v1.push((controllers, point));
                    }
                }
                _ => {}
            }
        }
        trees
    }

    /// Whether version 2 rules alone.
    pub fn is_unified(&self) -> bool {
        self.v1.iter().all(|(controllers, _)| controllers.iter().any(|name| name.starts_with("name=")))
    }

    /// The cgroup that `spec` names.
    pub fn cgroup(&self, spec: &CgroupSpec) -> Cgroup {
        let relative = Path::new(spec.parent.trim_start_matches('/')).join(&spec.name);
        let mut folders: Vec<_> = self
            .v1
            .iter()
            .map(|(controllers, point)| Folder {
                controllers: controllers.clone(),
                path: point.join(&relative),
            })
            .collect();
        let unified = self.is_unified();
        if let Some(point) = &self.v2 {
            let path = point.join(&relative);
            // Beside version 1 this tree has no controllers: it is used where the kubelet uses it.
            if unified || path.parent().is_some_and(Path::exists) {
                folders.push(Folder { controllers: Vec::new(), path });
            }
        }
        Cgroup { folders, unified, root: self.v2.clone() }
    }
}

/// A cgroup's folder in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The tree's controllers; none for version 2.
    pub controllers: Vec<String>,
    /// Its path.
    pub path: PathBuf,
}

/// One cgroup in all trees.
#[derive(Debug, Clone)]
pub struct Cgroup {
    folders: Vec<Folder>,
    unified: bool,
    root: Option<PathBuf>,
}

impl Cgroup {
    /// Its folders.
    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// Whether version 2 rules alone.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// The folder in the tree of this controller; in version 2 all are in one.
    pub fn folder(&self, controller: &str) -> Option<&Path> {
        let has = |folder: &&Folder| self.unified || folder.controllers.iter().any(|name| name == controller);
        self.folders.iter().find(has).map(|folder| folder.path.as_path())
    }

    /// Makes its folders, as far as they are missing, and sets the limits.
    ///
    /// # Errors
    /// When the kernel refuses; what was made stays, for [`Cgroup::remove`].
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        for folder in &self.folders {
            self.make(folder)?;
            minik_fault::point("cgroup.made");
        }
        self.update(limits)?;
        match &limits.devices {
            Some(devices) => self.allow_devices(devices),
            None => Ok(()),
        }
    }

    fn make(&self, folder: &Folder) -> Result<(), CgroupError> {
        let path = &folder.path;
        let cpuset = folder.controllers.iter().any(|name| name == "cpuset");
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(failed("create", path))?;
                if let (true, Some(root)) = (self.unified, &self.root) {
                    enable_controllers(root, path)?;
                }
            }
            Err(error) => return Err(failed("create", path)(error)),
        }
        if cpuset {
            inherit_cpuset(path)?;
        }
        Ok(())
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// When the process has gone or the kernel refuses.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        let pid = pid.to_string();
        self.folders.iter().try_for_each(|folder| write(&folder.path.join("cgroup.procs"), &pid))
    }

    /// The processes in it, as this PID namespace numbers them.
    pub fn processes(&self) -> Vec<i32> {
        let Some(folder) = self.folders.iter().find(|folder| folder.path.exists()) else { return Vec::new() };
        let text = std::fs::read_to_string(folder.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Kills every process in it. Gives whether none is left; processes take a moment to go.
    pub fn kill(&self) -> bool {
        if let Some(folder) = self.folders.iter().find(|folder| folder.controllers.is_empty()) {
            // Absent before Linux 5.14; the loop below does as well.
            let _ = write(&folder.path.join("cgroup.kill"), "1");
        }
        // A process that forks meanwhile is found on the next turn.
        for _ in 0..16 {
            let processes = self.processes();
            if processes.is_empty() {
                return true;
            }
            for pid in processes {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // It may have gone by itself.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        self.processes().is_empty()
    }

    /// Removes its folders and those below them. Nothing may run in it any more.
    ///
    /// # Errors
    /// When something still runs in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.folders.iter().try_for_each(|folder| {
            let removed = remove_tree(&folder.path);
            minik_fault::point("cgroup.removed");
            removed
        })
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(folder) = self.folder("memory") else { return 0 };
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    // A container may have made cgroups of its own.
    let entries = std::fs::read_dir(path).map_err(failed("read", path))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path).map_err(failed("remove", path))
}

/// A new cpuset is empty, and nothing can be put into it: it starts with what its parent has.
fn inherit_cpuset(path: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(file);
        let value = std::fs::read_to_string(&own).map_err(failed("read", &own))?;
        if !value.trim().is_empty() {
            continue;
        }
        let Some(parent) = path.parent() else { continue };
        let above = parent.join(file);
        let mut value = std::fs::read_to_string(&above).map_err(failed("read", &above))?;
        if value.trim().is_empty() {
            inherit_cpuset(parent)?;
            value = std::fs::read_to_string(&above).map_err(failed("read", &above))?;
        }
        write(&own, value.trim())?;
    }
    Ok(())
}

/// Hands the controllers down from the root of version 2's tree to the parent of `path`.
fn enable_controllers(root: &Path, path: &Path) -> Result<(), CgroupError> {
    let mut above: Vec<_> = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)).collect();
    above.reverse();
    for folder in above {
        let file = folder.join("cgroup.controllers");
        let names = std::fs::read_to_string(&file).map_err(failed("read", &file))?;
        for name in names.split_whitespace() {
            // One that cannot be handed down (`cpu` with realtime processes) does not keep the others.
            let _ = write(&folder.join("cgroup.subtree_control"), &format!("+{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
35 30 0:28 / /other/memory rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn trees_are_read_from_mounts() {
        let trees = Trees::parse(HYBRID);
        assert_eq!(trees.v1.len(), 3);
        assert_eq!(trees.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert!(!trees.is_unified());
        let spec = CgroupSpec { parent: "/kubepods/pod1".into(), name: "c".into() };
        let cgroup = trees.cgroup(&spec);
        assert_eq!(cgroup.folder("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c")));
        assert_eq!(cgroup.folder("pids"), None);
        let own = "4:memory:/outer/minik/c/n/runtime\n3:cpu,cpuacct:/\n0::/outer\n";
        let based = trees.based(own).cgroup(&spec);
        assert_eq!(based.folder("memory"), Some(Path::new("/sys/fs/cgroup/memory/outer/kubepods/pod1/c")));
        assert_eq!(based.folder("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c")));
        let alone = Trees::parse("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(alone.is_unified());
        assert_eq!(alone.cgroup(&spec).folder("memory"), Some(Path::new("/sys/fs/cgroup/kubepods/pod1/c")));
    }
}
