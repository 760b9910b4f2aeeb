//! Somebody who watches all Pods, and holds what is told against what is: each change once, in order, none left out, at its
//! own revision; a watch that broke goes on where it was, at whichever server; a bookmark leaves nothing behind; a list is
//! what was at its revision. (<https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch>)

use crate::ledger::{Ledger, Moved};
use futures::AsyncBufReadExt;
use http::Request;
use minik_client::{Meta, call};
use minik_component::Shutdown;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PODS: &str = "/api/v1/pods";
/// A pause before the next try.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    code: u16,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
}

struct Witness {
    client: kube::Client,
    ledger: Arc<Ledger>,
    /// Everything up to here is known.
    at: Option<u64>,
}

/// Watches until `shutdown`.
pub async fn watch(client: kube::Client, ledger: Arc<Ledger>, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut witness = Witness { client, ledger, at: None };
    while !shutdown.is_requested() {
        // Cancel-safe: at the end nothing more is looked at; a round that broke is begun anew.
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            _ = witness.round() => tokio::time::sleep(AGAIN).await,
        }
    }
    Ok(())
}

fn key(meta: &Meta) -> Arc<str> {
    format!("/registry/pods/{}/{}", meta.namespace, meta.name).into()
}

impl Witness {
    async fn round(&mut self) -> anyhow::Result<()> {
        let at = match self.at {
            Some(at) => at,
            None => self.list().await?,
        };
        let path = format!("{PODS}?watch=true&allowWatchBookmarks=true&resourceVersion={at}");
        let opened = self.client.request_stream(Request::get(path).body(Vec::new())?).await;
        if opened.as_ref().is_err_and(|error| matches!(error, kube::Error::Api(status) if status.code == 410))
        {
            self.at = None;
        }
        let mut stream = Box::pin(opened?);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).await? > 0 {
            self.told(serde_json::from_slice(&line)?);
            line.clear();
        }
        Ok(())
    }

    async fn list(&mut self) -> anyhow::Result<u64> {
        let list: List = call::get(&self.client, PODS).await?;
        let at = list.metadata.resource_version.parse()?;
        let told: BTreeMap<Arc<str>, u64> = list
            .items
            .iter()
            .map(|one| (key(&one.metadata), one.metadata.resource_version.parse().unwrap_or(0)))
            .collect();
        let are = self.ledger.pods_at(at);
        if told != are {
            self.ledger.blame(format!("a list at revision {at} says {told:?}, and there are {are:?}"));
        }
        self.at = Some(at);
        Ok(at)
    }

    fn told(&mut self, event: Event) {
        let Some(at) = self.at else { return };
        if event.kind == "ERROR" {
            if event.object.code == 410 {
                self.at = None;
            }
            return;
        }
        let meta = &event.object.metadata;
        let Ok(revision) = meta.resource_version.parse::<u64>() else {
            return self.ledger.blame(format!("an event has the revision {:?}", meta.resource_version));
        };
        let left_out = self.ledger.moves_after(at).into_iter().find(|one| one.revision <= revision);
        self.at = Some(revision.max(at));
        let of_event =
            |one: &Moved| one.revision == revision && *one.kind == event.kind && one.key == key(meta);
        let what = match (&*event.kind, left_out) {
            ("BOOKMARK", None) => return,
            ("BOOKMARK", Some(one)) => format!("a bookmark at {revision} leaves out {one:?}"),
            (_, Some(one)) if of_event(&one) => return,
            (kind, one) => format!("told {kind} {} at {revision}, and after {at} comes {one:?}", key(meta)),
        };
        self.ledger.blame(what);
    }
}
