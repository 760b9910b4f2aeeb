//! The running controller manager against an apiserver in memory, on a paused clock.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod budgets;
mod endpoints;
mod fake;
mod garbage;
mod joining;
mod namespaces;
mod nodes;
mod rollouts;

use fake::{Served, Server};
use minik_component::Clock;
use minik_component::{Chance, SeededChance, Shutdown};
use minik_controller_manager::{Config, ManagerError, run};
use std::sync::Arc;
use std::time::Duration;

/// The time of day, running with the paused clock.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        fake::START + self.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A running controller manager.
pub(crate) struct Running {
    server: Server,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), ManagerError>>,
}

impl Running {
    fn start(more: &[Served]) -> Running {
        Running::start_as(Server::new(more), false)
    }

    /// With one ServiceAccount a controller, or with one identity for all.
    fn start_as(server: Server, accounts: bool) -> Running {
        let anonymous = accounts.then(|| server.anonymous());
        Running::start_with(server, |config| config.anonymous = anonymous)
    }

    /// With a configuration that is changed before.
    fn start_with(server: Server, change: impl FnOnce(&mut Config)) -> Running {
        let shutdown = Shutdown::new();
        let chance: Arc<dyn Chance> = Arc::new(SeededChance::new(1));
        let clock = Arc::new(TestClock(tokio::time::Instant::now()));
        let mut config = Config { chance, clock, root_ca: Some("CA".into()), ..Config::default() };
        change(&mut config);
        let task = tokio::spawn(run(config, server.client(), shutdown.clone()));
        Running { server, shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}
