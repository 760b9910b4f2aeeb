//! Waiting until a cluster is ready, by what the API and the supervisor tell.

use crate::cluster::Cluster;
use crate::config::{ClusterConfig, Node};
use crate::error::{Error, Result};
use crate::supervise::control::{Ask, Report, Reports};
use crate::{bootstrap, resolve};
use minik_client::{Backoff, Change, Informer, Meta, Projection, Source};
use minik_component::{Shutdown, SystemChance, chain};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A process that was started so often and does not run is taken for broken.
const STARTS: u32 = 4;

/// What is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    ready_nodes: BTreeSet<String>,
    /// Nodes from which the cluster's DNS answers, by the address of its Service.
    resolving_nodes: BTreeSet<String>,
    default_account: bool,
    /// Whether the objects that every cluster has are there, or why not.
    applied: Option<Result<(), String>>,
}

#[derive(Debug, Deserialize)]
struct NodeState {
    metadata: Meta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Projection for NodeState {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Debug, Deserialize)]
struct Account {
    metadata: Meta,
}

impl Projection for Account {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Makes the objects that every cluster has, as soon as the server takes them.
async fn apply(client: kube::Client, config: ClusterConfig, tell: Arc<watch::Sender<Seen>>) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let result = bootstrap::apply(&client, &config).await.map_err(|error| chain(&error));
        tell.send_modify(|seen| seen.applied = Some(result.clone()));
        if result.is_ok() {
            return;
        }
        tokio::time::sleep(backoff.next(&SystemChance)).await;
    }
}

/// Asks the cluster's DNS from a node until it answers.
async fn ask(node: String, pin: PathBuf, server: IpAddr, tell: Arc<watch::Sender<Seen>>) {
    match resolve::until_answered(&pin, server).await {
        Ok(()) => tell.send_modify(|seen| drop(seen.resolving_nodes.replace(node))),
        Err(error) => tracing::error!(node, error = chain(&error), "cannot ask the DNS"),
    }
}

