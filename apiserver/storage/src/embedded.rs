//! The embedded store: one durable table, revision → record, in a redb file; keys and values in memory.
//!
//! One thread writes. It takes all waiting writes, checks them one after another, puts what holds into one
//! transaction, and answers after its fsync (group commit): readers and writers alike see only what is durable.
//!
//! A record's bytes are: kind (1 put, 2 deletion), expiry (i64, 0 for none), key length (u32), key, value; numbers are
//! little-endian. A format number stands in a second table.

mod restore;

pub use restore::Checked;

use crate::mvcc::{LOG_BYTES, Mvcc, Write};
use crate::{Change, Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");
const FORMAT: u64 = 1;
const FILE: &str = "store.redb";
/// redb's own cache; values are in memory anyway.
const CACHE_BYTES: usize = 8 << 20;
/// Writes that may wait for the thread; a caller beyond them waits in its own task.
const QUEUE: usize = 1024;
/// Writes of one transaction.
const BATCH: usize = 512;
/// Revisions that no longer count, by number and bytes, after which those out of the watches' reach are removed without
/// being asked to: so many that it is seldom, so few that writers do not notice.
const STALE: usize = 20_000;
const STALE_BYTES: u64 = 64 << 20;
/// The default limit of what is kept, as etcd's.
pub const QUOTA_BYTES: u64 = 2 << 30;

type Answer = oneshot::Sender<Result<Revision, StorageError>>;

enum Request {
    Write { key: Arc<str>, value: Option<Bytes>, expect: Expect, expires_at: Option<i64>, answer: Answer },
    Compact { before: Revision, answer: Answer },
}

/// The embedded store.
pub struct Embedded {
    mvcc: Arc<RwLock<Mvcc>>,
    /// `None` once the store is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the store in a folder.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when the file is damaged, of a newer format, or in use by another process.
    pub fn open(folder: &Path, quota_bytes: u64) -> Result<Embedded, StorageError> {
        let path = folder.join(FILE);
        let broken = |problem: String| StorageError::Broken { path: path.display().to_string(), problem };
        std::fs::create_dir_all(folder).map_err(|error| broken(error.to_string()))?;
        private(folder).map_err(|error| broken(error.to_string()))?;
        let database = builder().create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                broken("another apiserver uses it; stop that one first".into())
            }
            error => broken(error.to_string()),
        })?;
        Embedded::over(database, path, quota_bytes)
    }

    fn over(database: Database, path: PathBuf, quota_bytes: u64) -> Result<Embedded, StorageError> {
        let broken = |problem: String| StorageError::Broken { path: path.display().to_string(), problem };
        let mut mvcc = Mvcc::new(LOG_BYTES.min(quota_bytes / 8));
        load(&database, &mut mvcc).map_err(|error| broken(error.to_string()))?;
        let mvcc = Arc::new(RwLock::new(mvcc));
        let (requests, waiting) = mpsc::channel(QUEUE);
        let writer = Writer { path, database, mvcc: mvcc.clone(), quota_bytes, left: Cell::default() };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(waiting));
        let thread = thread.map_err(|error| StorageError::Unavailable(error.to_string()))?;
        Ok(Embedded { mvcc, requests: Some(requests), writer: Some(thread) })
    }

    async fn send(&self, request: impl FnOnce(Answer) -> Request) -> Result<Revision, StorageError> {
        let ended = || StorageError::Unavailable("the store is closed".into());
        let (answer, wait) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests.send(request(answer)).await.map_err(|_| ended())?;
        wait.await.map_err(|_| ended())?
    }

    fn read<T>(&self, read: impl FnOnce(&Mvcc) -> T) -> T {
        read(&self.mvcc.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has ended as well.
            let _ = writer.join();
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

fn load(database: &Database, mvcc: &mut Mvcc) -> Result<(), Box<dyn std::error::Error>> {
    let transaction = database.begin_write()?;
    {
        let mut facts = transaction.open_table(FACTS)?;
        let format = facts.get("format")?.map(|value| value.value());
        match format {
            None => drop(facts.insert("format", FORMAT)?),
            Some(FORMAT) => {}
            Some(other) => return Err(format!("its format is {other}, this minik knows {FORMAT}").into()),
        }
        transaction.open_table(RECORDS)?;
    }
    transaction.commit()?;
    let reading = database.begin_read()?;
    let compacted = reading.open_table(FACTS)?.get("compacted")?.map_or(0, |value| value.value());
    for entry in reading.open_table(RECORDS)?.iter()? {
        let (revision, bytes) = entry?;
        let write = decode(Revision(revision.value()), bytes.value()).ok_or("a record is damaged")?;
        mvcc.apply(write);
    }
    let last = reading.open_table(FACTS)?.get("revision")?.map_or(0, |value| value.value());
    mvcc.reach(Revision(last));
    // Revisions up to there that were overwritten later are still in the table.
    mvcc.forget(Revision(compacted));
    Ok(())
}

fn encode(write: &Write) -> Vec<u8> {
    let Change { key, value, .. } = &write.change;
    let mut bytes = Vec::with_capacity(13 + key.len() + value.as_ref().map_or(0, Bytes::len));
    bytes.push(if value.is_some() { 1 } else { 2 });
    bytes.extend(write.expires_at.unwrap_or(0).to_le_bytes());
    bytes.extend((key.len() as u32).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend(value.as_deref().unwrap_or_default());
    bytes
}

fn decode(revision: Revision, bytes: &[u8]) -> Option<Write> {
    let (kind, rest) = bytes.split_first()?;
    let (expiry, rest) = rest.split_at_checked(8)?;
    let (length, rest) = rest.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let (key, value) = rest.split_at_checked(length)?;
    let expires_at = Some(i64::from_le_bytes(expiry.try_into().ok()?)).filter(|at| *at != 0);
    let value = (*kind == 1).then(|| Bytes::copy_from_slice(value));
    let change = Change { revision, key: std::str::from_utf8(key).ok()?.into(), value };
    Some(Write { change, expires_at })
}

struct Writer {
    path: PathBuf,
    database: Database,
    mvcc: Arc<RwLock<Mvcc>>,
    quota_bytes: u64,
    /// Old revisions that were left when the others were removed unasked, and their bytes.
    left: Cell<(usize, u64)>,
}

/// Writes of a batch that hold, with whom to tell.
#[derive(Default)]
struct Batch {
    writes: Vec<(Write, Answer)>,
    /// The state of the keys that the batch writes: revision and whether it exists.
    heads: BTreeMap<Arc<str>, Record>,
    gone: BTreeSet<Arc<str>>,
    bytes: u64,
}

impl Writer {
    fn run(&self, mut waiting: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        while waiting.blocking_recv_many(&mut requests, BATCH) > 0 {
            self.batch(requests.drain(..));
            self.tidy();
        }
    }

    /// Removes what no longer counts before it fills the store.
    fn tidy(&self) {
        let (oldest, (stale, bytes)) = self.read(|mvcc| (mvcc.oldest(), mvcc.stale()));
        // What is within the watches' reach was left the last time.
        let (left, bytes_left) = self.left.get();
        let most = STALE_BYTES.min(self.quota_bytes / 8);
        if stale < left.saturating_add(STALE) && bytes < bytes_left.saturating_add(most) {
            return;
        }
        if let Err(error) = self.compact(oldest) {
            tracing::error!(%error, path = %self.path.display(), "cannot remove old revisions");
        }
        self.left.set(self.read(Mvcc::stale));
    }

    fn read<T>(&self, read: impl FnOnce(&Mvcc) -> T) -> T {
        read(&self.mvcc.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn batch(&self, requests: impl Iterator<Item = Request>) {
        let mut batch = Batch::default();
        for request in requests {
            match request {
                Request::Write { key, value, expect, expires_at, answer } => {
                    match self.check(&batch, &key, value.as_ref(), expect) {
                        Ok(revision) => {
                            batch.add(Write { change: Change { revision, key, value }, expires_at }, answer)
                        }
                        // A caller that went away needs no answer.
                        Err(error) => drop(answer.send(Err(error))),
                    }
                }
                Request::Compact { before, answer } => {
                    self.finish(std::mem::take(&mut batch));
                    let _ = answer.send(self.compact(before).map_err(|error| self.broken(&*error)));
                }
            }
        }
        self.finish(batch);
    }

    fn check(
        &self,
        batch: &Batch,
        key: &Arc<str>,
        value: Option<&Bytes>,
        expect: Expect,
    ) -> Result<Revision, StorageError> {
        let mvcc = self.mvcc.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = mvcc.bytes() + batch.bytes;
        if value.is_some_and(|value| bytes + (value.len() + key.len()) as u64 > self.quota_bytes) {
            return Err(StorageError::QuotaExceeded);
        }
        match (batch.heads.get(key), batch.gone.contains(key)) {
            (Some(head), _) if expect != Expect::At(head.revision) => {
                return Err(StorageError::Conflict(Some(head.clone())));
            }
            (Some(_), _) => {}
            (None, true) if expect != Expect::Absent => return Err(StorageError::Conflict(None)),
            (None, true) => {}
            (None, false) => mvcc.check(key, expect)?,
        }
        Ok(Revision(mvcc.revision().0 + batch.writes.len() as u64 + 1))
    }

    /// Makes a batch durable, then visible, then answers.
    fn finish(&self, batch: Batch) {
        if batch.writes.is_empty() {
            return;
        }
        let durable = self.commit(&batch.writes);
        if durable.is_ok() {
            let mut mvcc = self.mvcc.write().unwrap_or_else(PoisonError::into_inner);
            for (write, _) in &batch.writes {
                mvcc.apply(write.clone());
            }
        }
        let failed = durable.err().map(|error| self.broken(&*error));
        for (write, answer) in batch.writes {
            // A caller that went away needs no answer.
            let _ = answer.send(failed.clone().map_or(Ok(write.change.revision), Err));
        }
    }

    fn commit(&self, writes: &[(Write, Answer)]) -> Result<(), Box<dyn std::error::Error>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut records = transaction.open_table(RECORDS)?;
            for (write, _) in writes {
                records.insert(write.change.revision.0, encode(write).as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn compact(&self, before: Revision) -> Result<Revision, Box<dyn std::error::Error>> {
        let (superseded, revision, oldest) =
            self.read(|mvcc| (mvcc.superseded(before), mvcc.revision(), mvcc.oldest()));
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut records = transaction.open_table(RECORDS)?;
            for old in superseded {
                records.remove(old.0)?;
            }
            let mut facts = transaction.open_table(FACTS)?;
            facts.insert("compacted", before.min(revision).max(oldest).0)?;
            facts.insert("revision", revision.0)?;
        }
        transaction.commit()?;
        self.mvcc.write().unwrap_or_else(PoisonError::into_inner).compact(before);
        Ok(revision)
    }

    fn broken(&self, error: &dyn std::error::Error) -> StorageError {
        StorageError::Broken { path: self.path.display().to_string(), problem: error.to_string() }
    }
}

impl Batch {
    fn add(&mut self, write: Write, answer: Answer) {
        let Change { revision, key, value } = &write.change;
        self.bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
        match value {
            Some(value) => {
                self.gone.remove(key);
                self.heads.insert(
                    key.clone(),
                    Record { key: key.clone(), value: value.clone(), revision: *revision },
                );
            }
            None => {
                self.heads.remove(key);
                self.gone.insert(key.clone());
            }
        }
        self.writes.push((write, answer));
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError> {
        Ok(self.read(|mvcc| mvcc.get(key)))
    }

    async fn list(&self, prefix: &str) -> Result<Everything, StorageError> {
        Ok(self.read(|mvcc| mvcc.list(prefix)))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        expires_at: Option<i64>,
    ) -> Result<Revision, StorageError> {
        self.send(|answer| Request::Write { key: key.into(), value: Some(value), expect, expires_at, answer })
            .await
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        self.send(|answer| Request::Write {
            key: key.into(),
            value: None,
            expect: Expect::At(expect),
            expires_at: None,
            answer,
        })
        .await
    }

    async fn revision(&self) -> Result<Revision, StorageError> {
        Ok(self.read(Mvcc::revision))
    }

    async fn watch(&self, after: Revision) -> Result<Changes, StorageError> {
        self.mvcc.write().unwrap_or_else(PoisonError::into_inner).watch(after)
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.send(|answer| Request::Compact { before, answer }).await.map(drop)
    }

    async fn export(&self, prefix: &str) -> Result<Export, StorageError> {
        Ok(self.read(|mvcc| mvcc.export(prefix)))
    }

    async fn expire(&self, now: i64) -> Result<(), StorageError> {
        for record in self.read(|mvcc| mvcc.expired(now)) {
            match self.delete(&record.key, record.revision).await {
                // Written anew meanwhile: not expired any more.
                Err(StorageError::Conflict(_)) => {}
                other => other.map(drop)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod crash;
