//! Where this server is found: its own EndpointSlice of the Service `kube-dns`.
//!
//! Each node's server has one, with the node's name in it, so that `internalTrafficPolicy: Local` sends every Pod to its
//! own node's server.

use crate::objects::{SERVICE_NAME, Slice};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use minik_client::call::{self, PatchKind};
use minik_client::{Backoff, ClientError, Informer, ObjectKey, PartialObject};
use minik_component::{Chance, Shutdown, chain};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "dns.minik");
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long the end of the server may be held up by taking its slice away.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);

/// Keeps the slice as it has to be.
pub struct Publisher {
    /// The way to the API.
    pub client: kube::Client,
    /// The node's name.
    pub node: String,
    /// Where names are served.
    pub address: SocketAddr,
    /// What is known of slices.
    pub slices: Informer<Slice>,
    /// Told whenever this server's slice is not as it was.
    pub changed: Arc<Notify>,
    /// Chance, for jitter.
    pub chance: Arc<dyn Chance>,
}

/// The slice of a node's server.
pub fn key(node: &str) -> ObjectKey {
    ObjectKey::new(NAMESPACE, &format!("{SERVICE}-{node}"))
}

impl Publisher {
    /// Publishes until `shutdown`, then takes the slice away.
    pub async fn run(self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        while !shutdown.is_requested() {
            let wait = match self.publish().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(slice = %key(&self.node), error = chain(&error), "cannot publish this server");
                    Some(backoff.next(&*self.chance))
                }
            };
            let again = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => self.changed.notified().await,
                }
            };
            // Cancel-safe: a notice that was not taken is kept.
            tokio::select! { () = shutdown.requested() => {}, () = again => {} }
        }
        let path = self.path();
        let options = serde_json::Map::new();
        let removal = call::delete(&self.client, &path, &options);
        match tokio::time::timeout(REMOVED_WITHIN, removal).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(path, error = chain(&error), "cannot take this server's slice away")
            }
            Err(_) => tracing::warn!(path, "cannot take this server's slice away in time"),
        }
    }

    fn path(&self) -> String {
        let key = key(&self.node);
        format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}", key.namespace, key.name)
    }

    /// Writes the slice unless it is right.
    async fn publish(&self) -> Result<(), ClientError> {
        if self.slices.get(&key(&self.node)).is_some_and(|slice| self.is_right(&slice)) {
            return Ok(());
        }
        let slice = self.slice(self.owner().await);
        let path = format!("{}?fieldManager=minik-dns&force=true", self.path());
        call::patch::<PartialObject>(&self.client, &path, PatchKind::Apply, &slice).await?;
        tracing::info!(address = %self.address, "published this server");
        Ok(())
    }

    fn is_right(&self, slice: &Slice) -> bool {
        let wanted = self.slice(None);
        let ports = wanted.ports.unwrap_or_default();
        let same_port = |(have, want): (&crate::objects::Port, &EndpointPort)| {
            Some(&*have.name) == want.name.as_deref()
                && Some(&*have.protocol) == want.protocol.as_deref()
                && have.port.map(i32::from) == want.port
        };
        let [endpoint] = &*slice.endpoints else { return false };
        let service = slice.metadata.labels.get(SERVICE_NAME).is_some_and(|name| &**name == SERVICE);
        service
            && endpoint.addresses.len() == 1
            && *endpoint.addresses[0] == self.address.ip().to_string()
            && endpoint.conditions.ready == Some(true)
            && *endpoint.node_name == *self.node
            && slice.ports.len() == ports.len()
            && slice.ports.iter().zip(&ports).all(same_port)
    }

    /// The node, with which the slice goes; a node that is not there yet owns nothing.
    async fn owner(&self) -> Option<OwnerReference> {
        let node = call::get::<Node>(&self.client, &format!("/api/v1/nodes/{}", self.node)).await;
        let metadata = node.ok()?.metadata;
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: metadata.name?,
            uid: metadata.uid?,
            ..OwnerReference::default()
        })
    }

    fn slice(&self, owner: Option<OwnerReference>) -> EndpointSlice {
        let port = |name: &str, protocol: &str| EndpointPort {
            name: Some(name.into()),
            protocol: Some(protocol.into()),
            port: Some(self.address.port().into()),
            ..EndpointPort::default()
        };
        let labels = [(SERVICE_NAME, SERVICE), MANAGED_BY];
        let endpoint = Endpoint {
            addresses: vec![self.address.ip().to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: Some(self.node.clone()),
            ..Endpoint::default()
        };
        EndpointSlice {
            metadata: ObjectMeta {
                name: Some(key(&self.node).name.to_string()),
                namespace: Some(NAMESPACE.into()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            address_type: if self.address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
            endpoints: Some(vec![endpoint]),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        }
    }
}
