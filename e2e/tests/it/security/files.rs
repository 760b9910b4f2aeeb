//! Files and sockets of a running cluster: who owns them, and who may do what with them.

use super::World;
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Exact modes by the beginning and the end of a path below the cluster's folders; the first that fits counts.
const MODES: [(&str, &str, u32); 8] = [
    ("state/pki/", ".key", 0o600),
    ("state/pki/", ".crt", 0o644),
    ("state/pki/", "sa.pub", 0o644),
    ("state/kubeconfig/", ".conf", 0o600),
    ("run/", "supervise.sock", 0o600),
    ("run/", "runtime.sock", 0o600),
    ("run/pids/", ".json", 0o644),
    ("state/cluster.json", "", 0o644),
];
/// Files that are looked at, in the end, so that a folder that was moved is noticed.
const AT_LEAST: usize = 40;

pub fn check(world: &World) -> Result<()> {
    let known = world.cluster.cluster()?;
    let layout = known.layout();
    let mut seen = 0;
    let data = layout.state.join("data");
    for (name, folder) in [("state", &layout.state), ("run", &layout.run), ("state/data", &data)] {
        let meta = folder.metadata()?;
        let mode = meta.mode() & 0o7777;
        // Whatever lies below is closed by this: container records bear what Secrets say, logs what programs print.
        ensure!(mode == 0o700 && meta.uid() == 0, "{} has the mode {mode:o}", folder.display());
        walk(folder, name, meta.dev(), &mut seen)?;
    }
    ensure!(seen >= AT_LEAST, "only {seen} files were found");
    let kubeconfig = world.cluster.kubeconfig.metadata()?.mode() & 0o7777;
    ensure!(kubeconfig == 0o600, "the user's kubeconfig has the mode {kubeconfig:o}");
    in_pods(world)
}

fn walk(folder: &Path, name: &str, device: u64, seen: &mut usize) -> Result<()> {
    // What goes away meanwhile is no concern.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        let path = format!("{name}/{}", entry.file_name().to_string_lossy());
        // Pins of namespaces and mounts are the kernel's; layers and roots are as their images have them.
        let foreign =
            meta.dev() != device || path.starts_with("state/layers") || path.contains("/runtime/roots");
        if foreign || meta.is_symlink() {
            continue;
        }
        *seen += 1;
        let mode = meta.mode() & 0o7777;
        ensure!(
            meta.uid() == 0 && (meta.gid() == 0 || path.contains("/pods/")),
            "{path} belongs to somebody else"
        );
        let wanted = MODES.iter().find(|(start, end, _)| path.starts_with(start) && path.ends_with(end));
        match wanted.filter(|_| !meta.is_dir()) {
            Some((.., wanted)) => ensure!(mode == *wanted, "{path} has the mode {mode:o} and not {wanted:o}"),
            // A Pod's volumes, and the file of its last words, are for whoever its containers run as.
            None if path.contains("/kubelet/pods/") => {}
            None => {
                let kind = if meta.file_type().is_socket() { "socket" } else { "file" };
                ensure!(mode & 0o022 == 0, "others may write the {kind} {path}: {mode:o}");
            }
        }
        if meta.is_dir() {
            walk(&entry.path(), &path, device, seen)?;
        }
    }
    Ok(())
}

/// What a Pod finds of its own.
fn in_pods(world: &World) -> Result<()> {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    for (pod, path, want) in [
        ("near", "/secret/key", "440 0 2000"),
        ("near", "/config/key", "644 0 2000"),
        ("near", "/scratch", "2777 0 2000"),
        ("near", token, "640 0 2000"),
        ("plain", token, "644 0 0"),
        ("plain", "/etc/hosts", "644 0 0"),
        ("plain", "/dev/termination-log", "666 0 0"),
    ] {
        let seen = world.exec(pod, &format!("stat -Lc \"%a %u %g\" {path}"))?;
        ensure!(seen.trim() == want, "{path} in {pod} is {} and not {want}", seen.trim());
    }
    let shown = world.cluster.kubectl_ok("get pod near -o yaml", "").context("near")?;
    ensure!(!shown.contains("near-secret"), "a Secret's value is in the Pod");
    Ok(())
}
