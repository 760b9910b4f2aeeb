//! Cuts of the power at any moment, over a disk that keeps or loses each write that was not synced.

use super::*;
use proptest::prelude::*;
use redb::StorageBackend;
use std::io;
use std::sync::Mutex;

const QUOTA: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A disk that remembers every step.
#[derive(Debug, Default)]
struct Disk {
    now: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct Backend(Arc<Mutex<Disk>>);

impl Backend {
    fn step(&self, step: Step) {
        let mut disk = self.0.lock().unwrap();
        apply(&mut disk.now, &step);
        disk.steps.push(step);
    }

    fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().steps.clone()
    }
}

fn apply(disk: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let offset = *offset as usize;
            if disk.len() < offset + data.len() {
                disk.resize(offset + data.len(), 0);
            }
            disk[offset..offset + data.len()].copy_from_slice(data);
        }
        Step::Length(length) => disk.resize(*length as usize, 0),
        Step::Sync => {}
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let offset = offset as usize;
        let bytes = disk.now.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.step(Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(Step::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// The disk after a cut: everything up to the last sync, and of what came later what `kept` says; the last write is torn.
fn after_cut(steps: &[Step], cut: usize, kept: &[bool]) -> Backend {
    let synced = steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut now = Vec::new();
    steps[..synced].iter().for_each(|step| apply(&mut now, step));
    for (number, step) in steps[synced..cut].iter().enumerate() {
        match step {
            // A file's length is kept by the journal of its file system.
            Step::Length(_) => apply(&mut now, step),
            Step::Write(offset, data) if kept[number % kept.len()] => {
                let torn = if synced + number + 1 == cut { data.len() / 2 } else { data.len() };
                apply(&mut now, &Step::Write(*offset, data[..torn].to_vec()));
            }
            _ => {}
        }
    }
    Backend(Arc::new(Mutex::new(Disk { now, steps: Vec::new() })))
}

fn open(backend: Backend) -> Embedded {
    let database = builder().create_with_backend(backend).unwrap();
    Embedded::over(database, "test".into(), QUOTA).unwrap()
}

type Contents = BTreeMap<String, (u64, Bytes)>;

async fn contents(store: &Embedded) -> (u64, Contents) {
    let all = store.list("/").await.unwrap();
    let records = all.records.into_iter();
    (all.revision.0, records.map(|one| (one.key.to_string(), (one.revision.0, one.value))).collect())
}

#[derive(Debug, Clone)]
enum Act {
    Put(u8, u16),
    Delete(u8),
    Compact(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..6u8, 0..3000u16).prop_map(|(key, size)| Act::Put(key, size)),
        2 => (0..6u8).prop_map(Act::Delete),
        1 => (0..8u8).prop_map(Act::Compact),
    ]
}

/// Acts on a new store. Gives the disk's steps, the contents at each revision, and by acknowledged revision the number
/// of steps that were done by then.
async fn history(acts: &[Act]) -> (Vec<Step>, Vec<Contents>, Vec<(u64, usize)>) {
    let backend = Backend::default();
    let store = open(backend.clone());
    let mut states = vec![Contents::new()];
    let mut acknowledged = vec![(0, backend.steps().len())];
    for act in acts {
        let mut state = states.last().unwrap().clone();
        let revision = match act {
            Act::Put(key, size) => {
                let (key, value) = (format!("/{key}"), Bytes::from(vec![b'v'; *size as usize]));
                let expect =
                    state.get(&key).map_or(Expect::Absent, |(revision, _)| Expect::At(Revision(*revision)));
                let revision = store.put(&key, value.clone(), expect, None).await.unwrap();
                state.insert(key, (revision.0, value));
                revision
            }
            Act::Delete(key) => {
                let Some((at, _)) = state.remove(&format!("/{key}")) else { continue };
                store.delete(&format!("/{key}"), Revision(at)).await.unwrap()
            }
            Act::Compact(back) => {
                let now = states.len() as u64 - 1;
                store.compact(Revision(now.saturating_sub(u64::from(*back)))).await.unwrap();
                continue;
            }
        };
        assert_eq!(revision.0, states.len() as u64);
        states.push(state);
        acknowledged.push((revision.0, backend.steps().len()));
    }
    (backend.steps(), states, acknowledged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_acknowledged_survives_a_cut_at_any_step(
        acts in proptest::collection::vec(act(), 1..40),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec(any::<bool>(), 1..16)), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (steps, states, acknowledged) = history(&acts).await;
            let first = acknowledged[0].1;
            for (cut, kept) in cuts {
                let cut = first + cut.index(steps.len() - first + 1);
                let store = open(after_cut(&steps, cut, &kept));
                let (revision, found) = contents(&store).await;
                let least = acknowledged.iter().rfind(|(_, done)| *done <= cut).unwrap().0;
                assert!(revision >= least, "{revision} came back, {least} was acknowledged");
                assert_eq!(found, states[revision as usize], "at {revision}");
                // It goes on from there.
                let next = store.put("/next", Bytes::new(), Expect::Absent, None).await.unwrap();
                assert_eq!(next.0, revision + 1);
            }
        });
    }
}
