//! The embedded store over a disk that fails.

mod clocks;
mod disk;
mod faults;
mod power;
#[path = "../../../tests/server/tmpfs.rs"]
mod tmpfs;

use super::restore::fill;
use super::*;
use disk::Disk;
use minik_component::SystemClock;
use std::collections::BTreeMap;

const QUOTA: u64 = 64 << 20;

/// Keys with revisions and values.
type Contents = BTreeMap<String, (u64, Bytes)>;

fn opener(disk: &Disk) -> Opener {
    let disk = disk.clone();
    Box::new(move || Ok(builder().create_with_backend(disk.clone())?))
}

/// A new store on a disk.
fn create(disk: &Disk) -> Embedded {
    fill(&opener(disk)().unwrap(), Export::default(), 0).unwrap();
    open(disk).unwrap()
}

fn open(disk: &Disk) -> Result<Embedded, StorageError> {
    let settings =
        Settings { quota_bytes: QUOTA, pause: Duration::ZERO, clock: Arc::new(SystemClock::default()) };
    Embedded::over(opener(disk), "test".into(), settings)
}

async fn contents(store: &Embedded) -> (u64, Contents) {
    let all = store.list("/").await.unwrap();
    let records = all.records.into_iter();
    (all.revision.0, records.map(|one| (one.key.to_string(), (one.revision.0, one.value))).collect())
}

/// What is done to a store.
#[derive(Debug, Clone)]
enum Act {
    Put(u8, u32),
    Delete(u8),
    /// Up to so many revisions ago.
    Compact(u8),
    /// Keys that are written at once.
    Together(u8),
}

/// The contents at each revision, and what was done at each.
#[derive(Debug, Clone)]
struct Model {
    states: Vec<Contents>,
    changes: Vec<(String, Option<Bytes>)>,
}

impl Model {
    fn new() -> Model {
        Model { states: vec![Contents::new()], changes: vec![] }
    }

    fn revision(&self) -> u64 {
        self.changes.len() as u64
    }

    fn now(&self) -> &Contents {
        self.states.last().unwrap()
    }

    fn expect(&self, key: &str) -> Expect {
        self.now().get(key).map_or(Expect::Absent, |(revision, _)| Expect::At(Revision(*revision)))
    }

    fn change(&mut self, key: &str, value: Option<Bytes>) {
        let mut state = self.now().clone();
        let revision = self.revision() + 1;
        match &value {
            Some(value) => drop(state.insert(key.into(), (revision, value.clone()))),
            None => drop(state.remove(key)),
        }
        self.states.push(state);
        self.changes.push((key.into(), value));
    }
}

/// A value that says of which key and which write it is.
fn value(key: &str, revision: u64, size: u32) -> Bytes {
    let mut value = format!("{key} {revision} ").into_bytes();
    value.resize(value.len() + size as usize, b'v');
    value.into()
}

/// The changes after a revision as the watch tells them: without a gap up to `to`, and as they were.
async fn watched(store: &Embedded, after: u64, to: u64, model: &Model) -> Result<(), String> {
    let mut changes =
        store.watch(Revision(after)).await.map_err(|error| format!("watch after {after}: {error}"))?;
    for revision in after + 1..=to {
        let told =
            changes.try_recv().map_err(|_| format!("revision {revision} is not told after {after}"))?;
        let told = told.map_err(|error| error.to_string())?;
        let (key, value) = &model.changes[revision as usize - 1];
        if (told.revision.0, &*told.key, &told.value) != (revision, key.as_str(), value) {
            return Err(format!("{} of {} is told instead of {revision} of {key}", told.revision, told.key));
        }
    }
    Ok(())
}
