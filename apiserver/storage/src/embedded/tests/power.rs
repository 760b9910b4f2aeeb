//! Cuts of the power after every step of the disk.

use super::disk::{Replay, Step, Unsynced};
use super::*;
use proptest::prelude::*;

/// A store's life: the disk's steps, what should be there, and what was acknowledged after how many steps.
struct History {
    steps: Vec<Step>,
    model: Model,
    /// After so many steps: the last revision, up to where it was compacted, and the last revision then.
    acknowledged: Vec<(usize, u64, (u64, u64))>,
    /// Up to where a compaction was asked for, after so many steps.
    asked: Vec<(usize, u64)>,
}

/// Does it on a new store; on a disk that lies from then on, nothing is synced after the creation.
async fn live(acts: &[Act], lies: bool) -> History {
    let disk = Disk::default();
    let store = create(&disk);
    if lies {
        disk.lie();
    }
    let (mut model, mut compacted) = (Model::new(), (0, 0));
    let mut acknowledged = vec![(disk.done(), 0, (0, 0))];
    let mut asked = vec![(0, 0)];
    for act in acts {
        match act {
            Act::Put(key, size) => {
                let key = format!("/{key}");
                let value = value(&key, model.revision() + 1, *size);
                store.put(&key, value.clone(), model.expect(&key), None).await.unwrap();
                model.change(&key, Some(value));
            }
            Act::Delete(key) => {
                let key = format!("/{key}");
                let Expect::At(revision) = model.expect(&key) else { continue };
                store.delete(&key, revision).await.unwrap();
                model.change(&key, None);
            }
            Act::Together(count) => {
                let keys: Vec<String> = (0..*count).map(|number| format!("/{number}")).collect();
                let first = model.clone();
                let writes = keys.iter().enumerate().map(|(number, key)| {
                    let value = value(key, first.revision() + 1 + number as u64, 50);
                    store.put(key, value, first.expect(key), None)
                });
                let revisions = futures::future::join_all(writes).await;
                for (key, revision) in keys.iter().zip(revisions) {
                    let revision = revision.unwrap().0;
                    assert_eq!(revision, model.revision() + 1);
                    model.change(key, Some(value(key, revision, 50)));
                }
            }
            Act::Compact(back) => {
                let before = model.revision().saturating_sub(u64::from(*back));
                asked.push((disk.done(), before.max(compacted.0)));
                store.compact(Revision(before)).await.unwrap();
                compacted = compacted.max((before, model.revision()));
            }
        }
        acknowledged.push((disk.done(), model.revision(), compacted));
    }
    History { steps: disk.steps(), model, acknowledged, asked }
}

impl History {
    /// The first step after the store was there.
    fn first(&self) -> usize {
        self.acknowledged[0].0
    }

