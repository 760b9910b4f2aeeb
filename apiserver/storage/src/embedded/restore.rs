//! A new store file from an export, and a look through one that is there.

use super::record::encode;
use super::*;
use crate::Change;
use crate::mvcc::Write;

/// Records of one transaction.
const AT_ONCE: usize = 4096;

/// What a store file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Keys that are there.
    pub keys: u64,
    /// The revision.
    pub revision: u64,
    /// Bytes of keys and values, old revisions included.
    pub bytes: u64,
    /// Revisions that no longer count.
    pub stale: u64,
}

impl Embedded {
    /// Makes a store file in a folder where there is none. Records keep their revisions; the store's revision is moved on
    /// by `skip`, since clients may have seen later ones than the export knows.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when a store is there or cannot be written.
    pub fn restore(folder: &Path, export: Export, skip: u64) -> Result<(), StorageError> {
        let path = folder.join(FILE);
        if path.exists() {
            let problem = "there is a store already; move it away first".into();
            return Err(StorageError::Broken { path: path.display().to_string(), problem });
        }
        // Complete or not there: a file that was cut off is never taken for a store.
        let partial = folder.join("store.restoring");
        let write = || -> Result<(), Failure> {
            std::fs::create_dir_all(folder)?;
            private(folder)?;
            if partial.exists() {
                std::fs::remove_file(&partial)?;
            }
            fill(&builder().create(&partial)?, export, skip)?;
            std::fs::rename(&partial, &path)?;
            for folder in [Some(folder), folder.parent()].into_iter().flatten() {
                sync(folder)?;
            }
            Ok(())
        };
        guarded(write).map_err(|error| broken(&path, &*error))
    }

    /// Looks through a store that no server uses: checksums of all pages, and that every record can be read.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when something is wrong.
    pub fn check(folder: &Path, clock: &dyn Clock) -> Result<Checked, StorageError> {
        let path = folder.join(FILE);
        let look = || -> Result<Checked, Failure> {
            if !path.exists() {
                return Err("there is no store".into());
            }
            let database = builder().set_check_integrity_on_open(true).open(&path)?;
            let mut mvcc = Mvcc::new(0);
            load(&database, &mut mvcc, clock)?;
            Ok(Checked {
                keys: mvcc.list("").records.len() as u64,
                revision: mvcc.revision().0,
                bytes: mvcc.bytes(),
                stale: mvcc.stale().0 as u64,
            })
        };
        guarded(look).map_err(|error| broken(&path, &*error))
    }
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> std::io::Result<()> {
    // What was given as a name alone stands in the current folder.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::File::open(folder)?.sync_all()
}

pub(super) fn fill(database: &Database, export: Export, skip: u64) -> Result<(), Failure> {
    let Export { revision, records } = export.in_order();
    let mut last = 0;
    for part in records.chunks(AT_ONCE) {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (record, expires_at) in part {
                // Keys that etcd wrote in one transaction have one revision; here each has its own.
                last = record.revision.0.max(last + 1);
                let (key, value) = (record.key.clone(), Some(record.value.clone()));
                let change = Change { revision: Revision(last), key, value };
                // How long it was to live in all is not known any more.
                let expiry = expires_at.map(|at| Expiry { ttl: None, at, deadline: Duration::ZERO });
                table.insert(last, encode(&Write { change, expiry }).as_slice())?;
            }
        }
        transaction.commit()?;
    }
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let last = revision.0.max(last) + skip;
        let mut facts = transaction.open_table(FACTS)?;
        facts.insert("format", FORMAT)?;
        facts.insert("revision", last)?;
        // Watches from before begin with a list.
        facts.insert("compacted", last)?;
        transaction.open_table(RECORDS)?;
    }
    transaction.commit()?;
    Ok(())
}
