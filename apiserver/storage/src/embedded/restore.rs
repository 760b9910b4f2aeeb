//! A new store file from an export, and a look through one that is there.

use super::*;
use minik_component::chain;

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
    /// Pages were repaired.
    pub repaired: bool,
}

impl Embedded {
    /// Makes a store file in a folder where there is none. Records keep their revisions; the store's revision is moved on
    /// by `skip`, since clients may have seen later ones than the export knows.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when a store is there or cannot be written.
    pub fn restore(folder: &Path, export: Export, skip: u64) -> Result<(), StorageError> {
        let path = folder.join(FILE);
        let broken = |problem: String| StorageError::Broken { path: path.display().to_string(), problem };
        if path.exists() {
            return Err(broken("there is a store already; move it away first".into()));
        }
        std::fs::create_dir_all(folder)
            .and_then(|()| private(folder))
            .map_err(|error| broken(error.to_string()))?;
        // Complete or not there: a file that was cut off is never taken for a store.
        let partial = folder.join("store.restoring");
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            if partial.exists() {
                std::fs::remove_file(&partial)?;
            }
            fill(&builder().create(&partial)?, export, skip)?;
            std::fs::rename(&partial, &path)?;
            std::fs::File::open(folder)?.sync_all()?;
            Ok(())
        };
        write().map_err(|error| broken(chain(&*error)))
    }

    /// Looks through a store that no server uses: checksums of all pages, and that every record can be read.
    ///
    /// # Errors
    /// [`StorageError::Broken`] when something is wrong.
    pub fn check(folder: &Path) -> Result<Checked, StorageError> {
        let path = folder.join(FILE);
        let broken = |problem: String| StorageError::Broken { path: path.display().to_string(), problem };
        if !path.exists() {
            return Err(broken("there is no store".into()));
        }
        let look = || -> Result<Checked, Box<dyn std::error::Error>> {
            let mut database = builder().open(&path)?;
            let whole = database.check_integrity()?;
            let mut mvcc = Mvcc::new(0);
            load(&database, &mut mvcc)?;
            let all = mvcc.list("");
            Ok(Checked {
                keys: all.records.len() as u64,
                revision: all.revision.0,
                bytes: mvcc.bytes(),
                stale: mvcc.stale().0 as u64,
                repaired: !whole,
            })
        };
        look().map_err(|error| broken(chain(&*error)))
    }
}

fn fill(database: &Database, export: Export, skip: u64) -> Result<(), Box<dyn std::error::Error>> {
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
                table.insert(last, encode(&Write { change, expires_at: *expires_at }).as_slice())?;
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
