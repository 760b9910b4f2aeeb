//! A control plane under load: clients of their own connections, and the apiserver's process.

use crate::Flags;
use crate::process::Process;
use crate::startup::Cluster;
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use minik_client::{Kubeconfig, call, connect};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where the Pods are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Clients that write at once.
pub const WRITERS: usize = 16;
/// What takes longer than this failed.
pub const LIMIT: Duration = Duration::from_secs(300);

/// A control plane without nodes.
pub struct Server {
    cluster: Cluster,
    /// The apiserver.
    pub process: Process,
    writers: Vec<kube::Client>,
}

/// What some work took.
pub struct Took {
    /// By the clock.
    pub seconds: f64,
    /// Of the apiserver's CPU.
    pub cpu_seconds: f64,
}

impl Server {
    /// Makes one.
    pub async fn up(flags: &Flags, name: &str) -> Result<Server> {
        let cluster = Cluster::up(flags, name, &["--nodes=0"])?;
        let mut server =
            Server { process: Process::apiserver(cluster.name())?, cluster, writers: Vec::new() };
        server.writers = server.clients(WRITERS).await?;
        Ok(server)
    }

    /// Deletes it, with a look at what became of the work in it.
    pub fn down<T>(self, result: Result<T>) -> Result<T> {
        self.cluster.delete()?;
        result
    }

    /// New clients, each with a connection that stands.
    pub async fn clients(&self, count: usize) -> Result<Vec<kube::Client>> {
        let (access, namespace) = Kubeconfig::load(self.cluster.kubeconfig())?.access(None)?;
        let clients: Vec<kube::Client> =
            (0..count).map(|_| connect(&access, &namespace)).collect::<Result<_, _>>()?;
        try_join_all(clients.iter().map(|client| call::get::<IgnoredAny>(client, "/version"))).await?;
        Ok(clients)
    }

    /// A client that writes.
    pub fn client(&self) -> &kube::Client {
        &self.writers[0]
    }

    /// All writers create at once, each one object after the other.
    pub async fn create(&self, path: &str, count: usize, object: impl Fn(usize) -> Value) -> Result<()> {
        let object = &object;
        let writers = self.writers.iter().enumerate().map(|(first, client)| async move {
            for number in (first..count).step_by(WRITERS) {
                let created: Result<IgnoredAny, _> = call::post(client, path, &object(number)).await;
                created.with_context(|| format!("creating {number} in {path}"))?;
            }
            anyhow::Ok(())
        });
        limited("all is created", try_join_all(writers)).await.map(drop)
    }

    /// Does something; says what it took of the server.
    pub async fn took<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, Took)> {
        let (began, before) = (Instant::now(), self.process.cpu()?);
        let result = work.await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok((result, Took { seconds, cpu_seconds: (self.process.cpu()? - before).as_secs_f64() }))
    }

    /// The revision of the Pods.
    pub async fn revision(&self) -> Result<String> {
        let list: Value = call::get(self.client(), &format!("{PODS}?limit=1")).await?;
        list["metadata"]["resourceVersion"].as_str().map(str::to_owned).context("a list without a revision")
    }
}

/// A Pod that no scheduler takes, in the fewest words.
pub fn pod(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("bench-{number}"), "labels": {"app": "bench"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}})
}

/// Waits for something that must not take for ever.
pub async fn limited<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => bail!("not within {} s: {what}", LIMIT.as_secs()),
    }
}
