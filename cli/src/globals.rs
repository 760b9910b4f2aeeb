//! Flags that every command knows, and the client that they lead to.

use crate::Failure;
use clap::Args;
use minik_client::{Kubeconfig, KubeconfigError, connect, default_path};
use std::path::PathBuf;

/// Flags that every command knows.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Kubeconfig file to use instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace to use instead of the context's
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

impl Globals {
    /// The kubeconfig file.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(default_path)
    }

    /// A client of the chosen context's server, whose default namespace is the chosen one.
    ///
    /// # Errors
    /// When there is no kubeconfig, or it cannot be used. No connection is made here.
    pub fn client(&self) -> Result<kube::Client, Failure> {
        let path = self.kubeconfig_path();
        let up = "start a cluster with `minikctl cluster up`, or name a file with --kubeconfig";
        let config = match Kubeconfig::load(&path) {
            Err(KubeconfigError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("there is no kubeconfig {}", path.display());
                return Err(Failure::new(what).hint(up).no_cluster());
            }
            other => other?,
        };
        if self.context.is_none() && config.current_context().is_empty() {
            let what = format!("the kubeconfig {} has no current context", path.display());
            return Err(Failure::new(what).hint(up).no_cluster());
        }
        let (access, namespace) = config.access(self.context.as_deref())?;
        Ok(connect(&access, self.namespace.as_deref().unwrap_or(&namespace))?)
    }
}
