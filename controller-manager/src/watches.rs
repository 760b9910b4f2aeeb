//! The kinds that several controllers follow: one informer each, whoever listens.

use crate::bootstrap::{self, TokenObject};
use crate::certificates::CsrObject;
use crate::disruption::PdbObject;
use crate::endpoints::{self, EndpointsObject, ServiceObject, SliceObject};
use crate::index::Index;
use crate::objects::{
    ClusterRoleObject, ConfigMapObject, DeploymentObject, LeaseObject, NamespaceObject, NodeObject,
    PodObject, ReplicaSetObject,
};
use crate::service_cidr::ServiceCidrObject;
use crate::setup::Part;
use futures::future::BoxFuture;
use minik_client::{Informer, InformerBuilder, Meta, ObjectKey, PartialObject, Projection, Source};
use minik_component::{Chance, Shutdown};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Declares the shared kinds once: the informers before they run, their stores, and following them all.
macro_rules! kinds {
    ($($(#[$doc:meta])* $field:ident: $object:ty = $source:expr;)*) => {
        /// The informers before they run: handlers can be added.
        pub struct Watches {
            $($(#[$doc])* pub $field: InformerBuilder<$object>,)*
            indexes: Indexes,
        }

        /// Their stores.
        #[derive(Clone)]
        pub struct Caches {
            $($(#[$doc])* pub $field: Informer<$object>,)*
            indexes: Indexes,
        }

        impl Watches {
            /// None runs yet.
            pub fn new() -> Watches {
                let mut watches = Watches { $($field: Informer::builder($source),)* indexes: Indexes::new() };
                watches.index();
                watches
            }

            /// The stores, to be read before and while they are followed.
            pub fn caches(&self) -> Caches {
                Caches { $($field: self.$field.informer(),)* indexes: self.indexes.clone() }
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
    /// Services.
    services: ServiceObject = Source::all("/api/v1/services");
    /// EndpointSlices that are written here.
    endpoint_slices: SliceObject = endpoints::slices_source();
    /// Endpoints.
    endpoints: EndpointsObject = Source::all("/api/v1/endpoints");
    /// Deployments.
    deployments: DeploymentObject = Source::all("/apis/apps/v1/deployments");
    /// ReplicaSets.
    replica_sets: ReplicaSetObject = Source::all("/apis/apps/v1/replicasets");
    /// PodDisruptionBudgets.
    disruption_budgets: PdbObject = Source::all("/apis/policy/v1/poddisruptionbudgets");
    /// CertificateSigningRequests.
    signing_requests: CsrObject = Source::all("/apis/certificates.k8s.io/v1/certificatesigningrequests");
    /// Bootstrap tokens.
    bootstrap_tokens: TokenObject = bootstrap::tokens_source();
    /// Ranges of Services' addresses.
    service_cidrs: ServiceCidrObject = Source::all("/apis/networking.k8s.io/v1/servicecidrs");
    /// Addresses of Services.
    ip_addresses: PartialObject = Source::metadata("/apis/networking.k8s.io/v1/ipaddresses");
    /// Leases.
    leases: LeaseObject = Source::all("/apis/coordination.k8s.io/v1/leases");
    /// ClusterRoles.
    cluster_roles: ClusterRoleObject = Source::all("/apis/rbac.authorization.k8s.io/v1/clusterroles");
}

impl Caches {
    /// The Pods that a node has.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<PodObject>> {
        self.indexes.pods_by_node.find(&self.pods, node)
    }

    /// The Pods that an owner controls, and those of its namespace that nobody controls.
    pub fn pods_of(&self, owner: &Meta) -> Vec<Arc<PodObject>> {
        let orphans = self.indexes.pods_by_owner.find(&self.pods, &orphans(&owner.namespace));
        [self.controlled_pods(&owner.uid), orphans].concat()
    }

    /// The Pods that an owner controls.
    pub fn controlled_pods(&self, uid: &str) -> Vec<Arc<PodObject>> {
        self.indexes.pods_by_owner.find(&self.pods, uid)
    }

    /// The ReplicaSets that an owner controls, and those of its namespace that nobody controls.
    pub fn sets_of(&self, owner: &Meta) -> Vec<Arc<ReplicaSetObject>> {
        let orphans = self.indexes.sets_by_owner.find(&self.replica_sets, &orphans(&owner.namespace));
        [self.controlled_sets(&owner.uid), orphans].concat()
    }

    /// The ReplicaSets that an owner controls.
    pub fn controlled_sets(&self, uid: &str) -> Vec<Arc<ReplicaSetObject>> {
        self.indexes.sets_by_owner.find(&self.replica_sets, uid)
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeObject>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }
}

/// Objects by something else than their key.
#[derive(Clone)]
struct Indexes {
    pods_by_node: Arc<Index<PodObject>>,
    pods_by_owner: Arc<Index<PodObject>>,
    sets_by_owner: Arc<Index<ReplicaSetObject>>,
}

/// The uid of what controls an object; of those that nothing controls, a value for each namespace.
fn owner<T: Projection>(object: &T) -> Option<Arc<str>> {
    let meta = object.meta();
    Some(meta.controller().map_or_else(|| orphans(&meta.namespace).into(), |owner| owner.uid.clone()))
}

/// No uid begins like this.
fn orphans(namespace: &str) -> String {
    format!("/{namespace}")
}

impl Indexes {
    fn new() -> Indexes {
        let node = |pod: &PodObject| (!pod.node.is_empty()).then(|| pod.node.clone());
        Indexes {
            pods_by_node: Index::new(node),
            pods_by_owner: Index::new(owner::<PodObject>),
            sets_by_owner: Index::new(owner::<ReplicaSetObject>),
        }
    }
}

impl Watches {
    /// Before any handler, so that all find the indexes up to date.
    fn index(&mut self) {
        self.indexes.pods_by_node.follow(&mut self.pods);
        self.indexes.pods_by_owner.follow(&mut self.pods);
        self.indexes.sets_by_owner.follow(&mut self.replica_sets);
    }
}
