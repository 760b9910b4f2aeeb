//! Deletes what has lost its owners, and helps owners to go before, with or without what they own
//! (<https://kubernetes.io/docs/concepts/architecture/garbage-collection/>).
//!
//! ```text
//!  a metadata watch for every kind that can be deleted ──> Graph: who owns whom ──> Attempt, Orphan
//!    ^                                                                                 │
//!    └── discovery, looked at again every so often            the object and its owners, read live ──> plan ──> apply
//! ```
//!
//! Invariants: nothing is deleted because a cache lacks its owner: the server itself is asked, by uid. A deletion names
//! the uid and revision that was decided on.

mod apply;
mod graph;
mod monitors;
mod plan;

use crate::namespace::Departures;
use crate::setup::Setup;
use crate::watches::Watches;
use crate::worker::queue;
use graph::{Graph, Identity, Work};
use minik_client::{Change, Discovery, InformerBuilder, Meta, Projection, WorkQueue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// What watches and workers share.
struct Shared {
    graph: Mutex<Graph>,
    discovery: RwLock<Arc<Discovery>>,
    queue: WorkQueue<Work>,
    departures: Departures,
    /// Whether all watches have shown what there is, so that dependents are known.
    complete: watch::Sender<bool>,
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        // Each change is complete before anything can panic.
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discovery(&self) -> Arc<Discovery> {
        self.discovery.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, work: Vec<Work>) {
        for one in work {
            self.queue.add(one);
        }
    }

    /// Takes what a watch of this kind has shown.
    fn observe<T: Projection>(&self, api_version: &Arc<str>, kind: &Arc<str>, change: &Change<T>) {
        let meta: &Meta = change.object().meta();
        let work = match change {
            Change::Deleted(_) => {
                if !meta.namespace.is_empty() {
                    self.departures.gone(&meta.namespace);
                }
                self.graph().gone(&meta.uid)
            }
            Change::Added(_) | Change::Updated { .. } => {
                let mut graph = self.graph();
                // One that was deleted and made anew while nobody watched is another.
                let mut work = match change {
                    Change::Updated { old, .. } if old.meta().uid != meta.uid => graph.gone(&old.meta().uid),
                    _ => Vec::new(),
                };
                let identity = Identity {
                    api_version: api_version.clone(),
                    kind: kind.clone(),
                    namespace: meta.namespace.clone(),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                };
                work.extend(graph.observe(&identity, meta));
                work
            }
        };
        self.push(work);
    }
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup, departures: Departures) {
    let queue = queue::<Work>(&setup.config.chance);
    let shared = Arc::new(Shared {
        graph: Mutex::default(),
        discovery: RwLock::default(),
        queue: queue.clone(),
        departures,
        complete: watch::Sender::new(false),
    });
    let watched = listen(&mut setup.watches, &shared);
    let monitors = monitors::Monitors::new(
        (shared.clone(), watched),
        setup.client.clone(),
        setup.config.chance.clone(),
        setup.shutdown.clone(),
    );
    setup.part("garbage monitors", monitors.run());
    let client = setup.identities.client("generic-garbage-collector");
    setup.controller(apply::Collector::new(shared, client), queue);
}

/// A kind, by its group and version.
type ApiKind = (&'static str, &'static str);

/// Listens to the watches that are there already, and says of which kinds they are.
fn listen(watches: &mut Watches, shared: &Arc<Shared>) -> Vec<ApiKind> {
    fn add<T: Projection>(informer: &mut InformerBuilder<T>, shared: &Arc<Shared>, of: ApiKind) -> ApiKind {
        let (api_version, kind): (Arc<str>, Arc<str>) = (of.0.into(), of.1.into());
        let shared = shared.clone();
        informer.add_handler(move |change| shared.observe(&api_version, &kind, change));
        of
    }
    vec![
        add(&mut watches.namespaces, shared, ("v1", "Namespace")),
        add(&mut watches.service_accounts, shared, ("v1", "ServiceAccount")),
        add(&mut watches.config_maps, shared, ("v1", "ConfigMap")),
        add(&mut watches.pods, shared, ("v1", "Pod")),
        add(&mut watches.nodes, shared, ("v1", "Node")),
        add(&mut watches.services, shared, ("v1", "Service")),
        add(&mut watches.endpoints, shared, ("v1", "Endpoints")),
        add(&mut watches.deployments, shared, ("apps/v1", "Deployment")),
        add(&mut watches.replica_sets, shared, ("apps/v1", "ReplicaSet")),
        add(&mut watches.disruption_budgets, shared, ("policy/v1", "PodDisruptionBudget")),
        add(&mut watches.signing_requests, shared, ("certificates.k8s.io/v1", "CertificateSigningRequest")),
        add(&mut watches.service_cidrs, shared, ("networking.k8s.io/v1", "ServiceCIDR")),
        add(&mut watches.ip_addresses, shared, ("networking.k8s.io/v1", "IPAddress")),
        add(&mut watches.leases, shared, ("coordination.k8s.io/v1", "Lease")),
        add(&mut watches.cluster_roles, shared, ("rbac.authorization.k8s.io/v1", "ClusterRole")),
    ]
}
