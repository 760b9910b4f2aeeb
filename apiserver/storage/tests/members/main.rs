//! Three etcd members whose leader is killed, cut off or stopped again and again, under writes through several stores:
//! every acknowledged write is there, once; every watch tells every write, once and in order.
//!
//! `MINIK_STORE_ETCD_SECONDS` says for how long; each run does each fault at least once.
#![allow(clippy::unwrap_used)]

mod network;

use bytes::Bytes;
use minik_component::{SystemChance, SystemClock};
use minik_storage::{Change, Etcd, Expect, Revision, Storage, StorageError};
use network::{FAULTS, MEMBERS, Members};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Writers of own keys, and writers of one shared key, for each store.
const OWN: usize = 3;
const SHARED: usize = 2;
/// Between two faults; half of it is for getting well.
const PERIOD: Duration = Duration::from_secs(10);
const SECONDS: u64 = 40;

/// What the writers know.
#[derive(Debug, Default)]
struct Known {
    acknowledged: BTreeMap<u64, (String, Bytes)>,
    /// Written or not; nobody knows.
    unknown: Vec<(String, Bytes)>,
    last: Option<Instant>,
    longest: Duration,
}

impl Known {
    fn acknowledge(&mut self, revision: Revision, key: &str, value: &Bytes) {
        let again = self.acknowledged.insert(revision.0, (key.into(), value.clone()));
        assert!(again.is_none(), "revision {revision} was acknowledged twice");
        let now = Instant::now();
        self.longest = self.longest.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
    }
}

struct Writer {
    store: Arc<Etcd>,
    known: Arc<Mutex<Known>>,
    name: String,
    key: String,
    end: watch::Receiver<bool>,
}

