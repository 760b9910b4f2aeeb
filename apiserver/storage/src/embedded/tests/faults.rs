//! Errors of the disk at every operation: EIO once, EIO from then on, and no space.

use super::disk::{EIO, ENOSPC, Fault, Replay, Unsynced};
use super::tmpfs::Tmpfs;
use super::*;

/// A life under a fault: what readers see, and what may come to be seen.
struct Life {
    disk: Disk,
    store: Embedded,
    model: Model,
    /// With writes whose outcome nobody knows: one of them may be there once the file is opened again.
    unknown: Vec<Model>,
    refused: usize,
}

impl Life {
    fn new(fault: Option<Fault>) -> Life {
        let disk = Disk::default();
        let store = create(&disk);
        // Operations are counted from here on.
        let fault = fault.map(|fault| Fault { at: fault.at + disk.operations(), ..fault });
        disk.set_fault(fault);
        Life { disk, store, model: Model::new(), unknown: vec![], refused: 0 }
    }

    /// Reads go on whatever the disk does, and show what was acknowledged or what was unknown.
    async fn look(&mut self) -> Result<(), String> {
        let found = contents(&self.store).await;
        let is_found = |model: &Model| (model.revision(), model.now()) == (found.0, &found.1);
        if is_found(&self.model) {
            return Ok(());
        }
        let shown = self.unknown.drain(..).find(is_found);
        let before = self.model.revision();
        self.model = shown.ok_or_else(|| format!("revision {} is read after {before}", found.0))?;
        Ok(())
    }

