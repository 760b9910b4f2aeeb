//! The kinds that several controllers follow: one informer each, whoever listens.

use crate::objects::{ConfigMapObject, NamespaceObject};
use crate::setup::Part;
use minik_client::{Informer, InformerBuilder, PartialObject, Projection, Source};
use minik_component::{Chance, Shutdown};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The informers before they run: handlers can be added.
pub struct Watches {
    /// Namespaces.
    pub namespaces: InformerBuilder<NamespaceObject>,
    /// ServiceAccounts.
    pub service_accounts: InformerBuilder<PartialObject>,
    /// ConfigMaps.
    pub config_maps: InformerBuilder<ConfigMapObject>,
}

/// Their stores.
#[derive(Clone)]
pub struct Caches {
    /// Namespaces.
    pub namespaces: Informer<NamespaceObject>,
    /// ServiceAccounts.
    pub service_accounts: Informer<PartialObject>,
    /// ConfigMaps.
    pub config_maps: Informer<ConfigMapObject>,
}

impl Watches {
    /// None runs yet.
    pub fn new() -> Watches {
        fn all<T: Projection>(path: &str) -> InformerBuilder<T> {
            Informer::builder(Source::all(path))
        }
        Watches {
            namespaces: all("/api/v1/namespaces"),
            service_accounts: Informer::builder(Source::metadata("/api/v1/serviceaccounts")),
            config_maps: all("/api/v1/configmaps"),
        }
    }

    /// The stores, to be read before and while they are followed.
    pub fn caches(&self) -> Caches {
        Caches {
            namespaces: self.namespaces.informer(),
            service_accounts: self.service_accounts.informer(),
            config_maps: self.config_maps.informer(),
        }
    }

    /// Follows them all.
    pub fn run(
        self,
        client: &kube::Client,
        chance: &Arc<dyn Chance>,
        shutdown: &Shutdown,
        parts: &mut JoinSet<Part>,
    ) {
        let mut follow = |informer: futures::future::BoxFuture<'static, ()>| {
            parts.spawn(async move {
                informer.await;
                "informer"
            });
        };
        let with = || (client.clone(), chance.clone(), shutdown.clone());
        macro_rules! follow {
            ($($kind:ident),*) => { $({
                let (client, chance, shutdown) = with();
                follow(Box::pin(self.$kind.run(client, chance, shutdown)));
            })* };
        }
        follow!(namespaces, service_accounts, config_maps);
    }
}

impl Caches {
    /// Returns once all are filled.
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.service_accounts.synced().await;
        self.config_maps.synced().await;
    }
}
