//! From nothing to a Ready node and a Pod that runs.

use crate::figures::{Figure, Figures};
use crate::{Flags, pods};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A cluster of this bench.
pub struct Cluster {
    minikctl: PathBuf,
    name: String,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Makes one, with `more` flags of `cluster up`; it is deleted by [`Cluster::delete`], and on drop when something failed before that.
    pub fn up(flags: &Flags, name: &str, more: &[&str]) -> Result<Cluster> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let name = format!("{name}-{}", std::process::id());
        let cluster = Cluster { minikctl: flags.minikctl.clone(), name, folder, kubeconfig };
        let kubeconfig = cluster.kubeconfig.clone();
        let own = ["cluster", "up", "--name", &cluster.name, "--kubeconfig", text(&kubeconfig)?];
        cluster.run(&[&own, more].concat())?;
        Ok(cluster)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How clients reach it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Loads the archive, if one was given.
    pub fn load_image(&self, flags: &Flags) -> Result<()> {
        let Some(archive) = &flags.image_archive else { return Ok(()) };
        self.run(&["image", "load", text(archive)?, "--name", &self.name])
    }

    /// Deletes it.
    pub fn delete(self) -> Result<()> {
        self.run(&["cluster", "delete", "--name", &self.name, "--kubeconfig", text(&self.kubeconfig)?])
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.minikctl)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", self.minikctl.display()))?;
        if !output.status.success() {
            bail!("minikctl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After `delete` the folder's file is gone and this finds nothing; then its refusal means nothing.
        if self.folder.path().exists() {
            let _ = Command::new(&self.minikctl)
                .args(["cluster", "delete", "--name", &self.name])
                .arg("--kubeconfig")
                .arg(&self.kubeconfig)
                .output();
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}

/// Measures `startup`.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut ups, mut totals) = (Vec::new(), Vec::new());
    for run in 0..flags.runs {
        let began = Instant::now();
        let cluster = Cluster::up(flags, &format!("bench-up{run}"), &[])?;
        ups.push(began.elapsed());
        cluster.load_image(flags)?;
        let ran = pods::one(cluster.kubeconfig(), &flags.image).await;
        totals.push(began.elapsed());
        cluster.delete()?;
        ran?;
    }
    figures.tell(Figure::times("startup_node_ready", &ups))?;
    figures.tell(Figure::times("startup_pod_running", &totals))
}
