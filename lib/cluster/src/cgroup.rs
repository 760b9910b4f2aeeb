//! A cluster's cgroups: `minik/CLUSTER/...` in every hierarchy, so that its end is one kill and a few rmdirs.
//!
//! ```text
//!  version 2        MOUNT/minik/CLUSTER/{supervise,control-plane/UNIT,NODE/minik/UNIT}  membership, and the kill
//!  version 1, each  BASE/minik/CLUSTER/NODE                                          the root of what the node sees
//! ```
//! BASE is the cgroup that minik was started in, because some machines let nobody write above it. A node sees its own
//! part as the root, through a cgroup namespace. (<https://kubernetes.io/docs/concepts/architecture/cgroups/>)

use crate::error::{Error, Result, file, system};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two tries where the kernel tells nothing.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// `unified`, or the controllers as the kernel lists them (`cpu,cpuacct`, `name=systemd`).
    pub controllers: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The cgroup below which ours are made.
    pub base: PathBuf,
}

impl Hierarchy {
    fn is_unified(&self) -> bool {
        self.controllers == UNIFIED
    }

    /// Systemd kills what it finds in a session's cgroup of its own hierarchy.
    fn is_membership_only(&self) -> bool {
        self.is_unified() || self.controllers.starts_with("name=")
    }
}

const UNIFIED: &str = "unified";

/// A cluster's cgroups.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// `minik/CLUSTER`.
    path: PathBuf,
}

impl Cgroups {
    /// Those of a cluster; none at all for who is not root.
    pub fn of(cluster: &str) -> Result<Cgroups> {
        let path = Path::new("minik").join(cluster);
        if !rustix::process::geteuid().is_root() {
            return Ok(Cgroups { hierarchies: Vec::new(), path });
        }
        let read = |path: &str| std::fs::read_to_string(path).map_err(file("read", Path::new(path)));
        let hierarchies = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        Ok(Cgroups { hierarchies, path })
    }

    fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.is_unified())
    }

    fn dir(&self, hierarchy: &Hierarchy, below: &str) -> PathBuf {
        let path = hierarchy.base.join(&self.path);
        if below.is_empty() { path } else { path.join(below) }
    }

    /// Files into which a process of the control plane writes itself.
    pub fn enter(&self, unit: &str) -> Result<Vec<File>> {
        let hierarchies = self.hierarchies.iter().filter(|hierarchy| hierarchy.is_membership_only());
        hierarchies.map(|hierarchy| procs(&make(hierarchy, &self.dir(hierarchy, unit))?)).collect()
    }

    /// Files into which a process of a node writes itself: the node's root in each hierarchy of version 1, and a leaf
    /// in version 2, where only leaves may hold processes.
    pub fn enter_node(&self, node: &str, unit: &str) -> Result<Vec<File>> {
        let below = |hierarchy: &Hierarchy| match hierarchy.is_unified() && !unit.is_empty() {
            // Names of cgroups count from the part of the own path before `/minik/`, which is the node.
            true => format!("{node}/minik/{unit}"),
            false => node.to_owned(),
        };
        let one = |hierarchy: &Hierarchy| procs(&make(hierarchy, &self.dir(hierarchy, &below(hierarchy)))?);
        self.hierarchies.iter().map(one).collect()
    }

    /// Each hierarchy's mount point and the node's folder in it.
    pub fn node_dirs(&self, node: &str) -> Vec<(PathBuf, PathBuf)> {
        let one = |hierarchy: &Hierarchy| (hierarchy.mount.clone(), self.dir(hierarchy, node));
        self.hierarchies.iter().map(one).collect()
    }

    /// Kills everything in `below` (all of the cluster for "") and waits until it is gone.
    pub fn kill(&self, below: &str) -> Result<()> {
        match self.unified().map(|unified| self.dir(unified, below)) {
            Some(dir) if dir.join("cgroup.kill").exists() => {
                let path = dir.join("cgroup.kill");
                std::fs::write(&path, "1").map_err(file("write", &path))?;
                wait_empty(&dir)
            }
            Some(dir) if !dir.exists() => Ok(()),
            _ => {
                let dirs = self.hierarchies.iter().map(|hierarchy| self.dir(hierarchy, below));
                dirs.filter(|dir| dir.exists()).try_for_each(|dir| kill_members(&dir))
            }
        }
    }

    /// Removes the empty cgroups in `below` (all of the cluster for ""), and `minik` itself when nothing else is in it.
    pub fn remove(&self, below: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            remove_tree(&self.dir(hierarchy, below))?;
            // Other clusters may be in it.
            let _ = std::fs::remove_dir(hierarchy.base.join("minik"));
        }
        Ok(())
    }
}

fn procs(dir: &Path) -> Result<File> {
    let path = dir.join("cgroup.procs");
    OpenOptions::new().write(true).open(&path).map_err(file("open", &path))
}

