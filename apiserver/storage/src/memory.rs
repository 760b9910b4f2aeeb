//! A store in memory, for tests and the simulated cluster: no thread, no file.

use crate::mvcc::{LOG_BYTES, Mvcc, Write};
use crate::{Change, Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A store in memory.
pub struct Memory(Mutex<Mvcc>);

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory(Mutex::new(Mvcc::new(LOG_BYTES)))
    }

    fn lock(&self) -> MutexGuard<'_, Mvcc> {
        // Each write is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        expires_at: Option<i64>,
    ) -> Result<Revision, StorageError> {
        self.check(key, expect)?;
        let revision = Revision(self.revision().0 + 1);
        self.apply(Write { change: Change { revision, key: key.into(), value }, expires_at });
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
        expires_at: Option<i64>,
    ) -> Result<Revision, StorageError> {
        self.lock().write(key, Some(value), expect, expires_at)
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
        Ok(self.lock().export(prefix))
    }

    async fn expire(&self, now: i64) -> Result<(), StorageError> {
        let mut mvcc = self.lock();
        for record in mvcc.expired(now) {
            mvcc.write(&record.key, None, Expect::At(record.revision), None)?;
        }
        Ok(())
    }
}
