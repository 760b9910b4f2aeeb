//! `minik storage`: backups, restores, and moves from store to store.
#![allow(clippy::unwrap_used)]

mod server;

use bytes::Bytes;
use clap::Parser;
use minik_component::{Chance, SeededChance, SystemChance, SystemClock};
use minik_storage::cli::{Flags, run};
use minik_storage::{Embedded, Etcd, EtcdConfig, Expect, Export, Revision, Storage, StorageError};
use server::Server;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

/// Runs `minik storage` with these arguments; gives what it printed, or its error's words.
async fn minik(arguments: &[&str]) -> Result<String, String> {
    let line = Line::try_parse_from([&["storage"], arguments].concat()).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(line.flags, &mut out).await.map_err(|error| minik_component::chain(&error))?;
    Ok(String::from_utf8(out).unwrap())
}

async fn etcd(server: &Server) -> Etcd {
    let config =
        EtcdConfig { servers: vec![server.url()], prefix: "/registry/".into(), ..EtcdConfig::default() };
    Etcd::connect(&config, Arc::new(SystemClock::default()), Arc::new(SystemChance)).await.unwrap()
}

const LIFE: Duration = Duration::from_secs(1000);

fn embedded(folder: &Path) -> Embedded {
    Embedded::open(folder, 1 << 30, Arc::new(SystemClock::default())).unwrap()
}

/// A store with some history, the keys in the order of their last writes: c, a, b, and an event that expires.
async fn history(folder: &Path) -> Revision {
    let store = embedded(folder);
    let put = async |key: &str, text: &'static str, expect, ttl| {
        let key = format!("/registry/{key}");
        store.put(&key, Bytes::from_static(text.as_bytes()), expect, ttl).await.unwrap()
    };
    let first = put("a", "1", Expect::Absent, None).await;
    put("c", "2", Expect::Absent, None).await;
    put("a", "3", Expect::At(first), None).await;
    put("b", "4", Expect::Absent, None).await;
    let gone = put("d", "5", Expect::Absent, None).await;
    store.delete("/registry/d", gone).await.unwrap();
    put("events/e", "6", Expect::Absent, Some(LIFE)).await;
    store.compact(Revision(2)).await.unwrap();
    store.revision().await.unwrap()
}

/// Keys and values, in the order of revisions.
fn in_order(export: &Export) -> Vec<(String, Bytes)> {
    let mut records: Vec<_> = export.records.iter().map(|(record, _)| record.clone()).collect();
    records.sort_by_key(|record| record.revision);
    records.into_iter().map(|record| (record.key.to_string(), record.value)).collect()
}

