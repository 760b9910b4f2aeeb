//! Reading the live state; what many Pods are judged by is read once.

use super::evidence::Around;
use crate::describe::List;
use crate::query;
use crate::session::{CallError, Session};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_client::segment;
use minik_placement::Pod;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::sync::OnceCell;

/// What reads.
pub struct Reader<'a> {
    session: &'a Session,
    around: OnceCell<Around>,
    /// When it began: nothing that it has read is older.
    pub began: Instant,
}

impl<'a> Reader<'a> {
    /// Nothing is read yet.
    pub fn new(session: &'a Session) -> Reader<'a> {
        Reader { session, around: OnceCell::new(), began: Instant::now() }
    }

    /// What Pods without a node are judged by.
    ///
    /// # Errors
    /// When the server does not answer or refuses; so it is with all here.
    pub async fn around(&self) -> Result<&Around, CallError> {
        self.around.get_or_try_init(|| Around::read(self)).await
    }

    /// An object, if it is there.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, CallError> {
        match self.session.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a collection.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, CallError> {
        Ok(self.session.get::<List<T>>(path).await?.items)
    }

    /// The names of all objects of a collection.
    pub async fn names(&self, path: &str) -> Result<Vec<String>, CallError> {
        let all: Vec<Value> = self.list(path).await?;
        let name = |one: &Value| Some(one.pointer("/metadata/name")?.as_str()?.to_owned());
        Ok(all.iter().filter_map(name).collect())
    }

    /// Nodes, namespaces, the Pods that take something of a node or will, and the scheduler's Lease.
    pub async fn world(&self) -> Result<(Vec<Node>, Vec<Namespace>, Vec<Pod>, Option<Lease>), CallError> {
        const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
        let alive = [("fieldSelector", "status.phase!=Succeeded,status.phase!=Failed")];
        let pods = query::with("/api/v1/pods", &alive);
        futures::try_join!(
            self.list("/api/v1/nodes"),
            self.list("/api/v1/namespaces"),
            self.list(&pods),
            self.find(LEASE)
        )
    }

    /// The events about an object, the oldest first.
    pub async fn events_of(&self, meta: &ObjectMeta) -> Result<Vec<Event>, CallError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let selector = format!("involvedObject.uid={}", text(&meta.uid));
        let path = format!("/api/v1/namespaces/{}/events", segment(&text(&meta.namespace)));
        let mut events: Vec<Event> = self.list(&query::with(&path, &[("fieldSelector", &selector)])).await?;
        let at = |one: &Event| {
            let series = one.series.as_ref().and_then(|series| Some(series.last_observed_time.as_ref()?.0));
            let last = one.last_timestamp.as_ref().map(|time| time.0);
            series.max(last).max(one.event_time.as_ref().map(|time| time.0))
        };
        events.sort_by_key(at);
        Ok(events)
    }

    /// The keys of a Secret or ConfigMap, if it is there.
    pub async fn keys(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<BTreeSet<String>>, CallError> {
        let path = format!("/api/v1/namespaces/{}/{kind}s/{}", segment(namespace), segment(name));
        let found: Option<Value> = self.find(&path).await?;
        let keys = |object: &Value| {
            let maps = ["data", "binaryData"].into_iter().filter_map(|field| object.get(field)?.as_object());
            maps.flat_map(|map| map.keys().cloned()).collect()
        };
        Ok(found.as_ref().map(keys))
    }

    /// Text, whole.
    pub async fn text(&self, path: &str) -> Result<String, CallError> {
        let mut stream = self.session.stream(path, "text/plain, application/json").await?;
        let mut text = Vec::new();
        while let Some(bytes) = stream.chunk().await? {
            text.extend_from_slice(&bytes);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
