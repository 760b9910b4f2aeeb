//! The thread that writes: group commit, compaction, and what to do about a disk that fails.

use super::record::encode;
use super::{Answer, FACTS, Failure, Opener, RECORDS, Settings, guarded, read};
use crate::mvcc::{Expiry, Mvcc, Write};
use crate::{Change, Expect, Record, Revision, StorageError};
use bytes::Bytes;
use minik_component::chain;
use redb::{Database, WriteTransaction};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Writes of one transaction.
const BATCH: usize = 512;
/// The part of the last commit's time that is waited for others who write as well.
const PATIENCE: u32 = 8;
/// How long the writer looks away meanwhile: short beside a commit, long beside what waking up costs.
const GLANCE: Duration = Duration::from_micros(20);
/// Revisions that no longer count, by number and bytes, after which those out of the watches' reach are removed without
/// being asked to: so many that it is seldom, so few that writers do not notice.
const STALE: usize = 20_000;
const STALE_BYTES: u64 = 64 << 20;

pub(super) enum Request {
    Write { key: Arc<str>, value: Option<Bytes>, expect: Expect, expiry: Option<Expiry>, answer: Answer },
    Compact { before: Revision, answer: Answer },
}

pub(super) struct Writer {
    path: PathBuf,
    open: Opener,
    /// `None` after a failure, until the file could be opened again.
    database: Option<Database>,
    /// Why writes are refused, and until when none is tried.
    refusal: Option<(StorageError, Instant)>,
    mvcc: Arc<RwLock<Mvcc>>,
    settings: Settings,
    /// Old revisions that were left when the others were removed unasked, and their bytes.
    left: (usize, u64),
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

/// Waits for as many writes as were answered the last time: whoever was answered is likely to write again at once, and the
/// first of them alone would cost a commit as all of them do.
fn gather(
    waiting: &mut mpsc::Receiver<Request>,
    requests: &mut Vec<Request>,
    wanted: usize,
    patience: Duration,
) {
    let begun = Instant::now();
    while requests.len() + waiting.len() < wanted && begun.elapsed() < patience {
        std::thread::sleep(GLANCE);
    }
    while requests.len() < BATCH
        && let Ok(request) = waiting.try_recv()
    {
        requests.push(request);
    }
}

impl Writer {
    pub fn new(
        path: PathBuf,
        open: Opener,
        database: Database,
        mvcc: Arc<RwLock<Mvcc>>,
        settings: Settings,
    ) -> Writer {
        Writer { path, open, database: Some(database), refusal: None, mvcc, settings, left: (0, 0) }
    }

    pub fn run(&mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        let (mut last, mut took) = (0, Duration::ZERO);
        while waiting.blocking_recv_many(&mut requests, BATCH) > 0 {
            gather(&mut waiting, &mut requests, last, took / PATIENCE);
            last = requests.len();
            let begun = Instant::now();
            match self.ready() {
                Ok(()) => self.batch(requests.drain(..)),
                Err(error) => requests.drain(..).for_each(|request| request.refuse(error.clone())),
            }
            took = begun.elapsed();
            self.tidy();
        }
    }

    /// Removes what no longer counts before it fills the store.
    fn tidy(&mut self) {
        let (oldest, (stale, bytes)) = self.read(|mvcc| (mvcc.oldest(), mvcc.stale()));
        // What is within the watches' reach was left the last time.
        let (left, bytes_left) = self.left;
        let most = STALE_BYTES.min(self.settings.quota_bytes / 8);
        if stale < left.saturating_add(STALE) && bytes < bytes_left.saturating_add(most) {
            return;
        }
        // What failed was said; it is done the next time.
        let _ = self.compact(oldest);
        self.left = self.read(Mvcc::stale);
    }

