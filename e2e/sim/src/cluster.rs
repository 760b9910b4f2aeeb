//! A cluster in one thread.

use crate::clock::SimClock;
use crate::component::{self, Component};
use crate::dice::Dice;
use crate::entropy;
use crate::ledger::Ledger;
use crate::server::{Keeping, Servers};
use crate::store::SimStore;
use crate::trace::Trace;
use crate::transport::{self, Line, Who};
use crate::weather::{Climate, Doom, Weather};
use crate::witness;
use anyhow::Context;
use minik_apiserver::Api;
use minik_component::{Chance, Shutdown};
use minik_storage::Memory;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long anything may take to end, in the simulation's time.
const END_WITHIN: Duration = Duration::from_secs(60);
/// What a world's thread may have on its stack: without optimization futures are large.
pub(crate) const STACK_BYTES: usize = 16 << 20;
/// The longest time between two moves of a clock.
const CLOCKS_MS: u64 = 20_000;
/// By how much a clock is wrong at most, mostly and seldom.
const WRONG_MS: [u64; 2] = [5000, 4_000_000];

/// What runs beside the apiserver, and what goes wrong.
#[derive(Clone, Default)]
pub struct Parts {
    /// The scheduler.
    pub scheduler: bool,
    /// The controllers.
    pub controllers: bool,
    /// Nodes without machines.
    pub fake_nodes: Option<minik_fake_nodes::Config>,
    /// A second server over the same store, which hears of changes late and dies now and then.
    pub lagging_server: bool,
    /// Only a few addresses and ports for Services.
    pub is_narrow: bool,
    /// Somebody watches all Pods and holds what is told against what is.
    pub witness: bool,
    /// How often what goes wrong while it storms; nothing does when `None`.
    pub climate: Option<Climate>,
}

/// A cluster in one thread.
pub struct Sim {
    pub(crate) admin: kube::Client,
    user: kube::Client,
    api: Api,
    servers: Servers,
    weather: Arc<Weather>,
    ledger: Arc<Ledger>,
    trace: Arc<Trace>,
    dice: Arc<Dice>,
    /// The machines', of which each is on its own.
    clocks: Vec<SimClock>,
    running: JoinSet<anyhow::Result<()>>,
    shutdown: Shutdown,
}

impl Sim {
    /// Runs a test in a world and a thread of its own: `test` gets the running cluster, the seed decides all chance.
    ///
    /// # Errors
    /// The test's, and when a part does not start or ends before its time.
    pub fn run<T: Send>(
        seed: u64,
        parts: Parts,
        test: impl AsyncFnOnce(&Sim) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let world = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(STACK_BYTES);
            let world = world.spawn_scoped(scope, move || {
                entropy::seed(seed);
                Sim::live(seed, parts, test)
            })?;
            world.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn live<T>(
        seed: u64,
        parts: Parts,
        test: impl AsyncFnOnce(&Sim) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Sim::runtime()?.block_on(async {
            let sim = Sim::start(seed, parts).await?;
            let result = test(&sim).await;
            sim.end().await?;
            result
        })
    }

    /// What a world runs in.
    pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
    }

    /// A cluster in calm weather.
    pub(crate) async fn start(seed: u64, parts: Parts) -> anyhow::Result<Sim> {
        let (clock, trace) = (SimClock::default(), Arc::<Trace>::default());
        let dice = Arc::new(Dice::new(seed));
        let chance: Arc<dyn Chance> = dice.clone();
        let weather =
            Arc::new(Weather::new(chance.clone(), parts.climate.unwrap_or_default(), trace.clone()));
        let ledger = Arc::new(Ledger::new(trace.clone()));
        let (shutdown, mut running) = (Shutdown::new(), JoinSet::new());
        let mut clocks = Vec::new();
        let servers = Servers::new(1 + usize::from(parts.lagging_server));
        let memory = Arc::new(Memory::new());
        for number in 0..1 + usize::from(parts.lagging_server) {
            let clock = clock.another();
            clocks.push(clock.clone());
            let (inner, ledger, late) = (memory.clone(), ledger.clone(), weather.clone());
            let store = move |doom| {
                let late = (number > 0).then(|| late.clone());
                SimStore { inner: inner.clone(), ledger: ledger.clone(), late, doom }
            };
            let keeping = Keeping {
                number,
                store: Box::new(store),
                clock,
                chance: chance.clone(),
                is_narrow: parts.is_narrow,
                weather: weather.clone(),
                servers: servers.clone(),
            };
            let life = keeping.open().await?;
            running.spawn(keeping.run(life, shutdown.clone()));
        }
        let api = servers.get(0).context("the first server runs")?.api;
        let who = Who::new("admin", &["system:masters"])?;
        let admin = transport::client(&api, &who);
        let doom = Arc::new(Doom::none(weather.clone()));
        let line = Line { servers: servers.clone(), who, weather: weather.clone(), doom };
        let user = transport::exposed(line.clone());
        let mut sim =
            Sim { admin, user, api, servers, weather, ledger, trace, dice, clocks, running, shutdown };
        sim.until("the objects of a new cluster", async |sim: &Sim| {
            let ready = http::Request::get("/readyz").body(Vec::new())?;
            Ok(sim.admin.request_text(ready).await.is_ok())
        })
        .await?;
        for component in component::all(&parts, &clock, &chance)? {
            sim.clocks.push(component.clock.clone());
            sim.add(component);
        }
        if parts.witness {
            sim.running.spawn(witness::watch(sim.user.clone(), sim.ledger.clone(), sim.shutdown.clone()));
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

    /// The user's client, out in the weather.
    pub fn user(&self) -> &kube::Client {
        &self.user
    }

    /// The API itself.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Chance, by the seed.
    pub fn chance(&self) -> &dyn Chance {
        &*self.dice
    }

    /// What goes wrong.
    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    /// From here on all chance is of another seed, and what goes wrong while it storms too.
    pub(crate) fn reseed(&self, seed: u64) {
        entropy::seed(seed);
        self.dice.reseed(seed);
        self.weather.set_climate(Climate::of(&*self.dice));
    }

    /// What must never be, and was.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A number that stands for every write and every fault so far, in order.
    pub fn trace(&self) -> u64 {
        self.trace.number()
    }

    /// Moves the time of day of one machine after the other, while it storms, in worlds where that happens.
    pub(crate) async fn move_clocks(&self) {
        let weather = &self.weather;
        while weather.climate().clocks && weather.is_stormy() {
            weather.pass(CLOCKS_MS).await;
            let most = WRONG_MS[usize::from(weather.below(4) == 0)];
            let wrong = weather.below(2 * most) as i64 - most as i64;
            self.clocks[weather.below(self.clocks.len() as u64) as usize].set_wrong_by_ms(wrong);
        }
    }

    /// Ends all parts, and says which ended badly.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.weather.set_stormy(false);
        self.shutdown.request();
        self.servers.close();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_WITHIN, all).await.context("some part does not end")?
    }
}
