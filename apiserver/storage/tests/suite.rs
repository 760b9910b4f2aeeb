//! One suite over every store.
#![allow(clippy::unwrap_used)]

mod server;

use bytes::Bytes;
use minik_component::{SystemChance, SystemClock};
use minik_storage::{Embedded, Etcd, EtcdConfig, Expect, Memory, Revision, Storage, StorageError};
use server::Server;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const QUOTA: u64 = 1 << 20;

/// Calls a test with each store.
macro_rules! over_every_store {
    ($($test:ident),* $(,)?) => { $(
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory() { super::$test(std::sync::Arc::new(super::Memory::new())).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                let folder = tempfile::tempdir().unwrap();
                super::$test(std::sync::Arc::new(super::embedded(folder.path(), super::QUOTA))).await
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn etcd() {
                let server = super::Server::start().await;
                super::$test(std::sync::Arc::new(super::etcd(&server).await)).await
            }
        }
    )* };
}

over_every_store!(
    writes_demand_what_is_there,
    lists_are_of_one_revision,
    watches_miss_nothing,
    old_revisions_are_forgotten,
    racing_writers_take_turns
);

fn embedded(folder: &Path, quota_bytes: u64) -> Embedded {
    Embedded::open(folder, quota_bytes, Arc::new(SystemClock::default())).unwrap()
}

async fn etcd(server: &Server) -> Etcd {
    let config = EtcdConfig { servers: vec![server.url()], prefix: "/".into(), ..EtcdConfig::default() };
    Etcd::connect(&config, Arc::new(SystemClock::default()), Arc::new(SystemChance)).await.unwrap()
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn writes_demand_what_is_there(store: Arc<dyn Storage>) {
    let first = store.put("/a", value("1"), Expect::Absent, None).await.unwrap();
    match store.put("/a", value("2"), Expect::Absent, None).await {
        Err(StorageError::Conflict(Some(there))) => {
            assert_eq!((there.value, there.revision), (value("1"), first))
        }
        other => panic!("{other:?}"),
    }
    let second = store.put("/a", value("2"), Expect::At(first), None).await.unwrap();
    assert!(second > first);
    assert!(matches!(store.delete("/a", first).await, Err(StorageError::Conflict(Some(_)))));
    store.delete("/a", second).await.unwrap();
    assert!(matches!(store.delete("/a", second).await, Err(StorageError::Conflict(None))));
    assert_eq!(store.get("/a").await.unwrap(), None);
}

async fn lists_are_of_one_revision(store: Arc<dyn Storage>) {
    for key in ["/a/1", "/a/2", "/b/1"] {
        store.put(key, value("x"), Expect::Absent, None).await.unwrap();
    }
    let all = store.list("/a/").await.unwrap();
    let keys: Vec<&str> = all.records.iter().map(|record| &*record.key).collect();
    assert_eq!((keys, all.revision), (vec!["/a/1", "/a/2"], store.revision().await.unwrap()));
}

async fn watches_miss_nothing(store: Arc<dyn Storage>) {
    let start = store.revision().await.unwrap();
    let one = store.put("/a", value("1"), Expect::Absent, None).await.unwrap();
    let mut changes = store.watch(start).await.unwrap();
    let two = store.put("/a", value("2"), Expect::At(one), None).await.unwrap();
    let three = store.delete("/a", two).await.unwrap();
    for (revision, wanted) in [(one, Some("1")), (two, Some("2")), (three, None)] {
        let change = changes.recv().await.unwrap().unwrap();
        assert_eq!((change.revision, change.value), (revision, wanted.map(value)));
    }
}

async fn old_revisions_are_forgotten(store: Arc<dyn Storage>) {
    let one = store.put("/a", value("1"), Expect::Absent, None).await.unwrap();
    let two = store.put("/a", value("2"), Expect::At(one), None).await.unwrap();
    store.compact(two).await.unwrap();
    assert!(matches!(store.watch(Revision(0)).await, Err(StorageError::Compacted { .. })));
    assert!(store.watch(two).await.is_ok());
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, value("2"));
}

#[tokio::test(start_paused = true)]
async fn what_expires_goes() {
    let folder = tempfile::tempdir().unwrap();
    expires(&Memory::new()).await;
    expires(&embedded(folder.path(), QUOTA)).await;
}

async fn expires(store: &dyn Storage) {
    let put = async |key, seconds| {
        store.put(key, value("1"), Expect::Absent, Some(Duration::from_secs(seconds))).await.unwrap()
    };
    let soon = put("/soon", 100).await;
    put("/later", 200).await;
    tokio::time::advance(Duration::from_secs(150)).await;
    store.expire().await.unwrap();
    assert!(store.get("/soon").await.unwrap().is_none() && store.get("/later").await.unwrap().is_some());
    assert!(store.revision().await.unwrap() > soon);
}

