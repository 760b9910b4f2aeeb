//! One etcd watch that outlives its connections.

use super::errors::translate;
use super::proto::{Client, Event, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{TRY, backoff, count, once, revision_of, signed, unsigned};
use crate::{Change, Changes, Revision, StorageError};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use minik_component::Chance;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Streaming;

/// Changes in flight; who reads moves them on at once, and etcd waits for us beyond them.
const QUEUE: usize = 1024;

/// Why a connection's watch ended.
enum Ended {
    /// Nobody reads any more.
    Unread,
    /// What was to be told next is no longer known.
    Compacted(Revision),
    /// The connection, or the server's mood. Retryable.
    Broken(StorageError),
}

/// A watch from after a revision.
pub(super) struct Watch {
    client: Client,
    prefix: String,
    /// Everything up to here was told.
    told: Revision,
    chance: Arc<dyn Chance>,
    changes: mpsc::Sender<Result<Change, StorageError>>,
}

impl Watch {
    pub fn new(client: Client, prefix: &str, after: Revision, chance: Arc<dyn Chance>) -> (Watch, Changes) {
        let (changes, receiver) = mpsc::channel(QUEUE);
        (Watch { client, prefix: prefix.to_owned(), told: after, chance, changes }, receiver)
    }

    /// Tells changes until nobody reads them or they are no longer known.
    pub async fn run(mut self) {
        let unread = self.changes.clone();
        let mut failures = 0;
        loop {
            let told = self.told;
            // Cancel-safe: what a cancelled connection had not told is told by nobody, as nobody reads.
            let ended = tokio::select! {
                () = unread.closed() => return,
                ended = self.connection() => ended,
            };
            failures = if self.told > told { 0 } else { failures + 1 };
            match ended {
                Ended::Unread => return,
                Ended::Compacted(oldest) => {
                    // Who no longer reads need not know.
                    let _ = self.changes.send(Err(StorageError::Compacted { oldest })).await;
                    return;
                }
                Ended::Broken(error) => {
                    let wait = backoff(failures, &*self.chance);
                    tracing::warn!(%error, after = %self.told, ?wait, "the watch on etcd broke off and is resumed");
                    // Cancel-safe: waiting only.
                    tokio::select! {
                        () = unread.closed() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// The watch over one connection, until it ends.
    async fn connection(&mut self) -> Ended {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(ended) => return ended,
        };
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return broken("the stream ended"),
                Err(status) => return Ended::Broken(translate(&status)),
            };
            if let Err(ended) = self.take(response).await {
                return ended;
            }
        }
    }

    /// Asks for what comes next, and waits until etcd has agreed.
    async fn open(&mut self) -> Result<Streaming<WatchResponse>, Ended> {
        let all = Bytes::from_static(b"\0");
        let start_revision = signed(self.told) + 1;
        let create = WatchCreateRequest { key: all.clone(), range_end: all, start_revision };
        // The stream of requests stays open: its end would end the watch.
        let requests =
            stream::once(std::future::ready(WatchRequest { create: Some(create) })).chain(stream::pending());
        let client = self.client.clone();
        let begin = async {
            let mut stream = client.watch(requests).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = match tokio::time::timeout(TRY, begin).await {
            Ok(Ok((stream, Some(first)))) => (stream, first),
            Ok(Ok((_, None))) => return Err(broken("the stream ended before it began")),
            Ok(Err(status)) => return Err(Ended::Broken(translate(&status))),
            Err(_) => return Err(broken("no answer")),
        };
        let known = first.header.as_ref().map_or(Revision::default(), |header| unsigned(header.revision));
        if known < self.told {
            self.check_not_restored().await?;
        }
        self.take(first).await?;
        Ok(stream)
    }

    /// A member that knows less than was told is behind the others, and tells what follows once it has it; or all were
    /// restored from an older backup, and count some revisions anew, with other contents. A read that a majority answers
    /// tells the two apart.
    async fn check_not_restored(&self) -> Result<(), Ended> {
        let answer = once(self.client.clone().range(count())).await.map_err(Ended::Broken)?;
        let now = revision_of(answer.header).map_err(Ended::Broken)?;
        if now < self.told { Err(Ended::Compacted(now)) } else { Ok(()) }
    }

    async fn take(&mut self, response: WatchResponse) -> Result<(), Ended> {
        if response.compact_revision > 0 {
            return Err(Ended::Compacted(unsigned(response.compact_revision)));
        }
        if response.canceled {
            return Err(broken(&response.cancel_reason));
        }
        // All events of a revision stand in one response.
        let mut last = self.told;
        for event in response.events {
            let Some(change) = self.change(event) else { continue };
            last = change.revision;
            self.changes.send(Ok(change)).await.map_err(|_| Ended::Unread)?;
        }
        self.told = last;
        Ok(())
    }

    fn change(&self, event: Event) -> Option<Change> {
        let pair = event.kv?;
        let revision = unsigned(pair.mod_revision);
        if revision <= self.told {
            return None;
        }
        let key = String::from_utf8_lossy(&pair.key);
        // Of others' keys only the revision is of interest.
        let is_put = event.kind == 0;
        let ours = is_put && key.starts_with(&self.prefix);
        let value = ours.then(|| Bytes::copy_from_slice(&pair.value));
        Some(Change { revision, key: key.into(), value })
    }
}

fn broken(why: &str) -> Ended {
    Ended::Broken(StorageError::Unavailable(why.to_owned()))
}
