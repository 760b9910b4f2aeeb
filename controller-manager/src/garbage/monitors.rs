//! A metadata watch for every kind that can be deleted, as discovery tells them.

use super::{ApiKind, Shared};
use minik_client::{Discovery, Informer, Meta, Projection, Resource, Source};
use minik_component::{Chance, Shutdown, chain};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Discovery is looked at this often: it cannot be watched.
const REFRESH: Duration = Duration::from_secs(30);
/// A kind whose objects cannot be listed must not hold up the collection of all others for longer.
const SYNC_WITHIN: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The metadata that the graph reads.
#[derive(Debug, Deserialize)]
#[serde(from = "Wire")]
pub struct Owned(Meta);

#[derive(Deserialize)]
struct Wire {
    metadata: Meta,
}

impl From<Wire> for Owned {
    fn from(wire: Wire) -> Owned {
        Owned(Meta { labels: BTreeMap::new(), ..wire.metadata })
    }
}

impl Projection for Owned {
    fn meta(&self) -> &Meta {
        &self.0
    }
}

struct Monitor {
    informer: Informer<Owned>,
    shutdown: Shutdown,
}

/// All watches.
pub struct Monitors {
    shared: Arc<Shared>,
    /// Kinds that others watch already.
    watched: Vec<ApiKind>,
    client: kube::Client,
    chance: Arc<dyn Chance>,
    shutdown: Shutdown,
    running: BTreeMap<Resource, Monitor>,
    tasks: JoinSet<()>,
}

/// Which resources are followed: each once, in the version that its group prefers. Events own nothing, and nobody
/// owns them.
pub fn followed(discovery: &Discovery) -> BTreeSet<Resource> {
    let can = |one: &Resource| ["list", "watch", "delete"].iter().all(|verb| one.supports(verb));
    discovery.preferred().filter(|one| can(one) && one.kind != "Event").cloned().collect()
}

impl Monitors {
    /// None runs yet; `watched` are kinds that others watch already.
    pub fn new(
        (shared, watched): (Arc<Shared>, Vec<ApiKind>),
        client: kube::Client,
        chance: Arc<dyn Chance>,
        shutdown: Shutdown,
    ) -> Monitors {
        Monitors {
            shared,
            watched,
            client,
            chance,
            shutdown,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows discovery until the end is asked for.
    pub async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let mut wait = FIRST_RETRY;
        while !shutdown.is_requested() {
            match Discovery::fetch(&self.client).await {
                Ok(discovery) => {
                    self.follow(discovery).await;
                    wait = REFRESH;
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot see what is served");
                    wait = (wait * 2).min(REFRESH);
                }
            }
            // Cancel-safe: both arms only wait.
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn follow(&mut self, discovery: Discovery) {
        let wanted = followed(&discovery);
        let watched = &self.watched;
        let known = |one: &Resource| watched.contains(&(one.api_version().as_str(), one.kind.as_str()));
        // What is not described for now is still there.
        let stale = |one: &Resource| discovery.stale.contains(&one.api_version());
        let lost: Vec<Resource> =
            self.running.keys().filter(|one| !wanted.contains(one) && !stale(one)).cloned().collect();
        let fresh: Vec<Resource> =
            wanted.into_iter().filter(|one| !known(one) && !self.running.contains_key(one)).collect();
        *self.shared.discovery.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(discovery);
        for resource in lost {
            self.stop(&resource);
        }
        if fresh.is_empty() && *self.shared.complete.borrow() {
            return;
        }
        self.shared.complete.send_replace(false);
        let informers: Vec<Informer<Owned>> =
            fresh.into_iter().map(|resource| self.start(resource)).collect();
        let synced = async {
            for informer in &informers {
                informer.synced().await;
            }
        };
        // Cancel-safe: both arms only wait.
        tokio::select! {
            biased;
            () = self.shutdown.requested() => return,
            late = tokio::time::timeout(SYNC_WITHIN, synced) => if late.is_err() {
                tracing::warn!("some kinds cannot be listed; collecting without them");
            },
        }
        self.shared.complete.send_replace(true);
    }

    fn start(&mut self, resource: Resource) -> Informer<Owned> {
        let shutdown = self.shutdown.child();
        let (api_version, kind): (Arc<str>, Arc<str>) =
            (resource.api_version().into(), resource.kind.as_str().into());
        let shared = self.shared.clone();
        let builder = Informer::builder(Source::metadata(&resource.collection("")))
            .on_change(move |change| shared.observe(&api_version, &kind, change));
        let informer = builder.informer();
        self.tasks.spawn(builder.run(self.client.clone(), self.chance.clone(), shutdown.clone()));
        self.running.insert(resource, Monitor { informer: informer.clone(), shutdown });
        informer
    }

    /// Ends the watch of a kind that is served no longer; its objects are gone with it.
    fn stop(&mut self, resource: &Resource) {
        let Some(monitor) = self.running.remove(resource) else { return };
        monitor.shutdown.request();
        for object in monitor.informer.list() {
            let work = self.shared.graph().gone(&object.meta().uid);
            self.shared.push(work);
        }
    }
}
