//! The API as a value: everything that requests are answered from. Cheap to copy; knows no sockets.

use crate::admission::{self, Chain};
use crate::allocator::{Allocators, Cidr, Counts};
use crate::authn::{Authenticator, BootstrapTokens, Tokens, UserInfo};
use crate::authz::{Attributes, Authorizer, Decision, NodeGraph, Rbac, ResourceAttributes};
use crate::error::{ApiError, Result};
use crate::http::{InFlight, Places};
use crate::metrics::Metrics;
use crate::request::ResourcePath;
use crate::served::Served;
use crate::verbs::Target;
use crate::world::{Follower, View, World};
use minik_component::{Chance, Clock};
use minik_storage::{Storage, StorageError};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What an API is made with.
pub struct Settings {
    /// The prefix of all keys, `/registry`.
    pub prefix: String,
    /// Ranges of Services' addresses; the first is of the default family.
    pub service_ranges: Vec<Cidr>,
    /// Ports of every node that Services can be given.
    pub node_ports: RangeInclusive<u16>,
    /// How long events are kept, in seconds.
    pub event_ttl: i64,
    /// The shortest time after which a watch without a wish of its own ends.
    pub min_request_timeout: Duration,
    /// Where clients are told the server is, `ADDRESS:PORT`.
    pub advertised: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// How kubelets are reached.
    pub kubelets: crate::proxy::Kubelets,
    /// Where requests are told to.
    pub audit: crate::audit::Audit,
    /// Whether bootstrap tokens are believed.
    pub bootstrap_tokens: bool,
    /// How many requests may be under way at once.
    pub in_flight: InFlight,
}

pub(crate) struct Inner {
    pub world: Arc<World>,
    pub served: Vec<Served>,
    /// What `scale` subresources take and give.
    pub scale: Served,
    pub authn: Authenticator,
    pub authz: Arc<Authorizer>,
    pub tokens: Option<Arc<Tokens>>,
    admission: Chain,
    allocators: Arc<Allocators>,
    pub metrics: Metrics,
    pub places: Places,
    pub settings: Settings,
    prepared: AtomicBool,
    ending: AtomicBool,
}

