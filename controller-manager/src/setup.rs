//! What a controller is set up with.

use crate::config::Config;
use crate::identities::Identities;
use crate::metrics::Metrics;
use crate::watches::{Caches, Watches};
use crate::worker::{Controller, queue, work};
use futures::future::BoxFuture;
use minik_client::{Change, EventApi, EventRecorder, EventWriter, Reporter, WorkQueue};
use minik_component::Shutdown;
use std::sync::Arc;

/// A part that runs, by the name that it is missed under when it ends.
pub type Part = &'static str;

/// Collects controllers: each adds handlers to the watches, and what runs once the caches are filled.
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// Clients.
    pub identities: Identities,
    /// The manager's own client, which may read everything.
    pub client: kube::Client,
    /// Informers that handlers can be added to.
    pub watches: Watches,
    /// Their stores.
    pub caches: Caches,
    /// Metrics.
    pub metrics: Metrics,
    /// The wish to end.
    pub shutdown: Shutdown,
    /// What runs once the caches are filled.
    pub parts: Vec<BoxFuture<'static, Part>>,
    /// What writes events.
    pub writers: Vec<(EventWriter, kube::Client)>,
}

impl Setup {
    /// Has a controller's workers take keys from `queue`.
    pub fn controller<C: Controller>(&mut self, controller: C, queue: WorkQueue<C::Key>) {
        let (metrics, clock) = (self.metrics.clone(), self.config.clock.clone());
        let work = work(Arc::new(controller), queue, (metrics, clock), self.shutdown.clone());
        self.part(C::NAME, work);
    }

    /// Has something run once the caches are filled, until the end is asked for.
    pub fn part(&mut self, name: Part, run: impl Future<Output = ()> + Send + 'static) {
        self.parts.push(Box::pin(async move {
            run.await;
            name
        }));
    }

    /// A queue of the names of namespaces, which come when they change.
    pub fn namespaces(&mut self) -> WorkQueue<String> {
        let queue = queue::<String>(&self.config.chance);
        let keys = queue.clone();
        self.watches.namespaces.add_handler(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                keys.add(change.object().metadata.name.to_string());
            }
        });
        queue
    }

    /// A recorder of events that `component` tells, written by `client`.
    pub fn recorder(&mut self, component: &str, client: &kube::Client) -> EventRecorder {
        let reporter =
            Reporter { component: component.to_owned(), instance: String::new(), api: EventApi::Core };
        let (recorder, writer) =
            EventRecorder::new(reporter, self.config.clock.clone(), self.config.chance.clone());
        self.writers.push((writer, client.clone()));
        recorder
    }
}
