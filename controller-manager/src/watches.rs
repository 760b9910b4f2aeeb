//! The kinds that several controllers follow: one informer each, whoever listens.

use crate::objects::{
    ClusterRoleObject, ConfigMapObject, LeaseObject, NamespaceObject, NodeObject, PodObject,
};
use crate::setup::Part;
use futures::future::BoxFuture;
use minik_client::{Change, Informer, InformerBuilder, ObjectKey, PartialObject, Source};
use minik_component::{Chance, Shutdown};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// Declares the shared kinds once: the informers before they run, their stores, and following them all.
macro_rules! kinds {
    ($($(#[$doc:meta])* $field:ident: $object:ty = $source:expr;)*) => {
        /// The informers before they run: handlers can be added.
        pub struct Watches {
            $($(#[$doc])* pub $field: InformerBuilder<$object>,)*
            by_node: Arc<ByNode>,
        }

        /// Their stores.
        #[derive(Clone)]
        pub struct Caches {
            $($(#[$doc])* pub $field: Informer<$object>,)*
            /// Which Pods each node has.
            pub by_node: Arc<ByNode>,
        }

        impl Watches {
            /// None runs yet.
            pub fn new() -> Watches {
                let by_node = Arc::new(ByNode::default());
                let mut watches = Watches { $($field: Informer::builder($source),)* by_node: by_node.clone() };
                watches.pods.add_handler(move |change| by_node.observe(change));
                watches
            }

            /// The stores, to be read before and while they are followed.
            pub fn caches(&self) -> Caches {
                Caches { $($field: self.$field.informer(),)* by_node: self.by_node.clone() }
            }

            /// Follows them all.
            pub fn run(
                self,
                client: &kube::Client,
                chance: &Arc<dyn Chance>,
                shutdown: &Shutdown,
                parts: &mut JoinSet<Part>,
            ) {
                let informers: Vec<BoxFuture<'static, ()>> = vec![
                    $(Box::pin(self.$field.run(client.clone(), chance.clone(), shutdown.clone())),)*
                ];
                for informer in informers {
                    parts.spawn(async move {
                        informer.await;
                        "informer"
                    });
                }
            }
        }

        impl Caches {
            /// Returns once all are filled.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

kinds! {
    /// Namespaces.
    namespaces: NamespaceObject = Source::all("/api/v1/namespaces");
    /// ServiceAccounts.
    service_accounts: PartialObject = Source::metadata("/api/v1/serviceaccounts");
    /// ConfigMaps.
    config_maps: ConfigMapObject = Source::all("/api/v1/configmaps");
    /// Pods.
    pods: PodObject = Source::all("/api/v1/pods");
    /// Nodes.
    nodes: NodeObject = Source::all("/api/v1/nodes");
    /// Leases.
    leases: LeaseObject = Source::all("/apis/coordination.k8s.io/v1/leases");
    /// ClusterRoles.
    cluster_roles: ClusterRoleObject = Source::all("/apis/rbac.authorization.k8s.io/v1/clusterroles");
}

impl Caches {
    /// The Pods that a node has.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<PodObject>> {
        let keys = self.by_node.keys(node);
        keys.iter().filter_map(|key| self.pods.get(key)).filter(|pod| &*pod.node == node).collect()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeObject>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }
}

/// Which Pods each node has.
#[derive(Default)]
pub struct ByNode(Mutex<BTreeMap<Arc<str>, BTreeSet<ObjectKey>>>);

impl ByNode {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, BTreeSet<ObjectKey>>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, change: &Change<PodObject>) {
        let mut nodes = self.lock();
        let before = match change {
            Change::Added(_) => None,
            Change::Updated { old, .. } | Change::Deleted(old) => Some(old),
        };
        if let Some(old) = before
            && let Some(keys) = nodes.get_mut(&old.node)
        {
            keys.remove(&old.metadata.key());
            if keys.is_empty() {
                nodes.remove(&old.node);
            }
        }
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && !pod.node.is_empty() {
            nodes.entry(pod.node.clone()).or_default().insert(pod.metadata.key());
        }
    }

    fn keys(&self, node: &str) -> Vec<ObjectKey> {
        self.lock().get(node).map(|keys| keys.iter().cloned().collect()).unwrap_or_default()
    }
}
