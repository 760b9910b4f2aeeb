//! Clocks that jump, and files of an older format.

use super::*;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A time of day that can be set, and time that passes.
#[derive(Debug, Default)]
struct TestClock {
    day: AtomicI64,
    passed: AtomicU64,
}

impl TestClock {
    fn at(day: i64) -> Arc<TestClock> {
        let clock = TestClock::default();
        clock.day.store(day, Ordering::Relaxed);
        Arc::new(clock)
    }

    fn pass(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::Relaxed);
        self.day.fetch_add(seconds as i64, Ordering::Relaxed);
    }

    fn set(&self, day: i64) {
        self.day.store(day, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.day.load(Ordering::Relaxed)).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.passed.load(Ordering::Relaxed))
    }
}

const DAY: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

async fn put(store: &Embedded, key: &str) {
    store.put(key, Bytes::new(), Expect::Absent, Some(Duration::from_secs(60))).await.unwrap();
}

async fn there(store: &Embedded) -> Vec<String> {
    store.expire().await.unwrap();
    contents(store).await.1.into_keys().collect()
}

#[tokio::test]
async fn a_time_of_day_that_jumps_expires_nothing_and_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for jump in [-1000 * HOUR, -HOUR, HOUR, 1000 * HOUR] {
        let clock = TestClock::at(DAY);
        let store = Embedded::open(&folder.path().join(jump.to_string()), QUOTA, clock.clone()).unwrap();
        put(&store, "/before").await;
        clock.pass(30);
        clock.set(DAY + jump);
        put(&store, "/after").await;
        clock.pass(29);
        assert_eq!(there(&store).await, ["/after", "/before"], "{jump}");
        clock.pass(1);
        assert_eq!(there(&store).await, ["/after"], "{jump}");
        let exported = store.export("/").await.unwrap().records;
        assert_eq!(exported[0].1, Some(DAY + jump + 60), "a backup has the time of day");
        clock.pass(30);
        assert!(there(&store).await.is_empty(), "{jump}");
    }
}

#[tokio::test]
async fn what_is_left_of_a_life_counts_after_a_restart_and_is_never_longer() {
    let folder = tempfile::tempdir().unwrap();
    let open = |clock: &Arc<TestClock>| Embedded::open(folder.path(), QUOTA, clock.clone()).unwrap();
    put(&open(&TestClock::at(DAY)), "/a").await;
    let clock = TestClock::at(DAY + 50);
    let store = open(&clock);
    clock.pass(9);
    assert_eq!(there(&store).await, ["/a"]);
    drop(store);
    // A machine whose clock was reset in between: no longer than it was to live in all.
    let clock = TestClock::at(0);
    let store = open(&clock);
    clock.pass(59);
    assert_eq!(there(&store).await, ["/a"]);
    clock.pass(1);
    assert!(there(&store).await.is_empty());
}

#[tokio::test]
async fn a_store_of_the_first_format_is_read_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let database = builder().create(folder.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(FACTS).unwrap().insert("format", 1).unwrap();
    let bytes = [&[1][..], &(DAY + 60).to_le_bytes(), &2u32.to_le_bytes(), b"/ax"].concat();
    transaction.open_table(RECORDS).unwrap().insert(7, &bytes[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let clock = TestClock::at(DAY + 50);
        let store = Embedded::open(folder.path(), QUOTA, clock.clone()).unwrap();
        assert_eq!(contents(&store).await, (7, Contents::from([("/a".into(), (7, "x".into()))])));
    }
    let database = builder().open(folder.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(FACTS).unwrap().insert("format", FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Embedded::open(folder.path(), QUOTA, TestClock::at(DAY)).err().unwrap().to_string();
    assert!(error.ends_with("its format is 3, this minik knows 2"), "{error}");
}
