//! A real cluster of two nodes, and what those get from it who have no right to: each other's credentials, the ports of its
//! processes, its files, and what a container is kept from. See `docs/security.md`.
//!
//! One cluster serves all checks, for clusters cost time.

mod escapes;
mod files;
mod nodes;
mod ports;

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use http_body_util::BodyExt;
use minik_client::{Identity, ServerAccess, connect};
use minik_e2e::harness::TestCluster;
use minik_e2e::images::{self, BUSYBOX};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(20);

/// What the checks look at: a Pod `near` on the first node, `far` on the second, each with a Secret and a ConfigMap of its
/// name; `plain` beside `near`.
pub struct World {
    pub cluster: TestCluster,
    /// The nodes' names and addresses.
    pub nodes: [(String, Ipv4Addr); 2],
    runtime: Runtime,
}

/// Somebody who asks some server.
pub struct Caller<'a> {
    client: kube::Client,
    runtime: &'a Runtime,
}

impl World {
    fn build() -> Result<World> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = TestCluster::up(2)?;
        let archive = cluster.scratch().join("busybox.tar");
        std::fs::write(&archive, images::busybox()?)?;
        let said = cluster.minikctl(&["image", "load", &archive.display().to_string()])?;
        ensure!(said.code == 0, "the image cannot be loaded: {said:?}");
        let known = cluster.cluster()?;
        let nodes: Vec<_> =
            known.config().nodes.iter().map(|node| (node.name.clone(), node.address)).collect();
        let Ok(nodes) = <[_; 2]>::try_from(nodes) else { bail!("not two nodes") };
        let text = include_str!("world.yaml").replace("FIRST", &nodes[0].0).replace("SECOND", &nodes[1].0);
        cluster.kubectl_ok("apply -f -", &text.replace("IMAGE", BUSYBOX))?;
        cluster.kubectl_ok("wait --for=condition=Ready pod/near pod/far pod/plain --timeout=120s", "")?;
        Ok(World { cluster, nodes, runtime })
    }

    /// Somebody who asks a server at `address`, `HOST:PORT`.
    pub fn caller(&self, address: &str, identity: Identity) -> Result<Caller<'_>> {
        let ca_pem = std::fs::read(self.cluster.cluster()?.layout().pki("ca.crt"))?;
        let access =
            ServerAccess { server: format!("https://{address}"), server_name: None, ca_pem, identity };
        let client = self.runtime.block_on(async { connect(&access, "default") })?;
        Ok(Caller { client, runtime: &self.runtime })
    }

    /// Somebody who asks the apiserver.
    pub fn api(&self, identity: Identity) -> Result<Caller<'_>> {
        self.caller(&format!("127.0.0.1:{}", self.cluster.cluster()?.config().ports.api), identity)
    }

    /// The holder of a certificate among the cluster's own.
    pub fn holder(&self, file: &str) -> Result<Identity> {
        let known = self.cluster.cluster()?;
        let read = |end: &str| std::fs::read(known.layout().pki(&format!("{file}.{end}")));
        Ok(Identity::Data { cert: read("crt")?, key: read("key")? })
    }

    /// A ServiceAccount's token.
    pub fn token(&self, account: &str) -> Result<Identity> {
        let token = self.cluster.kubectl_ok(&format!("create token {account}"), "")?;
        Ok(Identity::Token(token.trim().to_owned()))
    }

    /// What a command in a Pod prints, whatever its end.
    pub fn exec(&self, pod: &str, script: &str) -> Result<String> {
        let said = self.cluster.kubectl(&format!("exec {pod} -- sh -c '{script}'"))?;
        Ok(said.out + &said.err)
    }
}

impl Caller<'_> {
    /// The code of an answer, and its body where that is JSON. A patch is a merge patch.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        // A server ends the connection of who is not known; the next request may still meet the old one.
        let tries = (0..3).map(|_| self.runtime.block_on(self.send(method, path, body)));
        let mut last = None;
        for answer in tries {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        bail!("{method} {path} is not answered: {last:?}")
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(kube::client::Body::from(text.into_bytes()))?;
        let asked = async {
            let answer = self.client.send(request).await?;
            let code = answer.status().as_u16();
            let bytes = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
        };
        tokio::time::timeout(WITHIN, asked).await?
    }

    /// Asks each of these, as `METHOD PATH` or with a body, and compares the codes of the answers.
    pub fn check(&self, who: &str, all: &[(&str, Value, u16)]) -> Result<()> {
        for (request, body, want) in all {
            let (method, path) = request.split_once(' ').context("no method")?;
            let (code, answer) = self.ask(method, path, body)?;
            ensure!(code == *want, "{who}: {request} gives {code} and not {want}: {answer}");
        }
        Ok(())
    }
}

#[test]
fn the_cluster_is_closed() -> Result<()> {
    let world = World::build()?;
    files::check(&world).context("files")?;
    nodes::check(&world).context("nodes")?;
    ports::check(&world).context("ports")?;
    escapes::check(&world).context("escapes")?;
    world.cluster.finish()
}