    fn read<T>(&self, read: impl FnOnce(&Mvcc) -> T) -> T {
        read(&self.mvcc.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn batch(&mut self, requests: impl Iterator<Item = Request>) {
        let mut batch = Batch::default();
        for request in requests {
            match request {
                Request::Write { key, value, expect, expiry, answer } => {
                    match self.check(&batch, &key, value.as_ref(), expect) {
                        Ok(revision) => {
                            batch.add(Write { change: Change { revision, key, value }, expiry }, answer)
                        }
                        // A caller that went away needs no answer.
                        Err(error) => drop(answer.send(Err(error))),
                    }
                }
                Request::Compact { before, answer } => {
                    self.finish(std::mem::take(&mut batch));
                    let _ = answer.send(self.compact(before));
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
        if value.is_some_and(|value| bytes + (value.len() + key.len()) as u64 > self.settings.quota_bytes) {
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
    fn finish(&mut self, batch: Batch) {
        let Some(last) = batch.writes.last().map(|(write, _)| write.change.revision) else { return };
        let durable = self.transact(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            for (write, _) in &batch.writes {
                records.insert(write.change.revision.0, encode(write).as_slice())?;
            }
            Ok(())
        });
        let failed = match durable {
            Ok(()) => {
                let mut mvcc = self.mvcc.write().unwrap_or_else(PoisonError::into_inner);
                batch.writes.iter().for_each(|(write, _)| mvcc.apply(write.clone()));
                None
            }
            // It failed, and yet it was there when the file was opened again.
            Err(_) if self.read(Mvcc::revision) >= last => None,
            Err(error) => Some(error),
        };
        for (write, answer) in batch.writes {
            // A caller that went away needs no answer.
            let _ = answer.send(failed.clone().map_or(Ok(write.change.revision), Err));
        }
    }

    fn compact(&mut self, before: Revision) -> Result<Revision, StorageError> {
        let (superseded, revision, oldest) =
            self.read(|mvcc| (mvcc.superseded(before), mvcc.revision(), mvcc.oldest()));
        self.transact(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            for old in superseded {
                records.remove(old.0)?;
            }
            let mut facts = transaction.open_table(FACTS)?;
            facts.insert("compacted", before.min(revision).max(oldest).0)?;
            facts.insert("revision", revision.0)?;
            Ok(())
        })?;
        self.mvcc.write().unwrap_or_else(PoisonError::into_inner).compact(before);
        Ok(revision)
    }

    /// One durable transaction.
    fn transact(
        &mut self,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), Failure>,
    ) -> Result<(), StorageError> {
        let Some(database) = &self.database else { return Err(self.refused()) };
        let committed = guarded(|| {
            let mut transaction = database.begin_write()?;
            // Two phases: what the header points to was durable before, so that a file that is opened after a failed
            // sync shows nothing that may be lost.
            transaction.set_quick_repair(true);
            fill(&transaction)?;
            Ok(transaction.commit()?)
        });
        match committed {
            Ok(()) => {
                if self.refusal.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the store is written again");
                }
                Ok(())
            }
            Err(error) => Err(self.fail(&*error)),
        }
    }

    /// After a failure the state of the file is not known: it is opened anew, and what had become durable is seen.
    fn fail(&mut self, error: &(dyn std::error::Error + 'static)) -> StorageError {
        let error = self.refuse(error);
        self.database = None;
        if let Err(again) = self.reopen() {
            tracing::warn!(error = chain(&*again), "cannot open the store again; trying later");
        }
        error
    }

    /// Whether writes can be tried; opens the file again when it is time.
    fn ready(&mut self) -> Result<(), StorageError> {
        // Time that passed for the machine: it paces attempts, and decides nothing.
        if let Some((error, _)) = self.refusal.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Err(error.clone());
        }
        if self.database.is_some() {
            return Ok(());
        }
        self.reopen().map_err(|error| self.refuse(&*error))
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        let (mvcc, clock) = (self.mvcc.clone(), self.settings.clock.clone());
        let database = guarded(|| {
            let database = (self.open)()?;
            let mut mvcc = mvcc.write().unwrap_or_else(PoisonError::into_inner);
            let next = mvcc.revision().0 + 1;
            read(&database, next.., &mut mvcc, &*clock)?;
            Ok(database)
        })?;
        self.database = Some(database);
        Ok(())
    }

    /// Refuses writes for a while, for this reason.
    fn refuse(&mut self, error: &(dyn std::error::Error + 'static)) -> StorageError {
        let path = self.path.display();
        let problem = chain(error);
        if self.refusal.is_none() {
            tracing::error!(%problem, %path, "the store cannot be written: reads go on, writes are refused");
        }
        let error = StorageError::Unavailable(format!("{path} cannot be written: {problem}"));
        self.refusal = Some((error.clone(), Instant::now() + self.settings.pause));
        error
    }

    fn refused(&self) -> StorageError {
        let why = self.refusal.as_ref().map(|(error, _)| error.clone());
        why.unwrap_or_else(|| StorageError::Unavailable("the store is closed".into()))
    }
}

impl Request {
    fn refuse(self, error: StorageError) {
        let (Request::Write { answer, .. } | Request::Compact { answer, .. }) = self;
        // A caller that went away needs no answer.
        let _ = answer.send(Err(error));
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