    /// What is wrong with the store on a disk whose power was cut after so many steps.
    async fn check(&self, image: Vec<u8>, cut: usize) -> Result<(), String> {
        let store = open(&Disk::holding(image)).map_err(|error| error.to_string())?;
        let (revision, found) = contents(&store).await;
        let acknowledged = self.acknowledged.iter().rfind(|(done, ..)| *done <= cut);
        let (_, least, (compacted, at)) = *acknowledged.ok_or("cut before the store was there")?;
        if revision < least {
            return Err(format!("{revision} came back, {least} was acknowledged"));
        }
        if self.model.states.get(revision as usize) != Some(&found) {
            return Err(format!("the contents at {revision} are others"));
        }
        let asked = self.asked.iter().rfind(|(done, _)| *done <= cut).map_or(0, |(_, asked)| *asked);
        watched(&store, asked.max(compacted).min(revision), revision, &self.model).await?;
        if compacted > 0 && store.watch(Revision(compacted - 1)).await.is_ok() {
            return Err(format!("what was compacted up to {compacted} is told"));
        }
        // What counted then may have been overwritten later.
        let counted = |old: &Revision| self.model.states[at as usize].values().any(|(one, _)| *one == old.0);
        if !store.read(|mvcc| mvcc.superseded(Revision(compacted)).iter().all(counted)) {
            return Err(format!("old values from before {compacted} are there again"));
        }
        let next = store.put("/next", Bytes::new(), Expect::Absent, None).await;
        match next {
            Ok(next) if next.0 == revision + 1 => Ok(()),
            other => Err(format!("it does not go on from {revision}: {other:?}")),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Grows the file, overwrites, deletes, writes at once, compacts.
fn acts() -> Vec<Act> {
    use Act::{Compact, Delete, Put, Together};
    let more = (0..6).map(|number| Put(number, 200_000));
    let acts =
        [Put(0, 10), Put(1, 3000), Put(0, 20), Together(5), Delete(1), Compact(3), Put(1, 0), Delete(0)];
    let last = [Compact(0), Together(3), Delete(2), Put(2, 100), Compact(1), Put(7, 1)];
    acts.into_iter().chain(more).chain(last).collect()
}

#[test]
fn what_was_acknowledged_survives_a_cut_at_every_step() {
    runtime().block_on(async {
        let history = live(&acts(), false).await;
        assert!(history.steps[history.first()..].iter().any(|step| matches!(step, Step::Length(_))));
        let mut replay = Replay::default();
        for (number, step) in history.steps.iter().enumerate() {
            replay.step(step);
            let cut = number + 1;
            let seed = cut as u64;
            for unsynced in
                [Unsynced::Lost, Unsynced::TornAtTheEnd, Unsynced::Chance(seed), Unsynced::Chance(seed << 32)]
            {
                if cut >= history.first()
                    && let Err(problem) = history.check(replay.cut(unsynced), cut).await
                {
                    panic!(
                        "cut after step {cut} of {}, unsynced {unsynced:?}: {problem}",
                        history.steps.len()
                    );
                }
            }
        }
    });
}

/// The same on a disk that only says that it syncs: if this found nothing, the test above would find nothing either.
#[test]
fn a_store_without_its_fsync_is_found_out() {
    runtime().block_on(async {
        let history = live(&acts(), true).await;
        let mut replay = Replay::default();
        let (mut lost, mut torn) = (0, 0);
        for (number, step) in history.steps.iter().enumerate() {
            replay.step(step);
            let cut = number + 1;
            if cut > history.first() && cut.is_multiple_of(7) {
                lost += usize::from(history.check(replay.cut(Unsynced::Lost), cut).await.is_err());
                let chance = Unsynced::Chance(cut as u64);
                torn += usize::from(history.check(replay.cut(chance), cut).await.is_err());
            }
        }
        assert!(lost > 0 && torn > 0, "{lost} losses and {torn} torn files were found");
    });
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..8u8, prop_oneof![9 => 0..5000u32, 1 => 0..400_000u32]).prop_map(|(key, size)| Act::Put(key, size)),
        2 => (0..8u8).prop_map(Act::Delete),
        2 => (2..12u8).prop_map(Act::Together),
        1 => (0..8u8).prop_map(Act::Compact),
    ]
}

/// Few in each run; the nightly one sets more.
fn cases() -> ProptestConfig {
    let wanted = std::env::var("MINIK_STORE_CASES").ok().and_then(|count| count.parse().ok());
    ProptestConfig::with_cases(wanted.unwrap_or(12))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_history_survives_cuts(
        acts in proptest::collection::vec(act(), 1..60),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 12),
    ) {
        runtime().block_on(async {
            let history = live(&acts, false).await;
            let first = history.first();
            for (cut, seed) in cuts {
                let cut = first + cut.index(history.steps.len() - first + 1);
                let mut replay = Replay::default();
                history.steps[..cut].iter().for_each(|step| replay.step(step));
                if let Err(problem) = history.check(replay.cut(Unsynced::Chance(seed)), cut).await {
                    panic!("cut after step {cut}, seed {seed}: {problem}");
                }
            }
        });
    }
}