    /// Puts or deletes; false when the disk refused it.
    async fn write(&mut self, key: &str, size: Option<u32>) -> Result<bool, String> {
        let value = size.map(|size| value(key, self.model.revision() + 1, size));
        // The second try is after a conflict with a write whose outcome was unknown.
        for _ in 0..2 {
            let result = match (&value, self.model.expect(key)) {
                (Some(value), expect) => self.store.put(key, value.clone(), expect, None).await,
                (None, Expect::At(revision)) => self.store.delete(key, revision).await,
                (None, Expect::Absent) => return Ok(true),
            };
            match result {
                Ok(revision) => {
                    let mut known = std::iter::once(self.model.clone()).chain(self.unknown.drain(..));
                    let before = known.find(|model| model.revision() + 1 == revision.0);
                    drop(known);
                    self.model = before.ok_or_else(|| format!("revision {revision} is given"))?;
                    self.model.change(key, value);
                    self.look().await?;
                    return Ok(true);
                }
                Err(StorageError::Unavailable(problem)) => {
                    if !problem.contains("os error") {
                        return Err(format!("the disk's error is not told: {problem}"));
                    }
                    self.refused += 1;
                    self.look().await?;
                    let mut after = self.model.clone();
                    after.change(key, value);
                    self.unknown.push(after);
                    return Ok(false);
                }
                Err(StorageError::Conflict(_)) => self.look().await?,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("conflicts without end".into())
    }

    /// What comes back when the power is cut now: what readers have seen, or a write whose outcome is unknown.
    async fn cut(&self) -> Result<(), String> {
        let mut replay = Replay::default();
        self.disk.steps().iter().for_each(|step| replay.step(step));
        for unsynced in [Unsynced::Lost, Unsynced::TornAtTheEnd, Unsynced::Chance(1)] {
            let again = open(&Disk::holding(replay.cut(unsynced))).map_err(|error| error.to_string())?;
            let found = contents(&again).await;
            let known = std::iter::once(&self.model).chain(&self.unknown);
            let mut fits = known.filter(|model| (model.revision(), model.now()) == (found.0, &found.1));
            let Some(model) = fits.next() else {
                return Err(format!(
                    "{unsynced:?}: revision {} comes back, {} was seen",
                    found.0,
                    self.model.revision()
                ));
            };
            watched(&again, 0, found.0, model).await?;
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<(), String> {
        let acts = [("/a", Some(10)), ("/b", Some(300_000)), ("/a", Some(20)), ("/c", Some(1)), ("/b", None)];
        let mut healthy = true;
        for (number, (key, size)) in acts.into_iter().enumerate() {
            let written = self.write(key, size).await?;
            if healthy && !written {
                healthy = false;
                self.cut().await?;
            }
            if number == 2 {
                // Compaction below everything: it writes and forgets nothing.
                let _ = self.store.compact(Revision(0)).await;
                self.look().await?;
            }
        }
        // The disk is whole again: writes go on.
        self.disk.set_fault(None);
        let mut tries = 0;
        while !self.write("/d", Some(5)).await? {
            tries += 1;
            if tries == 2 {
                return Err("writes do not go on".into());
            }
        }
        watched(&self.store, 0, self.model.revision(), &self.model).await?;
        self.cut().await
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_any_operation_loses_nothing_and_stops_no_reads() {
    let mut whole = Life::new(None);
    let before = whole.disk.operations();
    whole.run().await.unwrap();
    assert_eq!(whole.refused, 0);
    let operations = whole.disk.operations() - before;
    assert!(operations > 30, "{operations} operations");
    let mut refused = 0;
    for at in 0..operations {
        for (code, lasts) in [(EIO, false), (EIO, true), (ENOSPC, false), (ENOSPC, true)] {
            let fault = Fault { at, code, lasts };
            let mut life = Life::new(Some(fault));
            if let Err(problem) = life.run().await {
                panic!("{fault:?} of {operations}: {problem}");
            }
            refused += life.refused;
        }
    }
    assert!(refused > operations, "{refused} writes were refused");
}

/// The same with a real file on a real disk that is full.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_is_written_again_when_there_is_space() {
    let Some(disk) = Tmpfs::mount("4m") else { return };
    let folder = disk.path().join("data");
    let clock = Arc::new(SystemClock::default());
    let mut store = Embedded::open(&folder, QUOTA, clock.clone()).unwrap();
    let kept = store.put("/kept", value("/kept", 1, 1000), Expect::Absent, None).await.unwrap();
    let ballast = disk.fill();
    let mut written = kept.0;
    let told = loop {
        let key = format!("/{written}");
        match store.put(&key, value(&key, written, 100_000), Expect::Absent, None).await {
            Ok(revision) => written = revision.0,
            Err(error) => break error.to_string(),
        }
        assert!(written < 100, "the disk is never full");
    };
    assert!(
        told.contains("store.redb cannot be written: ") && told.contains("No space left on device"),
        "{told}"
    );
    assert_eq!(contents(&store).await.0, written, "reads go on");
    // A full disk can be started from, too.
    drop(store);
    store = Embedded::open(&folder, QUOTA, clock.clone()).unwrap();
    assert_eq!(contents(&store).await.0, written);
    let told = store.put("/more", value("/more", 1, 200_000), Expect::Absent, None).await.unwrap_err();
    assert!(told.to_string().contains("No space left on device"), "{told}");
    std::fs::remove_file(&ballast).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while store.put("/after", Bytes::new(), Expect::Absent, None).await.is_err() {
        assert!(std::time::Instant::now() < until, "writes do not go on");
        // bounded: by the time above.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(store);
    assert_eq!(contents(&Embedded::open(&folder, QUOTA, clock).unwrap()).await.0, written + 1);
}

#[tokio::test]
async fn a_disk_without_space_or_rights_is_refused_in_one_sentence() {
    let Some(disk) = Tmpfs::mount("4m") else { return };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let folder = disk.path().join("data");
    let ballast = disk.fill();
    let error = Embedded::open(&folder, QUOTA, clock.clone()).err().unwrap().to_string();
    assert!(
        error.starts_with("cannot use the store ") && error.contains("No space left on device"),
        "{error}"
    );
    std::fs::remove_file(ballast).unwrap();
    // Nothing half made is in the way.
    let store = Embedded::open(&folder, QUOTA, clock.clone()).unwrap();
    store.put("/a", Bytes::new(), Expect::Absent, None).await.unwrap();
    drop(store);
    disk.read_only();
    let error = Embedded::open(&folder, QUOTA, clock).err().unwrap().to_string();
    assert!(error.starts_with("cannot use the store ") && error.contains("Read-only file system"), "{error}");
}
