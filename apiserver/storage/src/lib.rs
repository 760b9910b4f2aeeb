//! Storage of the apiserver, and the watch cache above it. Bytes and revisions only: what a value means is told by a
//! caller's [`Describe`].
//!
//! ```text
//!  create, update, delete ──> Storage (compare and swap; durable before it answers) ── watch ──> Cache
//!  get, list, watch       <────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - One revision counts every write of the whole cluster; a key's value bears the revision of its last write.
//! - No write is acknowledged before it is durable, and none is seen by a reader before that.
//! - The cache tells every watcher every event once and in order, or ends the watcher's stream.

mod backup;
mod cache;
pub mod cli;
mod embedded;
mod error;
mod etcd;
mod measured;
mod memory;
mod mvcc;
mod tend;

pub use backup::{BackupError, Export};
pub use cache::{
    Cache, Describe, Event, EventKind, Fields, Header, Item, Memo, Scope, Snapshot, WatchError, Watcher,
    Watching,
};
pub use embedded::{Checked, Embedded, QUOTA_BYTES};
pub use error::StorageError;
pub use etcd::{Etcd, EtcdConfig};
pub use measured::{Label, Measured};
pub use memory::Memory;
pub use tend::{COMPACTION_PERIOD, tend};

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A point in the order of all writes of the cluster; the first write has 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key, such as `/registry/pods/default/web`.
    pub key: Arc<str>,
    /// The bytes.
    pub value: Bytes,
    /// The revision of its last write.
    pub revision: Revision,
}

/// What a write demands of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is there.
    Absent,
    /// What is there was written at this revision.
    At(Revision),
}

/// A change as storage tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// Which key.
    pub key: Arc<str>,
    /// The new value; `None` for a deletion.
    pub value: Option<Bytes>,
}

/// Everything at one revision.
#[derive(Debug, Clone, Default)]
pub struct Everything {
    /// The records by key.
    pub records: Vec<Record>,
    /// The revision.
    pub revision: Revision,
}

/// A stream of changes, in order, without gaps; ends with an error that says why.
pub type Changes = tokio::sync::mpsc::Receiver<Result<Change, StorageError>>;

/// A store of bytes under one revision.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The current value of a key.
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError>;

    /// Everything below a prefix, at one revision.
    async fn list(&self, prefix: &str) -> Result<Everything, StorageError>;

    /// Writes a value; with `ttl` it is deleted some time after that has passed, whatever happens to the time of day.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] with what is there when `expect` does not hold.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError>;

    /// Deletes a key that was last written at `expect`; gives the revision of the deletion.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] with what is there when it does not hold.
    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError>;

    /// The revision of the last write, as no earlier write can be later than this answer.
    async fn revision(&self) -> Result<Revision, StorageError>;

    /// All changes after a revision. Changes of keys that are not ours may be among them, without a value: they move the
    /// revision on. A stream that ends without an error is resumed after the last revision told.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] when they are no longer known.
    async fn watch(&self, after: Revision) -> Result<Changes, StorageError>;

    /// Forgets what was overwritten before a revision.
    async fn compact(&self, before: Revision) -> Result<(), StorageError>;

    /// Everything below a prefix with when it expires, at one revision: for backups, and for moving elsewhere.
    async fn export(&self, prefix: &str) -> Result<Export, StorageError>;

    /// Deletes what has expired; stores that do so themselves have nothing to do.
    async fn expire(&self) -> Result<(), StorageError>;
}
