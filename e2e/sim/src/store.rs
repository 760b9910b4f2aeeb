//! The store as the simulation sees it: every write is told at once, and a second server hears of it late.

use crate::weather::Weather;
use async_trait::async_trait;
use bytes::Bytes;
use minik_storage::{
    Change, Changes, Everything, Expect, Export, Memory, Record, Revision, Storage, StorageError,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes that are on their way to the server that lags.
const ON_THEIR_WAY: usize = 16 << 10;

/// What is told of each write, in the order of revisions.
pub type Told = Box<dyn Fn(&Change) + Send + Sync>;

/// A store whose writes are told, or whose changes are heard of late.
pub struct SimStore {
    inner: Arc<dyn Storage>,
    told: Option<Told>,
    late: Option<Arc<Weather>>,
}

impl SimStore {
    /// An empty store in memory that tells of its writes.
    pub fn telling(told: Told) -> SimStore {
        SimStore { inner: Arc::new(Memory::new()), told: Some(told), late: None }
    }

    /// The same store for a server that hears of changes late, by this weather.
    pub fn lagging(inner: Arc<dyn Storage>, weather: Arc<Weather>) -> SimStore {
        SimStore { inner, told: None, late: Some(weather) }
    }

    fn tell(&self, key: &str, value: Option<Bytes>, revision: Revision) -> Revision {
        if let Some(told) = &self.told {
            told(&Change { revision, key: key.into(), value });
        }
        revision
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
        let revision = self.inner.put(key, value.clone(), expect, ttl).await?;
        Ok(self.tell(key, Some(value), revision))
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        let revision = self.inner.delete(key, expect).await?;
        Ok(self.tell(key, None, revision))
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
        self.inner.expire().await
    }
}