fn wanted() -> Vec<(String, Bytes)> {
    let pairs = [("c", "2"), ("a", "3"), ("b", "4"), ("events/e", "6")];
    pairs.map(|(key, text)| (format!("/registry/{key}"), Bytes::from_static(text.as_bytes()))).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, file, copy) = (path("data"), path("backup"), path("copy"));
    let revision = history(Path::new(&data)).await;
    let told = minik(&["backup", "--data-dir", &data, "--output", &file]).await.unwrap();
    assert!(told.contains(&format!("4 keys at revision {revision}")), "{told}");
    let again = minik(&["backup", "--data-dir", &data, "--output", &file]).await.unwrap_err();
    assert!(again.contains("cannot write"), "{again}");

    minik(&["restore", "--input", &file, "--data-dir", &copy, "--bump-revision", "100"]).await.unwrap();
    let told = minik(&["check", "--data-dir", &copy]).await.unwrap();
    assert!(told.starts_with(&format!("whole: 4 keys at revision {}", revision.0 + 100)), "{told}");
    let before = embedded(Path::new(&data)).export("/").await.unwrap();
    let store = embedded(Path::new(&copy));
    let after = store.export("/").await.unwrap();
    for ((record, expiry), (wanted, wanted_expiry)) in after.records.iter().zip(&before.records) {
        assert_eq!(record, wanted);
        // Counted in whole seconds from two moments.
        assert!(expiry.unwrap_or(0).abs_diff(wanted_expiry.unwrap_or(0)) <= 2);
    }
    assert_eq!(after.records.len(), before.records.len());
    assert!(matches!(store.watch(revision).await, Err(StorageError::Compacted { .. })));
    let next = store.put("/registry/f", Bytes::new(), Expect::Absent, None).await.unwrap();
    assert_eq!(next.0, revision.0 + 101);
    drop(store);
    let there = minik(&["restore", "--input", &file, "--data-dir", &copy]).await.unwrap_err();
    assert!(there.contains("there is a store already"), "{there}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_to_etcd_and_back() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, file, copy, url) = (path("data"), path("backup"), path("copy"), server.url());
    let revision = history(Path::new(&data)).await;
    minik(&["migrate", "--data-dir", &data, "--etcd-servers", &url]).await.unwrap();
    let store = etcd(&server).await;
    let moved = store.export("/registry/").await.unwrap();
    assert_eq!(in_order(&moved), wanted());
    assert!(moved.records.iter().all(|(record, _)| record.revision > revision), "revisions do not go back");
    let expiry =
        moved.records.iter().find(|(record, _)| &*record.key == "/registry/events/e").unwrap().1.unwrap();
    let left = expiry - jiff::Timestamp::now().as_second();
    assert!((left - LIFE.as_secs() as i64).abs() < 100, "{left}");
    assert_eq!(moved.records.iter().filter(|(_, expiry)| expiry.is_some()).count(), 1);
    let twice = minik(&["migrate", "--data-dir", &data, "--etcd-servers", &url]).await.unwrap_err();
    assert!(twice.contains("4 keys in etcd already"), "{twice}");

    minik(&["backup", "--etcd-servers", &url, "--output", &file]).await.unwrap();
    minik(&["restore", "--input", &file, "--data-dir", &copy]).await.unwrap();
    let back = embedded(Path::new(&copy)).export("/").await.unwrap();
    assert_eq!(in_order(&back), wanted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    history(folder.path()).await;
    let data = folder.path().to_str().unwrap();
    assert!(minik(&["check", "--data-dir", data]).await.unwrap().starts_with("whole: 4 keys"));
    let file = folder.path().join("store.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    // The value of `b` is in one page, wherever that is.
    let places: Vec<usize> = bytes
        .windows(13)
        .enumerate()
        .filter(|(_, part)| part.ends_with(b"/registry/b4"))
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 12] = b'5';
    }
    std::fs::write(&file, bytes).unwrap();
    let told = minik(&["check", "--data-dir", data]).await;
    assert!(told.as_ref().is_err_and(|told| told.starts_with("cannot use the store ")), "{told:?}");
    let told = minik(&["check", "--data-dir", "/nonexistent"]).await.unwrap_err();
    assert!(told.contains("there is no store"), "{told}");
}

/// Whatever is damaged: a clear sentence or the right contents, from every command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_anywhere_is_told_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    history(Path::new(&path("data"))).await;
    minik(&["backup", "--data-dir", &path("data"), "--output", &path("backup")]).await.unwrap();
    let [whole, backup] = ["data/store.redb", "backup"].map(|name| std::fs::read(path(name)).unwrap());
    std::fs::create_dir(path("damaged")).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let chance = SeededChance::new(7);
    let (mut found, mut panics) = (0, 0);
    for round in 0..120 {
        let mut bytes = whole.clone();
        match round % 4 {
            // Most of a file is empty: change what is used.
            0 | 1 => bytes[used[chance.below(used.len() as u64) as usize]] ^= 1 << chance.below(8),
            2 => {
                let at = chance.below(bytes.len() as u64) as usize / 512 * 512;
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill_with(|| chance.bits() as u8);
            }
            _ => bytes.truncate(chance.below(bytes.len() as u64) as usize),
        }
        std::fs::write(path("damaged/store.redb"), bytes).unwrap();
        match minik(&["check", "--data-dir", &path("damaged")]).await {
            Ok(told) => assert!(told.starts_with("whole: 4 keys at revision "), "{told}"),
            Err(told) => {
                found += 1;
                panics += usize::from(told.contains("the file is damaged"));
                assert!(told.starts_with("cannot use the store ") && !told.contains('\n'), "{told}");
            }
        }
        let _ = std::fs::remove_file(path("copy"));
        match minik(&["backup", "--data-dir", &path("damaged"), "--output", &path("copy")]).await {
            Ok(told) => {
                let export = Export::read(&std::fs::read(path("copy")).unwrap()[..]).unwrap();
                assert_eq!(in_order(&export), wanted(), "{told}");
            }
            Err(told) => assert!(told.starts_with("cannot use the store "), "{told}"),
        }
        let mut bytes = backup.clone();
        bytes[chance.below(backup.len() as u64) as usize] ^= 1 << chance.below(8);
        std::fs::write(path("bad"), bytes).unwrap();
        let told =
            minik(&["restore", "--input", &path("bad"), "--data-dir", &path("new")]).await.unwrap_err();
        assert!(told.starts_with("cannot restore ") && !Path::new(&path("new")).exists(), "{told}");
    }
    assert!(found > 30, "{found} of 120 damaged files were found");
    assert_eq!(panics, 0, "the file's library panicked");
}