async fn racing_writers_take_turns(store: Arc<dyn Storage>) {
    let mut writers = tokio::task::JoinSet::new();
    let start = store.put("/n", value("0"), Expect::Absent, None).await.unwrap();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut won = 0;
            let mut at = start;
            while won < 10 {
                match store.put("/n", value("x"), Expect::At(at), None).await {
                    Ok(revision) => (won, at) = (won + 1, revision),
                    Err(StorageError::Conflict(Some(there))) => at = there.revision,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(store.revision().await.unwrap().0, start.0 + 80);
}

#[tokio::test]
async fn an_embedded_store_is_what_it_was_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let open = || embedded(folder.path(), QUOTA);
    let (kept, revision) = {
        let store = open();
        let one = store.put("/a", value("1"), Expect::Absent, None).await.unwrap();
        let two = store.put("/a", value("2"), Expect::At(one), None).await.unwrap();
        let three = store.put("/b", value("3"), Expect::Absent, None).await.unwrap();
        store.compact(three).await.unwrap();
        let four = store.put("/a", value("4"), Expect::At(two), None).await.unwrap();
        store.delete("/b", three).await.unwrap();
        (four, store.revision().await.unwrap())
    };
    {
        let store = open();
        let all = store.list("/").await.unwrap();
        assert_eq!((all.records.len(), all.revision), (1, revision));
        assert_eq!((all.records[0].value.clone(), all.records[0].revision), (value("4"), kept));
        store.compact(revision).await.unwrap();
        store.delete("/a", kept).await.unwrap();
        store.compact(Revision(revision.0 + 1)).await.unwrap();
    }
    let store = open();
    assert_eq!(store.revision().await.unwrap().0, revision.0 + 1, "an empty store remembers its revision");
}

#[tokio::test]
async fn a_full_store_says_so_and_takes_deletions() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(folder.path(), 1000);
    let first = store.put("/a", Bytes::from(vec![0; 900]), Expect::Absent, None).await.unwrap();
    assert!(matches!(
        store.put("/b", Bytes::from(vec![0; 900]), Expect::Absent, None).await,
        Err(StorageError::QuotaExceeded)
    ));
    let gone = store.delete("/a", first).await.unwrap();
    store.compact(gone).await.unwrap();
    store.put("/b", Bytes::from(vec![0; 900]), Expect::Absent, None).await.unwrap();
}

#[tokio::test]
async fn two_cannot_use_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let _first = embedded(folder.path(), QUOTA);
    let error =
        Embedded::open(folder.path(), QUOTA, Arc::new(SystemClock::default())).err().unwrap().to_string();
    assert!(error.contains("another apiserver"), "{error}");
}

/// The next change, which comes soon.
async fn next(changes: &mut minik_storage::Changes) -> minik_storage::Change {
    let next = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await;
    next.expect("no change within 20 s").expect("the stream ended").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_deletes_what_expires() {
    let server = Server::start().await;
    let store = etcd(&server).await;
    let mut revision = Revision::default();
    for key in ["/soon/1", "/soon/2"] {
        revision = store.put(key, value("1"), Expect::Absent, Some(Duration::from_secs(1))).await.unwrap();
    }
    store.put("/later", value("1"), Expect::Absent, Some(Duration::from_secs(1000))).await.unwrap();
    let mut changes = store.watch(revision).await.unwrap();
    assert_eq!(&*next(&mut changes).await.key, "/later");
    let (one, two) = (next(&mut changes).await, next(&mut changes).await);
    assert_eq!((&*one.key, one.value, &*two.key, two.value), ("/soon/1", None, "/soon/2", None));
    assert_eq!(one.revision, two.revision, "they shared a lease");
    assert!(store.get("/later").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_etcd_outlives_the_server() {
    let mut server = Server::start().await;
    let store = etcd(&server).await;
    let start = store.revision().await.unwrap();
    let mut changes = store.watch(start).await.unwrap();
    let mut at = store.put("/a", value("0"), Expect::Absent, None).await.unwrap();
    assert_eq!(next(&mut changes).await.revision, at);
    for round in 0..3 {
        at = store.put("/a", Bytes::from(format!("before {round}")), Expect::At(at), None).await.unwrap();
        server.restart().await;
        let revision = store.revision().await.unwrap();
        assert_eq!(revision, at, "nothing acknowledged is lost");
        let last = at;
        at = store.put("/a", Bytes::from(format!("after {round}")), Expect::At(at), None).await.unwrap();
        let told = [next(&mut changes).await, next(&mut changes).await];
        assert_eq!(told.map(|change| change.revision), [last, at], "each change once and in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_comes_in_pages_of_one_revision() {
    let server = Server::start().await;
    let store = Arc::new(etcd(&server).await);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..2100 {
        let store = store.clone();
        writes.spawn(async move {
            store.put(&format!("/n/{number:04}"), value("x"), Expect::Absent, None).await.unwrap();
        });
    }
    writes.join_all().await;
    store.put("/o", value("x"), Expect::Absent, None).await.unwrap();
    let all = store.list("/n/").await.unwrap();
    assert_eq!(all.records.len(), 2100);
    assert!(all.records.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(all.revision, store.revision().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_says_so() {
    let server = Server::start_with(&["--quota-backend-bytes", "100000"]).await;
    let store = etcd(&server).await;
    let mut told = None;
    for number in 0..100 {
        let key = format!("/{number}");
        let put = store.put(&key, Bytes::from(vec![0; 20_000]), Expect::Absent, None);
        if let Err(error) = put.await {
            told = Some(error);
            break;
        }
    }
    let told = told.expect("the quota was never reached");
    assert!(matches!(told, StorageError::QuotaExceeded), "{told}");
    assert_eq!(told.to_string(), "etcdserver: mvcc: database space exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listens_there() {
    let config = EtcdConfig { servers: vec!["http://127.0.0.1:1".into()], ..EtcdConfig::default() };
    let error = Etcd::connect(&config, Arc::new(SystemClock::default()), Arc::new(SystemChance)).await.err();
    assert!(matches!(error, Some(StorageError::Unavailable(_))), "{error:?}");
}