impl Cluster {
    /// Gives it the objects that every cluster has, and returns when every node is Ready, reaches the cluster's DNS by
    /// its Service, and a Pod can be created in the namespace `default`.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or a process does not start.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let client = minik_client::connect(&self.admin()?, "default")?;
        let (shutdown, mut parts) = (Shutdown::new(), JoinSet::new());
        let mut seen = self.follow(client.clone(), &shutdown, &mut parts);
        let mut reports = Reports::ask(self.layout(), Ask::Follow)
            .await?
            .ok_or_else(|| self.supervisor("does not run".to_owned()))?;
        let deadline = tokio::time::Instant::now() + limit;
        let mut last = Report::default();
        let result = loop {
            let now = seen.borrow_and_update().clone();
            let is_ready = |node: &Node| {
                now.ready_nodes.contains(&node.name) && now.resolving_nodes.contains(&node.name)
            };
            let all = self.config().nodes.len() + self.config().fake.nodes as usize;
            if now.applied == Some(Ok(()))
                && now.ready_nodes.len() >= all
                && now.default_account
                && self.config().nodes.iter().all(is_ready)
            {
                break Ok(());
            }
            // Cancel-safe: a change that was not taken is seen again, and a line is kept until it is whole.
            tokio::select! {
                _ = seen.changed() => {}
                report = reports.next() => match report? {
                    Some(report) => {
                        if let Some(error) = self.broken(&report) {
                            break Err(error);
                        }
                        last = report;
                    }
                    None => break Err(self.supervisor("has ended".to_owned())),
                },
                () = tokio::time::sleep_until(deadline) => break Err(self.late(limit, &now, &last)),
            }
        };
        shutdown.request();
        while parts.join_next().await.is_some() {}
        result
    }

    /// Starts what finds out how far the cluster is; what it finds is in the receiver.
    fn follow(
        &self,
        client: kube::Client,
        shutdown: &Shutdown,
        parts: &mut JoinSet<()>,
    ) -> watch::Receiver<Seen> {
        let (tell, seen) = watch::channel(Seen::default());
        let tell = Arc::new(tell);
        let told = tell.clone();
        let nodes = Informer::<NodeState>::builder(Source::all("/api/v1/nodes")).on_change(move |change| {
            let (Change::Added(node) | Change::Updated { new: node, .. }) = change else { return };
            let is_ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
            if node.status.conditions.iter().any(is_ready) {
                told.send_modify(|seen| {
                    seen.ready_nodes.insert(node.metadata.name.to_string());
                });
            }
        });
        let source =
            Source::fields("/api/v1/namespaces/default/serviceaccounts", "metadata.name=default".to_owned());
        let told = tell.clone();
        let accounts = Informer::<Account>::builder(source).on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                told.send_modify(|seen| seen.default_account = true);
            }
        });
        let chance = Arc::new(SystemChance);
        parts.spawn(nodes.run(client.clone(), chance.clone(), shutdown.clone()));
        // Where this is a node only, the rest is the affair of the cluster's own machine.
        if self.config().joined.is_some() {
            tell.send_modify(|seen| (seen.default_account, seen.applied) = (true, Some(Ok(()))));
        } else {
            parts.spawn(accounts.run(client.clone(), chance, shutdown.clone()));
        }
        let until_end = |part: BoxFuture| {
            let shutdown = shutdown.clone();
            // Cancel-safe: what these do can be done any number of times.
            async move {
                tokio::select! { () = shutdown.requested() => {}, () = part => {} }
            }
        };
        if self.config().joined.is_none() {
            parts.spawn(until_end(Box::pin(apply(client, self.config().clone(), tell.clone()))));
        }
        for node in &self.config().nodes {
            let (pin, dns) = (self.layout().node(&node.name).pin("net"), self.config().ranges.dns_service());
            parts.spawn(until_end(Box::pin(ask(node.name.clone(), pin, dns.into(), tell.clone()))));
        }
        seen
    }

    fn supervisor(&self, problem: String) -> Error {
        Error::Supervisor { problem, log: self.layout().log("supervise") }
    }

    fn broken(&self, report: &Report) -> Option<Error> {
        let (name, state) =
            report.units.iter().find(|(_, state)| state.starts >= STARTS && state.pid.is_none())?;
        let log = self.layout().log(name);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        // The sentence of its end, if it had one; else whatever it said last.
        let sentence = |line: &&str| line.starts_with("minik ") || line.starts_with("error: ");
        let said = |line: &&str| !line.trim().is_empty();
        let last = text.lines().rfind(sentence).or_else(|| text.lines().rfind(said)).map(str::to_owned);
        let last = last.or_else(|| state.last_end.clone()).unwrap_or_default();
        Some(Error::Crash { unit: name.clone(), last, log })
    }

    fn late(&self, limit: Duration, seen: &Seen, report: &Report) -> Error {
        let mut missing: Vec<String> = self
            .config()
            .nodes
            .iter()
            .filter(|node| !seen.ready_nodes.contains(&node.name))
            .map(|node| format!("node {} is not Ready", node.name))
            .collect();
        missing.extend(seen.applied.iter().filter_map(|result| result.clone().err()));
        let deaf = self.config().nodes.iter().filter(|node| !seen.resolving_nodes.contains(&node.name));
        missing.extend(deaf.map(|node| format!("the cluster's DNS does not answer on {}", node.name)));
        let fake = self.config().fake.nodes;
        if fake > 0 {
            missing.push(format!(
                "{} nodes are Ready, {fake} fake ones among those wanted",
                seen.ready_nodes.len()
            ));
        }
        if !seen.default_account {
            missing.push("the namespace default has no ServiceAccount default".to_owned());
        }
        let down = report.units.iter().filter(|(_, state)| state.pid.is_none());
        missing.extend(down.map(|(name, state)| {
            format!("{name} does not run ({})", state.last_end.as_deref().unwrap_or("not started"))
        }));
        let logs = self.layout().state.join("logs");
        let state = format!("{}; logs are in {}", missing.join(", "), logs.display());
        Error::Late { what: "the cluster was not ready", seconds: limit.as_secs(), state }
    }
}
