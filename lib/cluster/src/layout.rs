//! Where a cluster's files are.
//!
//! ```text
//!  STATE/CLUSTER/  cluster.json  pki/  kubeconfig/  data/  logs/  layers/  nodes/NODE/{kubelet,runtime,pods,containers,cni}
//!  RUN/CLUSTER/    supervise.sock  pids/  net  NODE/{net,mnt,cgroup,run/}
//! ```
//! STATE is `/var/lib/minik` and RUN `/run/minik` for root; below the user's own folders for anyone else.

use crate::error::{Error, Result, file};
use std::path::{Path, PathBuf};

/// The roots of all clusters of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// What survives `down` and a reboot.
    pub state: PathBuf,
    /// What does not.
    pub run: PathBuf,
}

impl Roots {
    /// The system's for root, the user's own for others; `MINIK_STATE` and `MINIK_RUN` override them.
    pub fn of_caller() -> Roots {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || variable("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let (state, run) = match rustix::process::geteuid().is_root() {
            true => (PathBuf::from("/var/lib/minik"), PathBuf::from("/run/minik")),
            false => (
                variable("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state")).join("minik"),
                variable("XDG_RUNTIME_DIR")
                    .unwrap_or_else(|| {
                        std::env::temp_dir().join(format!("minik-{}", rustix::process::geteuid().as_raw()))
                    })
                    .join("minik"),
            ),
        };
        Roots { state: variable("MINIK_STATE").unwrap_or(state), run: variable("MINIK_RUN").unwrap_or(run) }
    }

    /// Names of the clusters that exist, sorted.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn clusters(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.state) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("read", &self.state))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(file("read", &self.state))?;
            if entry.path().join("cluster.json").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The files of a cluster of this name.
    ///
    /// # Errors
    /// When the name cannot be a cluster's.
    pub fn cluster(&self, name: &str) -> Result<Layout> {
        check_name(name)?;
        Ok(Layout {
            name: name.to_owned(),
            state: self.state.join(name),
            run: self.run.join(name),
            roots: self.clone(),
        })
    }

    /// The lock that makers of clusters hold while they change what clusters share.
    pub fn lock(&self) -> PathBuf {
        self.state.join(".lock")
    }

    /// What was changed on the host for all clusters, so that it can be put back.
    pub fn host(&self) -> PathBuf {
        self.state.join(".host.json")
    }
}

/// A name, of a cluster or a node, is part of file names, link names and host names.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let bad = |problem| Err(Error::Name { name: name.to_owned(), problem });
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 {
        return bad("it must have 1 to 40 characters");
    }
    if RESERVED.contains(&name) {
        return bad("a file of the cluster bears it");
    }
    if !name.chars().all(inner) || name.starts_with('-') || name.ends_with('-') {
        return bad("only lower-case letters, digits and inner dashes are allowed");
    }
    Ok(())
}

/// Files beside the folders of nodes.
const RESERVED: &[&str] = &["net", "pids", "prepared"];

/// The files of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The cluster's name.
    pub name: String,
    /// What survives.
    pub state: PathBuf,
    /// What does not.
    pub run: PathBuf,
    /// The roots that it is below.
    pub roots: Roots,
}

impl Layout {
    /// The cluster's description.
    pub fn config(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    /// A certificate, key or public key, by its file name.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }

    /// The kubeconfig of an identity.
    pub fn kubeconfig(&self, who: &str) -> PathBuf {
        self.state.join("kubeconfig").join(format!("{who}.conf"))
    }

    /// The log of a process.
    pub fn log(&self, unit: &str) -> PathBuf {
        self.state.join("logs").join(format!("{}.log", unit.replace('/', "-")))
    }

    /// The supervisor's socket.
    pub fn control(&self) -> PathBuf {
        self.run.join("supervise.sock")
    }

    /// The memory of a running process.
    pub fn pid(&self, unit: &str) -> PathBuf {
        self.run.join("pids").join(format!("{}.json", unit.replace('/', "-")))
    }

    /// The pin of the cluster's network namespace.
    pub fn net(&self) -> PathBuf {
        self.run.join("net")
    }

    /// The unpacked layers that all nodes share.
    pub fn layers(&self) -> PathBuf {
        self.state.join("layers")
    }

    /// The files of a node.
    pub fn node(&self, name: &str) -> NodeLayout {
        NodeLayout { state: self.state.join("nodes").join(name), run: self.run.join(name) }
    }
}

/// The files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    /// What survives.
    pub state: PathBuf,
    /// What does not.
    pub run: PathBuf,
}

impl NodeLayout {
    /// The pin of a namespace: `net`, `mnt` or `cgroup`.
    pub fn pin(&self, kind: &str) -> PathBuf {
        self.run.join(kind)
    }

    /// What the node sees as `/run`.
    pub fn own_run(&self) -> PathBuf {
        self.run.join("run")
    }

    /// The runtime's socket, as the host sees it.
    pub fn runtime_socket(&self) -> PathBuf {
        self.own_run().join(Path::new(RUNTIME_SOCKET).strip_prefix("/run").unwrap_or(Path::new("")))
    }
}

/// The runtime's socket, as the node sees it.
pub(crate) const RUNTIME_SOCKET: &str = "/run/minik/runtime.sock";

/// The host's network namespace, as the node sees it: registries are reached from there.
pub(crate) const HOST_NETWORK: &str = "/run/minik/host-net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_hosts_and_files() {
        for good in ["minik", "a", "e2e-12", "0"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a.b", &"x".repeat(41)] {
            assert!(check_name(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_host_finds_the_runtime_below_the_nodes_run() {
        let roots = Roots { state: "/s".into(), run: "/r".into() };
        let node = roots.cluster("c").unwrap().node("n");
        assert_eq!(node.runtime_socket(), Path::new("/r/c/n/run/minik/runtime.sock"));
    }
}
