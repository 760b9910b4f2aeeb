//! The store as the simulation's servers see it: every write is told at once, a server may hear of it late, and may die
//! between two of its writes.

use crate::ledger::Ledger;
use crate::weather::{Doom, Weather};
use async_trait::async_trait;
use bytes::Bytes;
use minik_storage::{
    Change, Changes, Everything, Expect, Export, Memory, Record, Revision, Storage, StorageError,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes that are on their way to a server that lags.
const ON_THEIR_WAY: usize = 16 << 10;

/// One server's way to the store.
pub struct SimStore {
    /// What all servers share.
    pub inner: Arc<Memory>,
    /// Told of each write, in the order of revisions.
    pub ledger: Arc<Ledger>,
    /// Whether the server hears of changes late.
    pub late: Option<Arc<Weather>>,
    /// When the server dies.
    pub doom: Arc<Doom>,
}

impl SimStore {
    /// Returns when another write may be done: never, when the server dies before it.
    async fn may_write(&self) {
        if self.doom.strikes() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Storage for SimStore {
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Everything, StorageError> {
        self.inner.list(prefix).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError> {
        self.may_write().await;
        let revision = self.inner.put(key, value.clone(), expect, ttl).await?;
        self.ledger.note(&Change { revision, key: key.into(), value: Some(value) });
        Ok(revision)
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        self.may_write().await;
        let revision = self.inner.delete(key, expect).await?;
        self.ledger.note(&Change { revision, key: key.into(), value: None });
        Ok(revision)
    }

    async fn revision(&self) -> Result<Revision, StorageError> {
        self.inner.revision().await
    }

    async fn watch(&self, after: Revision) -> Result<Changes, StorageError> {
        let mut changes = self.inner.watch(after).await?;
        let Some(weather) = self.late.clone() else { return Ok(changes) };
        let (late, told) = mpsc::channel(ON_THEIR_WAY);
        // Ends with either end of the stream.
        tokio::spawn(async move {
            while let Some(change) = changes.recv().await {
                weather.lag().await;
                if late.send(change).await.is_err() {
                    return;
                }
            }
        });
        Ok(told)
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.inner.compact(before).await
    }

    async fn export(&self, prefix: &str) -> Result<Export, StorageError> {
        self.inner.export(prefix).await
    }

    async fn expire(&self) -> Result<(), StorageError> {
        let before = self.inner.revision().await?;
        self.inner.expire().await?;
        if self.inner.revision().await? > before {
            let mut gone = self.inner.watch(before).await?;
            while let Ok(change) = gone.try_recv() {
                self.ledger.note(&change?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;
    use crate::weather::Climate;

    #[tokio::test(start_paused = true)]
    async fn the_ledger_hears_of_every_write_even_of_what_expires() {
        let trace = Arc::<Trace>::default();
        let ledger = Arc::new(Ledger::new(trace.clone()));
        let inner = Arc::new(Memory::new());
        let doom = Arc::new(Doom::none(Arc::new(Weather::stormy(Climate::default()))));
        let store = SimStore { inner, ledger: ledger.clone(), late: None, doom };
        let pod = Bytes::from(r#"{"metadata": {"name": "p", "uid": "u"}}"#);
        store.put("/registry/pods/n/p", pod, Expect::Absent, Some(Duration::from_secs(5))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(7)).await;
        store.expire().await.unwrap();
        let kinds: Vec<_> = ledger.moves_after(0).into_iter().map(|one| one.kind).collect();
        assert_eq!(kinds, ["ADDED", "DELETED"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_dies_writes_no_more() {
        let ledger = Arc::new(Ledger::new(Arc::default()));
        let inner = Arc::new(Memory::new());
        let doom = Arc::new(Doom::of(Arc::new(Weather::stormy(Climate::default())), |_| 1));
        let store = SimStore { inner, ledger, late: None, doom: doom.clone() };
        for key in ["/1", "/2", "/3"] {
            store.put(key, Bytes::new(), Expect::Absent, None).await.unwrap();
        }
        let second = store.put("/b", Bytes::new(), Expect::Absent, None);
        let patience = Duration::from_secs(1);
        assert!(tokio::time::timeout(patience, second).await.is_err());
        assert!(store.get("/b").await.unwrap().is_none());
        doom.struck().await;
    }
}
