//! Keys, revisions and history in memory: what the memory and the embedded store have in common.

use crate::{Change, Changes, Everything, Expect, Record, Revision, StorageError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Changes that a watcher may be behind in flight; the one watcher is the cache, which only moves them on.
const WATCH_QUEUE: usize = 16 << 10;

/// A write that was checked and not yet done.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub change: Change,
    pub expires_at: Option<i64>,
}

/// The current records, and the changes since the last compaction.
#[derive(Default)]
pub(crate) struct Mvcc {
    records: BTreeMap<Arc<str>, Record>,
    log: BTreeMap<Revision, Change>,
    expiries: BTreeMap<Arc<str>, i64>,
    by_expiry: BTreeSet<(i64, Arc<str>)>,
    revision: Revision,
    compacted: Revision,
    /// Overwritten since the last compaction, and written before it: no longer in the log.
    stale: BTreeMap<Revision, u64>,
    bytes: u64,
    watchers: Vec<mpsc::Sender<Result<Change, StorageError>>>,
}

impl Mvcc {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Moves the revision on without a write: what wrote up to it was compacted away.
    pub fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// Bytes of everything that is kept, history included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, key: &str) -> Option<Record> {
        self.records.get(key).cloned()
    }

    pub fn list(&self, prefix: &str) -> Everything {
        let from: Arc<str> = prefix.into();
        let records = self
            .records
            .range(from..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, record)| record.clone());
        Everything { records: records.collect(), revision: self.revision }
    }

    /// Checks a write against what is there.
    pub fn check(&self, key: &str, expect: Expect) -> Result<(), StorageError> {
        let there = self.records.get(key);
        let holds = match expect {
            Expect::Absent => there.is_none(),
            Expect::At(revision) => there.is_some_and(|record| record.revision == revision),
        };
        if holds { Ok(()) } else { Err(StorageError::Conflict(there.cloned())) }
    }

    /// Does a write, which bears the next revision, and tells the watchers.
    pub fn apply(&mut self, write: Write) {
        let Write { change, expires_at } = write;
        self.revision = change.revision;
        if let Some(at) = self.expiries.remove(&change.key) {
            self.by_expiry.remove(&(at, change.key.clone()));
        }
        if let Some(old) = self.records.get(&change.key).filter(|old| old.revision <= self.compacted) {
            self.stale.insert(old.revision, size(&old.key, Some(&old.value)));
        }
        match &change.value {
            Some(value) => {
                let record =
                    Record { key: change.key.clone(), value: value.clone(), revision: change.revision };
                self.records.insert(change.key.clone(), record);
                if let Some(at) = expires_at {
                    self.expiries.insert(change.key.clone(), at);
                    self.by_expiry.insert((at, change.key.clone()));
                }
            }
            None => drop(self.records.remove(&change.key)),
        }
        self.bytes += size(&change.key, change.value.as_ref());
        // A watcher that cannot keep up is told by the end of its stream.
        self.watchers.retain(|watcher| watcher.try_send(Ok(change.clone())).is_ok());
        self.log.insert(change.revision, change);
    }

    pub fn watch(&mut self, after: Revision) -> Result<Changes, StorageError> {
        if after < self.compacted {
            return Err(StorageError::Compacted { oldest: self.compacted });
        }
        let missed: Vec<Change> =
            self.log.range(Revision(after.0 + 1)..).map(|(_, change)| change.clone()).collect();
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE.max(missed.len() * 2));
        for change in missed {
            // There is room for all of them.
            let _ = sender.try_send(Ok(change));
        }
        self.watchers.push(sender);
        Ok(receiver)
    }

    /// The changes that compaction makes superfluous: overwritten or deleted at or before the revision.
    pub fn superseded(&self, before: Revision) -> Vec<Revision> {
        let current = |change: &Change| {
            self.records.get(&change.key).is_some_and(|record| record.revision == change.revision)
        };
        let logged =
            self.log.range(..=before).filter(|(_, change)| !current(change)).map(|(revision, _)| *revision);
        self.stale.keys().copied().chain(logged).collect()
    }

    /// Forgets changes up to a revision.
    pub fn compact(&mut self, before: Revision) {
        let before = before.min(self.revision);
        let superseded: BTreeSet<Revision> = self.superseded(before).into_iter().collect();
        let kept = self.log.split_off(&Revision(before.0 + 1));
        let dropped = std::mem::replace(&mut self.log, kept);
        for (revision, change) in dropped {
            if superseded.contains(&revision) {
                self.bytes = self.bytes.saturating_sub(size(&change.key, change.value.as_ref()));
            }
        }
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut self.stale).into_values().sum());
        self.compacted = self.compacted.max(before);
    }

    /// The keys that have expired.
    pub fn expired(&self, now: i64) -> Vec<Record> {
        self.by_expiry.iter().take_while(|(at, _)| *at <= now).filter_map(|(_, key)| self.get(key)).collect()
    }
}

fn size(key: &str, value: Option<&Bytes>) -> u64 {
    (key.len() + value.map_or(0, Bytes::len)) as u64
}
