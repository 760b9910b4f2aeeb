//! The servers, each kept running as a supervisor would.

use crate::clock::SimClock;
use crate::store::SimStore;
use crate::weather::{Doom, Weather};
use minik_apiserver::{Api, Audit, Cidr, InFlight, Kubelets, Settings, run_within};
use minik_component::{Chance, Clock, Shutdown};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest time until one that died is started again.
const LONGEST_DEATH_MS: u64 = 5000;

/// A life of a server.
#[derive(Clone)]
pub struct Server {
    /// What it serves.
    pub api: Api,
    /// Told when it dies: everything that is under way breaks.
    pub dead: Shutdown,
}

/// The servers that run now, by number.
#[derive(Clone)]
pub struct Servers(Arc<Mutex<Vec<Option<Server>>>>);

impl Servers {
    /// So many, of which none runs.
    pub fn new(count: usize) -> Servers {
        Servers(Arc::new(Mutex::new(vec![None; count])))
    }

    /// One by chance, if it runs.
    pub fn any(&self, weather: &Weather) -> Option<Server> {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.get(weather.below(count as u64) as usize)
    }

    /// The one of this number, if it runs.
    pub fn get(&self, number: usize) -> Option<Server> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[number].clone()
    }

    fn set(&self, number: usize, server: Option<Server>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[number] = server;
    }

    /// All of them end.
    pub fn close(&self) {
        for server in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten() {
            server.api.set_ending();
            server.api.world().close();
        }
    }
}

/// What a server runs with.
pub struct Keeping {
    /// Which one it is. The first never dies, so that a test can look at what is.
    pub number: usize,
    /// What of the store it has, whatever life it lives.
    pub store: Box<dyn Fn(Arc<Doom>) -> SimStore + Send + Sync>,
    /// Its clock.
    pub clock: SimClock,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Whether there are only a few addresses and ports.
    pub is_narrow: bool,
    /// What goes wrong.
    pub weather: Arc<Weather>,
    /// Where it is found.
    pub servers: Servers,
}

impl Keeping {
    /// Opens the server for another life.
    ///
    /// # Errors
    /// When it cannot serve what is stored.
    pub async fn open(&self) -> anyhow::Result<(Arc<Doom>, Arc<SimStore>)> {
        let doom = Arc::new(match self.number {
            0 => Doom::none(self.weather.clone()),
            _ => Doom::of(self.weather.clone(), |climate| climate.server_life),
        });
        let store = Arc::new((self.store)(doom.clone()));
        let api = Api::open(store.clone(), self.settings()?, None).await?;
        self.servers.set(self.number, Some(Server { api, dead: Shutdown::new() }));
        Ok((doom, store))
    }

    /// Keeps it running until `shutdown`: it dies between two of its writes, and comes back later.
    ///
    /// # Errors
    /// When it cannot serve what is stored.
    pub async fn run(
        self,
        (mut doom, mut store): (Arc<Doom>, Arc<SimStore>),
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        while let Some(server) = self.servers.get(self.number) {
            let mut life = tokio::spawn(run_within(server.api, store, shutdown.clone()));
            // Cancel-safe: waiting only; one that dies is cut off wherever it is.
            tokio::select! {
                biased;
                () = doom.struck() => {}
                ended = &mut life => return Ok(ended?),
            }
            tracing::info!(number = self.number, "a server died");
            self.servers.set(self.number, None);
            server.dead.request();
            life.abort();
            // How it ended is known: it was cut off.
            let _ = life.await;
            self.weather.pass(LONGEST_DEATH_MS).await;
            (doom, store) = self.open().await?;
        }
        Ok(())
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let (range, ports) =
            if self.is_narrow { ("10.96.0.0/28", 30000..=30004) } else { ("10.96.0.0/16", 30000..=32767) };
        Ok(Settings {
            prefix: "/registry".into(),
            bootstrap_tokens: false,
            in_flight: InFlight::default(),
            service_ranges: vec![Cidr::parse(range).map_err(anyhow::Error::msg)?],
            node_ports: ports,
            event_ttl: 3600,
            min_request_timeout: Duration::from_secs(1800),
            advertised: format!("192.0.2.{}:6443", self.number + 1),
            clock,
            chance: self.chance.clone(),
            metrics: prometheus::Registry::new(),
            kubelets: Kubelets::none(),
            audit: Audit::default(),
        })
    }
}