/// The API.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// What can go wrong while an API is made. Final.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[from] StorageError),
    /// A defect of the registry.
    #[error("{0}")]
    Registry(#[from] ApiError),
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Makes the keeper of tokens, once there is a look at what tokens are bound to.
pub type MakeTokens = Box<dyn FnOnce(View) -> Arc<Tokens> + Send>;

struct Graph(Arc<Authorizer>);

impl Follower for Graph {
    fn wants(&self, folder: &str) -> bool {
        matches!(folder, "pods" | "roles" | "clusterroles" | "rolebindings" | "clusterrolebindings")
    }

    fn put(&self, folder: &str, object: &Value) {
        if folder == "pods" { self.0.nodes.put_pod(object) } else { self.0.rbac.put(folder, object) }
    }

    fn remove(&self, folder: &str, namespace: &str, name: &str) {
        if folder == "pods" {
            self.0.nodes.remove_pod(namespace, name);
        } else {
            self.0.rbac.remove(folder, namespace, name);
        }
    }
}

impl Api {
    /// Reads the store and makes the API over it. [`World::feed`] must run for it to go on living.
    ///
    /// # Errors
    /// The store's, and defects.
    pub async fn open(
        storage: Arc<dyn Storage>,
        settings: Settings,
        make_tokens: Option<MakeTokens>,
    ) -> std::result::Result<Api, OpenError> {
        let served = Served::all()?;
        let scale = Served::scale(served.len() as u32)?;
        let authz = Arc::new(Authorizer { nodes: NodeGraph::default(), rbac: Rbac::default() });
        let allocators = Allocators::new(
            settings.service_ranges.clone(),
            settings.node_ports.clone(),
            settings.chance.clone(),
            Counts::new(&settings.service_ranges, &settings.node_ports, &settings.metrics)?,
        );
        let followers: [Arc<dyn Follower>; 2] = [Arc::new(Graph(authz.clone())), allocators.clone()];
        let world = Arc::new(World::open(storage, &settings.prefix, &served, &followers).await?);
        let view = View::new(world.clone());
        let tokens = make_tokens.map(|make| make(view.clone()));
        let bootstrap = settings.bootstrap_tokens.then(|| BootstrapTokens(Arc::new(view.clone())));
        let authn = Authenticator::new(tokens.clone(), bootstrap);
        let admission = admission::plugins(&view, authz.clone());
        let metrics = Metrics::new(&settings.metrics)?;
        Ok(Api(Arc::new(Inner {
            world,
            served,
            scale,
            authn,
            authz,
            tokens,
            admission,
            allocators,
            metrics,
            places: Places::new(settings.in_flight),
            settings,
            prepared: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })))
    }

    /// The objects of a new cluster are there: the server is ready.
    pub fn set_prepared(&self) {
        self.0.prepared.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_prepared(&self) -> bool {
        self.0.prepared.load(Ordering::Relaxed)
    }

    /// The server ends: it is not ready any more.
    pub fn set_ending(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Everything that is stored, in memory.
    pub fn world(&self) -> &Arc<World> {
        &self.0.world
    }

    /// A read-only look at it.
    pub fn view(&self) -> View {
        View::new(self.0.world.clone())
    }

    pub(crate) fn admission(&self) -> &Chain {
        &self.0.admission
    }

    pub(crate) fn allocators(&self) -> &Arc<Allocators> {
        &self.0.allocators
    }

    /// Chance.
    pub fn chance(&self) -> &dyn Chance {
        &*self.0.settings.chance
    }

    /// The time.
    pub fn now(&self) -> jiff::Timestamp {
        self.0.settings.clock.now()
    }

    pub(crate) fn event_ttl(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.settings.event_ttl).unwrap_or(0))
    }

    /// What the server runs with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// What is served at a path.
    pub fn served_at(&self, path: &ResourcePath) -> Option<&Served> {
        self.0.served.iter().find(|served| served.is_at(path))
    }

    /// What is served as a resource of a group and version.
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        let fits = |served: &&Served| {
            served.resource.group == group && served.version == version && served.resource.plural == plural
        };
        self.0.served.iter().find(fits)
    }

    /// What is sent to and answered at a target: the resource, or a face of it.
    pub(crate) fn face<'a>(&'a self, target: &Target<'a>) -> &'a Served {
        if target.subresource == "scale" { &self.0.scale } else { target.served }
    }

    /// Whether a writer of what is not there may make it.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may_create(&self, target: &Target<'_>, user: &UserInfo) -> Result<()> {
        let on = ResourceAttributes {
            fields: Vec::new(),
            group: target.served.resource.group.into(),
            version: target.served.version.into(),
            resource: target.served.resource.plural.into(),
            subresource: target.subresource.into(),
            namespace: target.namespace.into(),
            name: target.name.into(),
        };
        let attributes =
            Attributes { user: user.clone(), verb: "create".into(), resource: Some(on), path: String::new() };
        self.authorize(&attributes)
    }

    /// Whether something is allowed.
    ///
    /// # Errors
    /// 403 with upstream's words.
    pub(crate) fn authorize(&self, attributes: &Attributes) -> Result<()> {
        match self.0.authz.decide(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }
}

/// The refusal of a request.
fn forbidden(attributes: &Attributes, reason: &str) -> ApiError {
    let words = attributes.refusal(reason);
    match &attributes.resource {
        None => {
            ApiError::Forbidden { on: crate::error::Named::default(), message: format!("forbidden: {words}") }
        }
        Some(on) => {
            let dot = if on.group.is_empty() { String::new() } else { format!(".{}", on.group) };
            let name = if on.name.is_empty() { String::new() } else { format!(" {:?}", on.name) };
            ApiError::Forbidden {
                on: crate::error::Named {
                    group: on.group.clone(),
                    kind: on.resource.clone(),
                    name: on.name.clone(),
                },
                message: format!("{}{dot}{name} is forbidden: {words}", on.resource),
            }
        }
    }
}