/// Makes a cgroup; version 1's cpuset must be told what its parent has.
fn make(hierarchy: &Hierarchy, dir: &Path) -> Result<PathBuf> {
    if dir.is_dir() {
        return Ok(dir.to_owned());
    }
    if let Some(parent) = dir.parent().filter(|parent| parent.starts_with(&hierarchy.base)) {
        make(hierarchy, parent)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.map_err(file("make the cgroup", dir))?,
    }
    if hierarchy.controllers.split(',').any(|one| one == "cpuset") {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (own, parent) = (dir.join(name), dir.join("..").join(name));
            let value = std::fs::read(&parent).map_err(file("read", &parent))?;
            std::fs::write(&own, value).map_err(file("write", &own))?;
        }
    }
    Ok(dir.to_owned())
}

/// Waits until `cgroup.events` says that nobody is left; the kernel tells each change.
fn wait_empty(dir: &Path) -> Result<()> {
    let path = dir.join("cgroup.events");
    let began = Instant::now();
    let events = File::open(&path).map_err(file("open", &path))?;
    loop {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut (&events), &mut text).map_err(file("read", &path))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let left = GONE_WITHIN.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(late(dir));
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))
            .map_err(system("wait for a cgroup"))?;
        std::io::Seek::rewind(&mut (&events)).map_err(file("read", &path))?;
    }
}

fn late(dir: &Path) -> Error {
    Error::Late {
        what: "the processes of a cgroup did not end",
        seconds: GONE_WITHIN.as_secs(),
        state: dir.display().to_string(),
    }
}

/// Without `cgroup.kill`: member by member, until there is none. The cgroups below come first.
fn kill_members(dir: &Path) -> Result<()> {
    let began = Instant::now();
    for child in children(dir) {
        kill_members(&child)?;
    }
    loop {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let members: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
        if members.is_empty() {
            return Ok(());
        }
        if began.elapsed() > GONE_WITHIN {
            return Err(late(dir));
        }
        for pid in members {
            // One that is gone already is what was wished for.
            if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = pidfd_send_signal(&fd, Signal::KILL);
                let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&second));
            }
        }
        std::thread::sleep(TRY_EVERY);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The kernel lets go of the dead a moment after it said so, and version 1 tells nobody when.
fn remove_tree(dir: &Path) -> Result<()> {
    let began = Instant::now();
    for child in children(dir) {
        remove_tree(&child)?;
    }
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == std::io::ErrorKind::ResourceBusy && began.elapsed() < GONE_WITHIN =>
            {
                std::thread::sleep(TRY_EVERY);
            }
            other => return other.map_err(file("remove the cgroup", dir)),
        }
    }
}

/// What is mounted, and where in it this process is.
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let own: Vec<(&str, &str)> = own
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .map(|(controllers, path)| (if controllers.is_empty() { UNIFIED } else { controllers }, path))
        .collect();
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let (head, tail): (Vec<&str>, Vec<&str>) = (head.split(' ').collect(), tail.split(' ').collect());
        let (Some(&root), Some(&mount), Some(&kind)) = (head.get(3), head.get(4), tail.first()) else {
            continue;
        };
        let options = tail.get(2).copied().unwrap_or("");
        let of = |controllers: &str| match kind {
            "cgroup2" => controllers == UNIFIED,
            "cgroup" => controllers.split(',').all(|one| options.split(',').any(|option| option == one)),
            _ => false,
        };
        let Some((controllers, path)) = own.iter().find(|(controllers, _)| of(controllers)) else { continue };
        if found.iter().any(|hierarchy| hierarchy.controllers == *controllers) {
            continue;
        }
        let mount = PathBuf::from(mount);
        // Membership goes to the top: whoever ends the session that we were started in must not find it.
        let below = match *controllers == UNIFIED || controllers.starts_with("name=") {
            true => Path::new(""),
            false => Path::new(path).strip_prefix(root).unwrap_or(Path::new("")),
        };
        let base = if below.as_os_str().is_empty() { mount.clone() } else { mount.join(below) };
        found.push(Hierarchy { controllers: (*controllers).to_owned(), mount, base });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hierarchies_are_told_apart() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/user/1\n4:memory:/api/x\n2:cpu,cpuacct:/\n0::/user/1\n";
        let found = parse(mounts, own);
        let base = |controllers: &str| {
            found.iter().find(|one| one.controllers == controllers).unwrap().base.display().to_string()
        };
        assert_eq!(base("cpu,cpuacct"), "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(base("memory"), "/sys/fs/cgroup/memory/api/x");
        assert_eq!(base("name=systemd"), "/sys/fs/cgroup/systemd");
        assert_eq!(base("unified"), "/sys/fs/cgroup/unified");
    }

    #[test]
    fn a_mount_that_shows_a_part_is_counted_from_it() {
        let mounts = "32 31 0:29 /docker/1 /cg/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parse(mounts, "4:memory:/docker/1/in\n")[0].base, Path::new("/cg/memory/in"));
        assert_eq!(parse(mounts, "4:memory:/elsewhere\n")[0].base, Path::new("/cg/memory"));
    }
}