impl Writer {
    /// Writes again and again, and looks what is there whenever it does not know.
    async fn run(self) {
        let (mut expect, mut number) = (Expect::Absent, 0);
        while !*self.end.borrow() {
            number += 1;
            let value = Bytes::from(format!("{} {number}", self.name));
            match self.store.put(&self.key, value.clone(), expect, None).await {
                Ok(revision) => {
                    self.known.lock().unwrap().acknowledge(revision, &self.key, &value);
                    expect = Expect::At(revision);
                }
                // Refused: it was not written, and is not written any more.
                Err(StorageError::Conflict(there)) => {
                    expect = there.map_or(Expect::Absent, |record| Expect::At(record.revision));
                }
                Err(StorageError::Unavailable(_)) => {
                    self.known.lock().unwrap().unknown.push((self.key.clone(), value));
                    expect = self.look().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn look(&self) -> Expect {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.store.get(&self.key).await {
                Ok(there) => return there.map_or(Expect::Absent, |record| Expect::At(record.revision)),
                Err(error) => assert!(Instant::now() < until, "no read succeeds: {error}"),
            }
            // bounded: by the time above.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Everything that a watch tells up to a revision, which comes while writers write and for a while after.
async fn follow(
    store: Arc<Etcd>,
    after: Revision,
    mut until: watch::Receiver<Option<Revision>>,
) -> Vec<Change> {
    let mut changes = store.watch(after).await.unwrap();
    let mut told: Vec<Change> = Vec::new();
    loop {
        if let Some(last) = *until.borrow_and_update()
            && told.last().map_or(after, |change| change.revision) >= last
        {
            return told;
        }
        // Cancel-safe: a change that is not received stays in the channel.
        tokio::select! {
            change = changes.recv() => told.push(change.expect("the watch ended").expect("the watch broke off")),
            _ = until.changed() => {}
        }
    }
}

async fn leader(members: &Members) -> usize {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if let Some(leader) = members.leader() {
            return leader;
        }
        // bounded: by the time above.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody leads within 60 s");
}

async fn connect(members: &Members, first: usize) -> Arc<Etcd> {
    let (config, until) = (members.config(first), Instant::now() + Duration::from_secs(30));
    loop {
        let store = Etcd::connect(&config, Arc::new(SystemClock::default()), Arc::new(SystemChance)).await;
        match store {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

async fn scenario(members: &mut Members, seconds: u64) {
    leader(members).await;
    let mut stores = Vec::new();
    for first in MEMBERS {
        stores.push(connect(members, first).await);
    }
    let start = stores[0].revision().await.unwrap();
    let known = Arc::new(Mutex::new(Known::default()));
    let (end, ending) = watch::channel(false);
    let (reach, reaching) = watch::channel(None);
    let (mut writers, mut watchers) = (JoinSet::new(), JoinSet::new());
    for (number, store) in stores.iter().enumerate() {
        watchers.spawn(follow(store.clone(), start, reaching.clone()));
        for writer in 0..OWN + SHARED {
            let name = format!("{number}.{writer}");
            let key = if writer < OWN { format!("/own/{name}") } else { "/shared".into() };
            let writer =
                Writer { store: store.clone(), known: known.clone(), name, key, end: ending.clone() };
            writers.spawn(writer.run());
        }
    }
    torment(members, &known, seconds).await;
    end.send_replace(true);
    while let Some(ended) = tokio::time::timeout(Duration::from_secs(60), writers.join_next()).await.unwrap()
    {
        ended.unwrap();
    }
    let last = stores[0].revision().await.unwrap();
    reach.send_replace(Some(last));
    let mut told = Vec::new();
    while let Some(one) = tokio::time::timeout(Duration::from_secs(60), watchers.join_next()).await.unwrap() {
        told.push(one.unwrap());
    }
    let known = std::mem::take(&mut *known.lock().unwrap());
    check(&known, start, last, &told);
    for store in &stores {
        let mut left: BTreeMap<&str, &Change> = BTreeMap::new();
        left.extend(told[0].iter().map(|change| (&*change.key, change)));
        let all = store.list("/").await.unwrap().records;
        assert_eq!(all.len(), left.len());
        for record in all {
            let change = left[&*record.key];
            assert_eq!((record.revision, Some(record.value)), (change.revision, change.value.clone()));
        }
    }
    println!(
        "{} writes acknowledged, {} unknown, none acknowledged for {:?} at most",
        known.acknowledged.len(),
        known.unknown.len(),
        known.longest
    );
}

/// One fault after another on whoever leads, and sees to it that writes go on with the others.
async fn torment(members: &mut Members, known: &Mutex<Known>, seconds: u64) {
    let begun = Instant::now();
    let count = || known.lock().unwrap().acknowledged.len();
    for round in 0.. {
        if round >= FAULTS.len() && begun.elapsed() + PERIOD > Duration::from_secs(seconds) {
            return;
        }
        let next = begun.elapsed() + PERIOD;
        let (fault, leader) = (FAULTS[round % FAULTS.len()], leader(members).await);
        let before = count();
        members.afflict(leader, fault);
        // bounded: half a period.
        tokio::time::sleep(PERIOD / 2).await;
        let without = more(&count, before).await;
        members.heal(leader, fault);
        // bounded: what is left of the period.
        tokio::time::sleep(next.saturating_sub(begun.elapsed())).await;
        let after = more(&count, before + without).await;
        println!("{fault:?} of {leader}: {without} writes without it, {after} writes after");
    }
}

/// How many more writes there are than `before`; waits for the first of them.
async fn more(count: impl Fn() -> usize, before: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(60);
    while count() == before {
        assert!(Instant::now() < until, "nothing is written for a minute");
        // bounded: by the time above.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    count() - before
}

fn check(known: &Known, start: Revision, last: Revision, told: &[Vec<Change>]) {
    for one in told {
        let revisions: Vec<u64> = one.iter().map(|change| change.revision.0).collect();
        let wanted: Vec<u64> = (start.0 + 1..=last.0).collect();
        let odd = revisions.iter().zip(&wanted).find(|(told, wanted)| told != wanted);
        assert!(odd.is_none() && revisions.len() == wanted.len(), "a gap, or twice: {odd:?}");
        assert_eq!(one, &told[0], "all watches tell the same");
    }
    let mut written: BTreeMap<(&str, &Bytes), Vec<u64>> = BTreeMap::new();
    for change in &told[0] {
        let value = change.value.as_ref().expect("nobody deletes");
        written.entry((&change.key, value)).or_default().push(change.revision.0);
    }
    let mut acknowledged = 0;
    for (revision, (key, value)) in &known.acknowledged {
        assert_eq!(written.get(&(key, value)), Some(&vec![*revision]), "{key} {value:?} of {revision}");
        acknowledged += 1;
    }
    let there = |(key, value): &&(String, Bytes)| written.contains_key(&(key.as_str(), value));
    let shown = known.unknown.iter().filter(there).count();
    assert_eq!(acknowledged + shown, written.len(), "what was written and not asked for, or twice");
    println!("{shown} of {} unknown writes are there", known.unknown.len());
}

#[test]
fn three_members_lose_nothing_while_their_leader_fails() {
    let mut members = Members::start();
    let seconds = std::env::var("MINIK_STORE_ETCD_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(SECONDS);
    // The namespace is held by the value that the scenario changes.
    let hub = members.hub();
    hub.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(scenario(&mut members, seconds));
    })
    .unwrap();
}
