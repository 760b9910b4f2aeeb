//! A store in one file: for backups, and for moving from one store to another.
//!
//! ```text
//!  any store ── export (one revision) ──> frames ──> file ──> read ──> Embedded::restore, or copy to etcd
//! ```
//!
//! A file begins with a line of JSON (format, revision, number of records), has a frame a record in the order of
//! revisions (key length u32, value length u32, revision u64, expiry i64 or 0, key, value; little-endian), and ends with
//! the SHA-256 of everything before: a file that was cut short or changed is refused.

use crate::{Record, Revision, Storage, StorageError};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;

const FORMAT: u32 = 1;
/// Bytes of one chunk that is handed on; a record is never split.
const CHUNK: usize = 256 << 10;
/// Longer keys and values than any store takes: they would be a damaged file.
const LONGEST: usize = 64 << 20;
const FRAME: usize = 24;
const DIGEST: usize = 32;

/// Everything below a prefix at one revision, with what expires when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// The revision.
    pub revision: Revision,
    /// The records, each with its expiry in Unix seconds.
    pub records: Vec<(Record, Option<i64>)>,
}

/// Why a file cannot be restored. Final.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("cannot read the backup")]
    Read(#[from] std::io::Error),
    /// It is none, or was cut short, or changed.
    #[error("this is no complete backup: {0}")]
    Damaged(&'static str),
    /// It was written by a newer minik.
    #[error("the backup has format {0}, this minik knows {FORMAT}")]
    Newer(u32),
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    minik_backup: u32,
    revision: u64,
    records: u64,
}

impl Export {
    /// Sorts by revision: the order in which the records were written.
    #[must_use]
    pub fn in_order(mut self) -> Export {
        self.records
            .sort_by(|(one, _), (other, _)| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
        self
    }

    /// The file, in chunks.
    pub fn frames(self) -> impl Iterator<Item = Bytes> + Send {
        let Export { revision, records } = self.in_order();
        let head = Head { minik_backup: FORMAT, revision: revision.0, records: records.len() as u64 };
        let mut digest = Sha256::new();
        // A head of three numbers is always written.
        let mut chunk = BytesMut::from(serde_json::to_vec(&head).unwrap_or_default().as_slice());
        chunk.put_u8(b'\n');
        let mut records = records.into_iter();
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            while chunk.len() < CHUNK {
                match records.next() {
                    Some((record, expires_at)) => put_frame(&mut chunk, &record, expires_at),
                    None => {
                        digest.update(&chunk);
                        chunk.put_slice(&digest.finalize_reset());
                        ended = true;
                        return Some(chunk.split().freeze());
                    }
                }
            }
            digest.update(&chunk);
            Some(chunk.split().freeze())
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is no complete backup.
    pub fn read(source: impl Read) -> Result<Export, BackupError> {
        let mut source = Hashing { source, digest: Sha256::new() };
        let head = source.line()?;
        let head: Head =
            serde_json::from_slice(&head).map_err(|_| BackupError::Damaged("its first line is another"))?;
        if head.minik_backup != FORMAT {
            return Err(BackupError::Newer(head.minik_backup));
        }
        let mut records = Vec::new();
        for _ in 0..head.records {
            records.push(source.frame()?);
        }
        let digest = source.digest.finalize();
        let mut wanted = [0; DIGEST];
        fill(&mut source.source, &mut wanted)?;
        if digest[..] != wanted {
            return Err(BackupError::Damaged("its checksum is wrong"));
        }
        if source.source.read(&mut [0])? != 0 {
            return Err(BackupError::Damaged("something follows its end"));
        }
        Ok(Export { revision: Revision(head.revision), records })
    }

    /// Writes everything into another store, in the order of revisions, so that of two objects the one that was written
    /// later still has the higher revision; it is `now` in Unix seconds. Nothing may be there.
    ///
    /// # Errors
    /// The store's; [`StorageError::Conflict`] when a key is there.
    pub async fn copy_to(
        self,
        store: &dyn Storage,
        now: i64,
        mut progress: impl FnMut(usize),
    ) -> Result<(), StorageError> {
        for (number, (record, expires_at)) in self.in_order().records.into_iter().enumerate() {
            let ttl =
                expires_at.map(|at| Duration::from_secs(u64::try_from(at.saturating_sub(now)).unwrap_or(0)));
            store.put(&record.key, record.value, crate::Expect::Absent, ttl).await?;
            progress(number + 1);
        }
        Ok(())
    }
}

fn put_frame(chunk: &mut BytesMut, record: &Record, expires_at: Option<i64>) {
    chunk.reserve(FRAME + record.key.len() + record.value.len());
    chunk.put_u32_le(record.key.len() as u32);
    chunk.put_u32_le(record.value.len() as u32);
    chunk.put_u64_le(record.revision.0);
    chunk.put_i64_le(expires_at.unwrap_or(0));
    chunk.put_slice(record.key.as_bytes());
    chunk.put_slice(&record.value);
}

struct Hashing<R> {
    source: R,
    digest: Sha256,
}

impl<R: Read> Hashing<R> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; length];
        fill(&mut self.source, &mut bytes)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<Vec<u8>, BackupError> {
        let mut line = Vec::new();
        while line.len() < 256 {
            match self.take(1)?[0] {
                b'\n' => return Ok(line),
                byte => line.push(byte),
            }
        }
        Err(BackupError::Damaged("its first line is another"))
    }

    fn frame(&mut self) -> Result<(Record, Option<i64>), BackupError> {
        let frame = self.take(FRAME)?;
        let number = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        let (key, value) = (number(0) as usize, number(4) as usize);
        if key > LONGEST || value > LONGEST {
            return Err(BackupError::Damaged("a record is too long"));
        }
        let key = String::from_utf8(self.take(key)?).map_err(|_| BackupError::Damaged("a key is no text"))?;
        let record = Record { key: key.into(), revision: Revision(long(8)), value: self.take(value)?.into() };
        Ok((record, Some(long(16).cast_signed()).filter(|at| *at != 0)))
    }
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> Result<(), BackupError> {
    source.read_exact(bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => BackupError::Damaged("it ends too early"),
        _ => BackupError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn export(records: Vec<(String, Vec<u8>, u64, i64)>) -> Export {
        let records = records.into_iter().map(|(key, value, revision, expiry)| {
            let record = Record { key: key.into(), value: value.into(), revision: Revision(revision) };
            (record, Some(expiry).filter(|at| *at != 0))
        });
        Export { revision: Revision(u64::MAX / 2), records: records.collect() }.in_order()
    }

    fn file(export: Export) -> Vec<u8> {
        export.frames().flatten().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(("[a-z/]{0,20}", proptest::collection::vec(any::<u8>(), 0..200), any::<u64>(), any::<i64>()), 0..20)) {
            let export = export(records);
            prop_assert_eq!(Export::read(&file(export.clone())[..]).unwrap(), export);
        }

        #[test]
        fn a_damaged_file_is_refused(at in any::<prop::sample::Index>(), change in 1u8..) {
            let mut bytes = file(export(vec![("/a".into(), b"{}".to_vec(), 7, 0), ("/b".into(), vec![0; 50], 8, 99)]));
            let at = at.index(bytes.len());
            prop_assert!(Export::read(&bytes[..at]).is_err());
            bytes[at] ^= change;
            prop_assert!(Export::read(&bytes[..]).is_err());
        }
    }

    #[test]
    fn a_large_one_comes_in_chunks() {
        let records = (0..20).map(|number| (format!("/{number}"), vec![0; 100_000], number, 0)).collect();
        let chunks: Vec<Bytes> = export(records).frames().collect();
        assert!(chunks.len() > 5 && chunks.iter().all(|chunk| chunk.len() < CHUNK + 110_000));
    }
}
