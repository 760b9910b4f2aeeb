//! The services beside the apiserver, each kept running as a supervisor would.

use crate::clock::SimClock;
use crate::cluster::Parts;
use crate::transport::{self, Line, Who};
use crate::weather::{Doom, Weather};
use futures::future::BoxFuture;
use minik_component::{Chance, Clock, Shutdown};
use std::sync::Arc;

/// The longest time until one that died is started again.
const LONGEST_DEATH_MS: u64 = 5000;

type Start = Box<dyn Fn(kube::Client, Shutdown) -> BoxFuture<'static, anyhow::Result<()>> + Send>;

/// A service that can be started again and again.
pub struct Component {
    /// Its name.
    pub name: &'static str,
    /// Whom the API sees.
    pub who: Who,
    /// Its machine's clock.
    pub clock: SimClock,
    start: Start,
}

/// The services that are wanted.
///
/// # Errors
/// When no certificate can be made.
pub fn all(parts: &Parts, clock: &SimClock, chance: &Arc<dyn Chance>) -> anyhow::Result<Vec<Component>> {
    let mut all = Vec::new();
    let mut add = |name, who: Who, make: &dyn Fn(Arc<dyn Clock>, Arc<dyn Chance>) -> Start| {
        let clock = clock.another();
        let start = make(Arc::new(clock.clone()), chance.clone());
        all.push(Component { name, who, clock, start });
    };
    if parts.scheduler {
        add("scheduler", Who::new("system:kube-scheduler", &[])?, &|clock, chance| {
            Box::new(move |client, ending| {
                let (clock, chance) = (clock.clone(), chance.clone());
                let config = minik_scheduler::Config { clock, chance, ..minik_scheduler::Config::default() };
                Box::pin(async move { Ok(minik_scheduler::run(config, client, ending).await?) })
            })
        });
    }
    if parts.controllers {
        // Without tokens every controller acts as the manager, which needs all their rights.
        let who = Who::new("system:kube-controller-manager", &["system:masters"])?;
        add("controller-manager", who, &|clock, chance| {
            Box::new(move |client, ending| {
                let config = minik_controller_manager::Config {
                    clock: clock.clone(),
                    chance: chance.clone(),
                    ..minik_controller_manager::Config::default()
                };
                Box::pin(async move { Ok(minik_controller_manager::run(config, client, ending).await?) })
            })
        });
    }
    if let Some(config) = &parts.fake_nodes {
        add("fake-nodes", Who::new("system:fake-nodes", &["system:masters"])?, &|clock, chance| {
            let config = config.clone();
            Box::new(move |client, ending| {
                let (clock, chance, metrics) = (clock.clone(), chance.clone(), prometheus::Registry::new());
                let config = minik_fake_nodes::Config { clock, chance, metrics, ..config.clone() };
                Box::pin(async move { Ok(minik_fake_nodes::run(config, client, ending).await?) })
            })
        });
    }
    Ok(all)
}

/// Keeps a component running until `shutdown`: while it storms it dies between two of its writes, and comes back later.
///
/// # Errors
/// When it ends by itself in calm weather.
pub async fn keep(
    component: Component,
    weather: Arc<Weather>,
    line: impl Fn(Arc<Doom>) -> Line,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    while !shutdown.is_requested() {
        let doom = Arc::new(Doom::of(weather.clone(), |climate| climate.life));
        let client = transport::exposed(line(doom.clone()));
        let mut life = tokio::spawn((component.start)(client, shutdown.clone()));
        // Cancel-safe: waiting only; one that dies is cut off wherever it is.
        tokio::select! {
            biased;
            () = doom.struck() => {
                life.abort();
                // How it ended is known: it was cut off.
                let _ = (&mut life).await;
                tracing::info!(component = component.name, "died");
            }
            ended = &mut life => {
                let ended = ended?;
                if !weather.is_stormy() {
                    return ended;
                }
                tracing::info!(component = component.name, ?ended, "ended");
            }
        }
        // Cancel-safe: waiting only.
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            () = weather.pass(LONGEST_DEATH_MS) => {}
        }
    }
    Ok(())
}
