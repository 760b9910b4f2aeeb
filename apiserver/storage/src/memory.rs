//! A store in memory, for tests and the simulated cluster: no thread, no file.

use crate::mvcc::{Expiry, LOG_BYTES, Mvcc, Write};
use crate::{Change, Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use minik_component::{Clock, SystemClock};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A store in memory. Time is the runtime's: it stands still where a test paused it.
pub struct Memory {
    mvcc: Mutex<Mvcc>,
    clock: SystemClock,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory { mvcc: Mutex::new(Mvcc::new(LOG_BYTES)), clock: SystemClock::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Mvcc> {
        // Each write is complete before anything can panic.
        self.mvcc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Mvcc {
    fn write(
        &mut self,
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
        expiry: Option<Expiry>,
    ) -> Result<Revision, StorageError> {
        self.check(key, expect)?;
        let revision = Revision(self.revision().0 + 1);
        self.apply(Write { change: Change { revision, key: key.into(), value }, expiry });
        Ok(revision)
    }
}

#[async_trait]
impl Storage for Memory {
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError> {
        Ok(self.lock().get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Everything, StorageError> {
        Ok(self.lock().list(prefix))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError> {
        let expiry = ttl.map(|ttl| Expiry::after(ttl, &self.clock));
        self.lock().write(key, Some(value), expect, expiry)
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        self.lock().write(key, None, Expect::At(expect), None)
    }

    async fn revision(&self) -> Result<Revision, StorageError> {
        Ok(self.lock().revision())
    }

    async fn watch(&self, after: Revision) -> Result<Changes, StorageError> {
        self.lock().watch(after)
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.lock().compact(before);
        Ok(())
    }

    async fn export(&self, prefix: &str) -> Result<Export, StorageError> {
        Ok(self.lock().export(prefix, &self.clock))
    }

    async fn expire(&self) -> Result<(), StorageError> {
        let mut mvcc = self.lock();
        for record in mvcc.expired(self.clock.elapsed()) {
            mvcc.write(&record.key, None, Expect::At(record.revision), None)?;
        }
        Ok(())
    }
}
