//! A cluster in one thread.

use crate::clock::SimClock;
use crate::component::{self, Component};
use crate::ledger::Ledger;
use crate::store::SimStore;
use crate::transport::{self, Line, Who};
use crate::weather::Weather;
use anyhow::Context;
use minik_apiserver::{Api, Audit, Cidr, Kubelets, Settings, run_within};
use minik_component::{Chance, Clock, SeededChance, Shutdown};
use minik_storage::Storage;
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
    /// A second server over the same store, which hears of changes late.
    pub lagging_server: bool,
}

/// A cluster in one thread.
pub struct Sim {
    pub(crate) admin: kube::Client,
    servers: Arc<[Api]>,
    weather: Arc<Weather>,
    ledger: Arc<Ledger>,
    chance: Arc<dyn Chance>,
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
        let weather = Arc::new(Weather::new(chance.clone()));
        let ledger = Arc::new(Ledger::default());
        let told = ledger.clone();
        let storage: Arc<dyn Storage> =
            Arc::new(SimStore::telling(Box::new(move |change| told.note(change))));
        let mut stores = vec![storage.clone()];
        if parts.lagging_server {
            stores.push(Arc::new(SimStore::lagging(storage, weather.clone())));
        }
        let (shutdown, mut running, mut servers) = (Shutdown::new(), JoinSet::new(), Vec::new());
        for (number, store) in stores.into_iter().enumerate() {
            let settings = settings(number, clock.clone(), chance.clone())?;
            let api = Api::open(store.clone(), settings, None).await?;
            let (server, ending) = (api.clone(), shutdown.clone());
            running.spawn(async move {
                run_within(server, store, ending).await;
                Ok(())
            });
            servers.push(api);
        }
        let admin = transport::client(&servers[0], &Who::new("admin", &["system:masters"])?);
        let servers = Arc::from(servers);
        let mut sim = Sim { admin, servers, weather, ledger, chance, running, shutdown };
        sim.until("the objects of a new cluster", async |sim: &Sim| {
            let ready = http::Request::get("/readyz").body(Vec::new())?;
            Ok(sim.admin.request_text(ready).await.is_ok())
        })
        .await?;
        for component in component::all(&parts, &clock, &sim.chance)? {
            sim.add(component);
        }
        Ok(sim)
    }

    fn add(&mut self, component: Component) {
        let (servers, weather, ending) = (self.servers.clone(), self.weather.clone(), self.shutdown.clone());
        let who = component.who.clone();
        let line =
            move |doom| Line { servers: servers.clone(), who: who.clone(), weather: weather.clone(), doom };
        self.running.spawn(component::keep(component, self.weather.clone(), line, ending));
    }

    /// The administrator's client, which no weather reaches.
    pub fn admin(&self) -> &kube::Client {
        &self.admin
    }

    /// The API itself.
    pub fn api(&self) -> &Api {
        &self.servers[0]
    }

    /// Chance, by the seed.
    pub fn chance(&self) -> &dyn Chance {
        &*self.chance
    }

    /// What goes wrong.
    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    /// What must never be, and was.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Ends all parts, and says which ended badly.
    async fn end(mut self) -> anyhow::Result<()> {
        self.weather.set_stormy(false);
        self.shutdown.request();
        for server in self.servers.iter() {
            server.set_ending();
            server.world().close();
        }
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_WITHIN, all).await.context("some part does not end")?
    }
}

fn settings(number: usize, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> anyhow::Result<Settings> {
    Ok(Settings {
        prefix: "/registry".into(),
        bootstrap_tokens: false,
        service_ranges: vec![Cidr::parse("10.96.0.0/16").map_err(anyhow::Error::msg)?],
        node_ports: 30000..=32767,
        event_ttl: 3600,
        min_request_timeout: Duration::from_secs(1800),
        advertised: format!("192.0.2.{}:6443", number + 1),
        clock,
        chance,
        metrics: prometheus::Registry::new(),
        kubelets: Kubelets::none(),
        audit: Audit::default(),
    })
}
