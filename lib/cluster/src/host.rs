//! What clusters change on the host together, kept in a file so that the last one puts it back: forwarding, and the
//! folders that nodes mount their own over.

use crate::config::{make_dir, write_file};
use crate::error::{Error, Result, file};
use crate::layout::Roots;
use minik_net::sysctl;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FORWARDING: &str = "net/ipv4/ip_forward";
/// Folders that must be there for a node to mount its own over them.
pub(crate) const COVERED: &[&str] = &["/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/etc/cni"];

/// Holds the lock on what clusters share until it is dropped.
pub(crate) struct Lock(#[allow(dead_code)] File);

/// Waits for the lock.
pub(crate) fn lock(roots: &Roots) -> Result<Lock> {
    let path = roots.lock();
    make_dir(&roots.state)?;
    loop {
        let held = File::options().create(true).append(true).open(&path).map_err(file("open", &path))?;
        flock(&held, FlockOperation::LockExclusive).map_err(file("lock", &path))?;
        // Who deleted the last cluster took the file away; its lock guards nothing any more.
        let own = held.metadata().map_err(file("look at", &path))?;
        if std::fs::metadata(&path).is_ok_and(|there| there.ino() == own.ino()) {
            return Ok(Lock(held));
        }
    }
}

/// What was there before.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Before {
    /// Clusters that need the changes now.
    users: BTreeSet<String>,
    /// The value of forwarding, when it was changed.
    forwarding: Option<String>,
    /// Folders that were made.
    made: Vec<PathBuf>,
}

impl Before {
    fn load(roots: &Roots) -> Result<Before> {
        let path = roots.host();
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Before::default()),
            other => serde_json::from_slice(&other.map_err(file("read", &path))?)
                .map_err(|source| Error::Format { path, source }),
        }
    }

    fn save(&self, roots: &Roots) -> Result<()> {
        let path = roots.host();
        let text = serde_json::to_vec(self).map_err(|source| Error::Format { path: path.clone(), source })?;
        write_file(&path, &text, 0o644)
    }
}

/// Makes the host fit for nodes of this cluster.
pub(crate) fn prepare(roots: &Roots, cluster: &str, _lock: &Lock) -> Result<()> {
    let mut before = Before::load(roots)?;
    before.users.insert(cluster.to_owned());
    let value = sysctl::read(FORWARDING)?;
    if value != "1" {
        before.forwarding.get_or_insert(value);
    }
    for path in COVERED.iter().map(Path::new) {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        missing.reverse();
        before.made.extend(missing.into_iter().map(Path::to_owned));
    }
    // Written down before it is done: a cut in between leaves nothing unknown.
    before.save(roots)?;
    for path in COVERED {
        make_dir(Path::new(path))?;
    }
    Ok(sysctl::write(FORWARDING, "1")?)
}

/// Puts back what no other cluster needs.
pub(crate) fn restore(roots: &Roots, cluster: &str, _lock: &Lock) -> Result<()> {
    let mut before = Before::load(roots)?;
    before.users.remove(cluster);
    if !before.users.is_empty() {
        return before.save(roots);
    }
    if let Some(value) = &before.forwarding {
        sysctl::write(FORWARDING, value)?;
    }
    for dir in before.made.iter().rev() {
        // Somebody else may have put something into it.
        let _ = std::fs::remove_dir(dir);
    }
    match std::fs::remove_file(roots.host()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", &roots.host())),
    }
}
