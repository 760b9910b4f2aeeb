//! Keys, revisions and recent history in memory: what the memory and the embedded store have in common.

use crate::{Change, Changes, Everything, Expect, Export, Record, Revision, StorageError};
use bytes::Bytes;
use minik_component::Clock;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes that a watcher may be behind in flight; the one watcher is the cache, which only moves them on.
const WATCH_QUEUE: usize = 16 << 10;
/// Bytes of past changes in memory. They serve a watch that broke off and comes back at once, or one that begins at the
/// revision of a list; who was away for longer lists again.
pub(crate) const LOG_BYTES: u64 = 16 << 20;

/// When a value goes. What counts is the clock that never goes back, so that a time of day that is set makes nothing
/// expire and nothing live longer; the time of day says what is left of it after a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expiry {
    /// Seconds that it lives in all, where that is known.
    pub ttl: Option<u32>,
    /// The time of day, in Unix seconds.
    pub at: i64,
    /// On the clock that never goes back.
    pub deadline: Duration,
}

impl Expiry {
    pub fn after(ttl: Duration, clock: &dyn Clock) -> Expiry {
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let at = clock.now().as_second().saturating_add(i64::from(seconds));
        Expiry { ttl: Some(seconds), at, deadline: clock.elapsed() + ttl }
    }

    /// Of a value that was written by an earlier process.
    pub fn stored(at: i64, ttl: Option<u32>, clock: &dyn Clock) -> Expiry {
        let left = u64::try_from(at.saturating_sub(clock.now().as_second())).unwrap_or(0);
        // The clock may have been set back meanwhile.
        let left = left.min(ttl.map_or(u64::from(u32::MAX), u64::from));
        Expiry { ttl, at, deadline: clock.elapsed() + Duration::from_secs(left) }
    }
}

/// A write that was checked and not yet done.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub change: Change,
    pub expiry: Option<Expiry>,
}

/// The current records, and the last changes.
pub(crate) struct Mvcc {
    records: BTreeMap<Arc<str>, Record>,
    /// Past changes by revision; all after `oldest`.
    log: VecDeque<Change>,
    log_bytes: u64,
    /// How large the log may be.
    log_limit: u64,
    /// Watches can begin after this revision and later ones.
    oldest: Revision,
    expiries: BTreeMap<Arc<str>, Duration>,
    by_expiry: BTreeSet<(Duration, Arc<str>)>,
    revision: Revision,
    /// Revisions that no longer count, with their sizes: overwritten values, and deletions.
    stale: Vec<(Revision, u64)>,
    stale_bytes: u64,
    /// Of all revisions that were not compacted.
    bytes: u64,
    watchers: Vec<mpsc::Sender<Result<Change, StorageError>>>,
}

impl Mvcc {
    /// An empty one that remembers so many bytes of changes.
    pub fn new(log_limit: u64) -> Mvcc {
        Mvcc {
            records: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            log_limit,
            oldest: Revision::default(),
            expiries: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            revision: Revision::default(),
            stale: Vec::new(),
            stale_bytes: 0,
            bytes: 0,
            watchers: Vec::new(),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Moves the revision on without a write: what wrote up to it was compacted away.
    pub fn reach(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// The oldest revision after which changes are known.
    pub fn oldest(&self) -> Revision {
        self.oldest
    }

    /// Bytes of everything that is kept, history included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many revisions no longer count, and their bytes.
    pub fn stale(&self) -> (usize, u64) {
        (self.stale.len(), self.stale_bytes)
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

    /// The same with what expires when.
    pub fn export(&self, prefix: &str, clock: &dyn Clock) -> Export {
        let Everything { records, revision } = self.list(prefix);
        let (now, elapsed) = (clock.now().as_second(), clock.elapsed());
        let time_of_day = |deadline: &Duration| {
            let left = (deadline.saturating_sub(elapsed) + Duration::from_millis(999)).as_secs();
            now.saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
        };
        let with_expiry = |record: Record| {
            let expires_at = self.expiries.get(&record.key).map(time_of_day);
            (record, expires_at)
        };
        Export { revision, records: records.into_iter().map(with_expiry).collect() }
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
        let Write { change, expiry } = write;
        let Change { revision, key, value } = &change;
        self.revision = *revision;
        let size = size(key, value.as_ref());
        self.bytes += size;
        if let Some(at) = self.expiries.remove(key) {
            self.by_expiry.remove(&(at, key.clone()));
        }
        let before = match value {
            Some(value) => {
                if let Some(Expiry { deadline: at, .. }) = expiry {
                    self.expiries.insert(key.clone(), at);
                    self.by_expiry.insert((at, key.clone()));
                }
                let record = Record { key: key.clone(), value: value.clone(), revision: *revision };
                self.records.insert(key.clone(), record)
            }
            None => {
                self.supersede(*revision, size);
                self.records.remove(key)
            }
        };
        if let Some(before) = before {
            self.supersede(before.revision, self::size(&before.key, Some(&before.value)));
        }
        // A watcher that cannot keep up is told by the end of its stream.
        self.watchers.retain(|watcher| watcher.try_send(Ok(change.clone())).is_ok());
        self.remember(change, size);
    }

    fn supersede(&mut self, revision: Revision, size: u64) {
        self.stale.push((revision, size));
        self.stale_bytes += size;
    }

    fn remember(&mut self, change: Change, size: u64) {
        self.log_bytes += size;
        self.log.push_back(change);
        while self.log_bytes > self.log_limit && self.log.len() > 1 {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.log.pop_front() {
            self.log_bytes -= size(&first.key, first.value.as_ref());
            self.oldest = first.revision;
        }
    }

    pub fn watch(&mut self, after: Revision) -> Result<Changes, StorageError> {
        // A revision that was never written comes from another store, or from before a restore.
        if after < self.oldest || after > self.revision {
            return Err(StorageError::Compacted { oldest: self.oldest });
        }
        let from = self.log.partition_point(|change| change.revision <= after);
        let missed = self.log.range(from..);
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE.max(missed.len() * 2));
        for change in missed {
            // There is room for all of them.
            let _ = sender.try_send(Ok(change.clone()));
        }
        self.watchers.push(sender);
        Ok(receiver)
    }

    /// The revisions up to one that no longer count, sorted.
    pub fn superseded(&self, before: Revision) -> Vec<Revision> {
        let stale = self.stale.iter().map(|(revision, _)| *revision);
        let mut superseded: Vec<Revision> = stale.filter(|revision| *revision <= before).collect();
        superseded.sort_unstable();
        superseded
    }

    /// No longer tells changes up to a revision.
    pub fn forget(&mut self, before: Revision) {
        let before = before.min(self.revision);
        while self.log.front().is_some_and(|first| first.revision <= before) {
            self.forget_first();
        }
        self.oldest = self.oldest.max(before);
    }

    /// The same, and the revisions that no longer count are gone.
    pub fn compact(&mut self, before: Revision) {
        self.forget(before);
        let mut freed = 0;
        self.stale.retain(|(revision, size)| {
            let goes = *revision <= before;
            freed += if goes { *size } else { 0 };
            !goes
        });
        self.stale.shrink_to(1024);
        self.bytes -= freed;
        self.stale_bytes -= freed;
    }

    /// The keys that have expired, on the clock that never goes back.
    pub fn expired(&self, now: Duration) -> Vec<Record> {
        self.by_expiry.iter().take_while(|(at, _)| *at <= now).filter_map(|(_, key)| self.get(key)).collect()
    }
}

fn size(key: &str, value: Option<&Bytes>) -> u64 {
    (key.len() + value.map_or(0, Bytes::len)) as u64
}
