//! Lifecycle hooks (<https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>).

use crate::pod::PodObject;
use crate::probes::{HttpCheck, http_check, port_number};
use crate::worker::Context;
use k8s_openapi::api::core::v1 as api;
use std::time::Duration;

/// A command of a hook may take as long as the Pod lives; the caller limits it.
const EXEC_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// How long an HTTP hook may take.
const HTTP_WITHIN: Duration = Duration::from_secs(30);

/// Which container a hook is for.
pub struct Target<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// The container.
    pub container: &'a api::Container,
    /// Its run.
    pub id: &'a str,
    /// The Pod's addresses.
    pub ips: Vec<String>,
}

/// Runs a hook to its end.
///
/// # Errors
/// When it failed, in words.
pub async fn run(context: &Context, hook: &api::LifecycleHandler, target: &Target<'_>) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let done = context.runtime.exec(target.id, &command, EXEC_WITHIN).await;
        return match done {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => Err(format!(
                "command {command:?} exited with {}: {}, message: {:?}",
                done.exit_code,
                done.exit_code,
                String::from_utf8_lossy(&done.output)
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(get) = &hook.http_get {
        let host = match get.host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.to_owned(),
            None if target.pod.host_network() => context.node.ips.first().cloned().unwrap_or_default(),
            None => target.ips.first().cloned().unwrap_or_default(),
        };
        let port = port_number(&get.port, target.container).ok_or("the hook's port has no such name")?;
        let check = HttpCheck::of(get, host, port, "kube-lifecycle/v1.37");
        return http_check(&check, HTTP_WITHIN).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    Err("the hook does nothing that is known".into())
}
