//! A cluster in one thread.

use crate::clock::SimClock;
use crate::transport::{self, Who};
use anyhow::Context;
use minik_apiserver::{Api, Audit, Cidr, Kubelets, Settings, run_within};
use minik_component::{Chance, Clock, SeededChance, Shutdown};
use minik_storage::{Memory, Storage};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long anything may take to end, in the simulation's time.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What runs beside the apiserver.
#[derive(Clone, Default)]
pub struct Parts {
    /// The scheduler.
    pub scheduler: bool,
    /// The controllers.
    pub controllers: bool,
    /// Nodes without machines.
    pub fake_nodes: Option<minik_fake_nodes::Config>,
}

/// A cluster in one thread.
pub struct Sim {
    api: Api,
    /// The administrator.
    admin: kube::Client,
    running: JoinSet<anyhow::Result<()>>,
    shutdown: Shutdown,
}

impl Sim {
    /// Runs a test in a world of its own: `test` gets the running cluster, its seed decides all chance.
    ///
    /// # Errors
    /// The test's, and when a part does not start or ends before its time.
    pub fn run<T>(
        seed: u64,
        parts: Parts,
        test: impl AsyncFnOnce(&Sim) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(async {
            let sim = Sim::start(seed, parts).await?;
            let result = test(&sim).await;
            sim.end().await?;
            result
        })
    }

    async fn start(seed: u64, parts: Parts) -> anyhow::Result<Sim> {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
        let chance: Arc<dyn Chance> = Arc::new(SeededChance::new(seed));
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let settings = Settings {
            prefix: "/registry".into(),
            service_ranges: vec![Cidr::parse("10.96.0.0/16").map_err(anyhow::Error::msg)?],
            node_ports: 30000..=32767,
            event_ttl: 3600,
            min_request_timeout: Duration::from_secs(1800),
            advertised: "192.0.2.1:6443".into(),
            clock: clock.clone(),
            chance: chance.clone(),
            metrics: prometheus::Registry::new(),
            kubelets: Kubelets::none(),
            audit: Audit::default(),
            bootstrap_tokens: true,
        };
        let api = Api::open(storage.clone(), settings, None).await?;
        let shutdown = Shutdown::new();
        let mut running = JoinSet::new();
        let (server, ending) = (api.clone(), shutdown.clone());
        running.spawn(async move {
            run_within(server, storage, ending).await;
            Ok(())
        });
        let admin = transport::client(&api, &Who::new("admin", &["system:masters"])?);
        let mut sim = Sim { api, admin, running, shutdown };
        sim.until("the objects of a new cluster", async |sim: &Sim| {
            let ready = http::Request::get("/readyz").body(Vec::new())?;
            Ok(sim.admin.request_text(ready).await.is_ok())
        })
        .await?;
        sim.add(parts, &clock, &chance)?;
        Ok(sim)
    }

    fn add(&mut self, parts: Parts, clock: &Arc<dyn Clock>, chance: &Arc<dyn Chance>) -> anyhow::Result<()> {
        let ending = || self.shutdown.clone();
        if parts.scheduler {
            let config = minik_scheduler::Config {
                clock: clock.clone(),
                chance: chance.clone(),
                ..minik_scheduler::Config::default()
            };
            let (client, ending) = (self.client("system:kube-scheduler", &[])?, ending());
            self.running.spawn(async move { Ok(minik_scheduler::run(config, client, ending).await?) });
        }
        if parts.controllers {
            let config = minik_controller_manager::Config {
                clock: clock.clone(),
                chance: chance.clone(),
                ..minik_controller_manager::Config::default()
            };
            // Without tokens every controller acts as the manager, which needs all their rights.
            let (client, ending) =
                (self.client("system:kube-controller-manager", &["system:masters"])?, ending());
            self.running
                .spawn(async move { Ok(minik_controller_manager::run(config, client, ending).await?) });
        }
        if let Some(config) = parts.fake_nodes {
            let config = minik_fake_nodes::Config { clock: clock.clone(), chance: chance.clone(), ..config };
            let (client, ending) = (self.client("fake-nodes", &["system:masters"])?, ending());
            self.running.spawn(async move { Ok(minik_fake_nodes::run(config, client, ending).await?) });
        }
        Ok(())
    }

    /// A client that acts as a user of these groups.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn client(&self, user: &str, groups: &[&str]) -> anyhow::Result<kube::Client> {
        Ok(transport::client(&self.api, &Who::new(user, groups)?))
    }

    /// The administrator's client.
    pub fn admin(&self) -> &kube::Client {
        &self.admin
    }

    /// The API itself.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Posts an object.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let created = minik_client::call::post(&self.admin, path, object).await;
        created.with_context(|| format!("POST {path} {object}"))
    }

    /// Writes a status by a strategic merge patch.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_status(&self, path: &str, status: &Value) -> anyhow::Result<Value> {
        self.patch(&format!("{path}/status"), &json!({"status": status})).await
    }

    /// Patches an object strategically.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn patch(&self, path: &str, change: &Value) -> anyhow::Result<Value> {
        let kind = minik_client::call::PatchKind::Strategic;
        let patched = minik_client::call::patch(&self.admin, path, kind, change).await;
        patched.with_context(|| format!("PATCH {path} {change}"))
    }

    /// Deletes an object or a collection, with `DeleteOptions`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<Value> {
        let deleted = minik_client::call::delete(&self.admin, path, options).await;
        deleted.with_context(|| format!("DELETE {path}"))
    }

    /// Reads an object; `None` when it is not there.
    ///
    /// # Errors
    /// When it is refused otherwise.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        match minik_client::call::get(&self.admin, path).await {
            Err(error) if minik_client::call::refusal(&error) == Some(404) => Ok(None),
            other => other.map(Some).with_context(|| format!("GET {path}")),
        }
    }

    /// Reads a collection.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list: Value =
            minik_client::call::get(&self.admin, path).await.with_context(|| path.to_owned())?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Ends all parts, and says which ended badly.
    async fn end(mut self) -> anyhow::Result<()> {
        self.shutdown.request();
        self.api.set_ending();
        self.api.world().close();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_WITHIN, all).await.context("some part does not end")?
    }
}
