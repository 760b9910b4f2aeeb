//! The embedded store: one durable table, revision → record, in a redb file; keys and values in memory.
//!
//! One thread writes. It takes all waiting writes, checks them one after another, puts what holds into one
//! transaction, and answers after its fsync (group commit): readers and writers alike see only what is durable.
//!
//! What a disk does: a write that fails (no space, an error of the device) is not acknowledged; the file is opened anew,
//! which tells whether the write is there after all; reads go on from memory, and writes are refused until one succeeds.
//!
//! A record's bytes are: kind (1 put, 2 deletion, 3 a put with its time to live), expiry (i64 Unix seconds, 0 for none),
//! for kind 3 the time to live (u32 seconds), key length (u32), key, value; numbers are little-endian. A format number
//! stands in a second table.

mod record;
mod restore;
mod writer;

pub use restore::Checked;

use crate::mvcc::{Expiry, LOG_BYTES, Mvcc};
use crate::{Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use minik_component::{Clock, chain};
use record::decode;
use redb::{Database, ReadableDatabase, TableDefinition, TableError};
use std::ops::RangeFrom;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use writer::{Request, Writer};

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");
/// The format that is written; 1 had no times to live, and is read.
const FORMAT: u64 = 2;
const FILE: &str = "store.redb";
/// redb's own cache; values are in memory anyway.
const CACHE_BYTES: usize = 8 << 20;
/// Writes that may wait for the thread; a caller beyond them waits in its own task.
const QUEUE: usize = 1024;
/// How long writes are refused after one failed, before one is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// The default limit of what is kept, as etcd's.
pub const QUOTA_BYTES: u64 = 2 << 30;

type Answer = oneshot::Sender<Result<Revision, StorageError>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;
/// Opens the file; again after a failure.
type Opener = Box<dyn Fn() -> Result<Database, Failure> + Send>;

/// The embedded store.
pub struct Embedded {
    mvcc: Arc<RwLock<Mvcc>>,
    clock: Arc<dyn Clock>,
    /// `None` once the store is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the store in a folder.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when the file is damaged, of a newer format, or in use by another process, and when the
    /// disk cannot be written.
    pub fn open(folder: &Path, quota_bytes: u64, clock: Arc<dyn Clock>) -> Result<Embedded, StorageError> {
        let path = folder.join(FILE);
        let broken = |error: std::io::Error| broken(&path, &error);
        if path.exists() {
            private(folder).map_err(broken)?;
        } else {
            Embedded::restore(folder, Export::default(), 0)?;
        }
        let file = path.clone();
        let open = move || Ok(builder().open(&file)?);
        Embedded::over(Box::new(open), path, Settings { quota_bytes, pause: PAUSE, clock })
    }

    fn over(open: Opener, path: PathBuf, settings: Settings) -> Result<Embedded, StorageError> {
        let mut mvcc = Mvcc::new(LOG_BYTES.min(settings.quota_bytes / 8));
        let clock = settings.clock.clone();
        let database = guarded(|| {
            let database = open()?;
            load(&database, &mut mvcc, &*clock)?;
            Ok(database)
        });
        let database = database.map_err(|error| broken(&path, &*error))?;
        let mvcc = Arc::new(RwLock::new(mvcc));
        let (requests, waiting) = mpsc::channel(QUEUE);
        let mut writer = Writer::new(path, open, database, mvcc.clone(), settings);
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(waiting));
        let thread = thread.map_err(|error| StorageError::Unavailable(error.to_string()))?;
        Ok(Embedded { mvcc, clock, requests: Some(requests), writer: Some(thread) })
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

/// What a store is run with.
struct Settings {
    quota_bytes: u64,
    pause: Duration,
    clock: Arc<dyn Clock>,
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn broken(path: &Path, error: &(dyn std::error::Error + 'static)) -> StorageError {
    use redb::DatabaseError::DatabaseAlreadyOpen;
    let problem = match error.downcast_ref() {
        Some(DatabaseAlreadyOpen) => "another apiserver uses it; stop that one first".into(),
        _ => chain(error),
    };
    StorageError::Broken { path: path.display().to_string(), problem }
}

/// A file that was damaged can lead redb into a panic: that is an error as others are.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What a panic left half done is not used again.
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the file is damaged".into()))
}

fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// Reads everything. Writes nothing, unless the format is an older one: a full disk can be read.
fn load(database: &Database, mvcc: &mut Mvcc, clock: &dyn Clock) -> Result<(), Failure> {
    let fact = |name: &str| -> Result<Option<u64>, Failure> {
        match database.begin_read()?.open_table(FACTS) {
            Ok(facts) => Ok(facts.get(name)?.map(|value| value.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    match fact("format")? {
        Some(FORMAT) => {}
        Some(1) => upgrade(database)?,
        Some(other) => return Err(format!("its format is {other}, this minik knows {FORMAT}").into()),
        None => return Err("it is no store of minik's".into()),
    }
    read(database, 0.., mvcc, clock)?;
    mvcc.reach(Revision(fact("revision")?.unwrap_or(0)));
    // Revisions up to there that were overwritten later are still in the table.
    mvcc.forget(Revision(fact("compacted")?.unwrap_or(0)));
    Ok(())
}

/// Reads the records of some revisions.
fn read(
    database: &Database,
    revisions: RangeFrom<u64>,
    mvcc: &mut Mvcc,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    for entry in database.begin_read()?.open_table(RECORDS)?.range(revisions)? {
        let (revision, bytes) = entry?;
        let write = decode(Revision(revision.value()), bytes.value(), clock).ok_or("a record is damaged")?;
        mvcc.apply(write);
    }
    Ok(())
}

fn upgrade(database: &Database) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(FACTS)?.insert("format", FORMAT)?;
    Ok(transaction.commit()?)
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
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError> {
        let expiry = ttl.map(|ttl| Expiry::after(ttl, &*self.clock));
        self.send(|answer| Request::Write { key: key.into(), value: Some(value), expect, expiry, answer })
            .await
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        self.send(|answer| Request::Write {
            key: key.into(),
            value: None,
            expect: Expect::At(expect),
            expiry: None,
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
        Ok(self.read(|mvcc| mvcc.export(prefix, &*self.clock)))
    }

    async fn expire(&self) -> Result<(), StorageError> {
        for record in self.read(|mvcc| mvcc.expired(self.clock.elapsed())) {
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
mod tests;
