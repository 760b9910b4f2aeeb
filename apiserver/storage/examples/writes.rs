//! Durable writes a second of the embedded store, and its memory for each stored object:
//! `cargo run --release -p minik-storage --example writes [FOLDER]`. Prints one JSON line a figure.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use minik_component::SystemClock;
use minik_storage::{Embedded, Expect, QUOTA_BYTES, Storage};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

const WRITES: usize = 96_000;
const VALUE: usize = 1024;
/// Objects of the measurement of memory, and the bytes of each: about a small Pod's.
const OBJECTS: usize = 20_000;
const OBJECT: usize = 2048;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::args().nth(1).map_or_else(|| temporary.path().to_owned(), Into::into);
    figure("syncs of 4 KiB a second, the disk alone", syncs(&folder));
    let open = |name: &str| {
        let clock = Arc::new(SystemClock::default());
        Arc::new(Embedded::open(&folder.join(name), QUOTA_BYTES, clock).unwrap())
    };
    let store = open("writes");
    for writers in [1, 16, 64, 256] {
        let writes = if writers == 1 { 1000 } else { WRITES };
        figure(
            &format!("durable writes a second, {writers} writers"),
            run(&store, writers, writes / writers).await,
        );
    }
    drop(store);
    let store = open("memory");
    let before = resident();
    fill(&store).await;
    let each = (resident() - before) / OBJECTS as f64;
    figure(&format!("bytes of memory for an object of {OBJECT} bytes, just written"), each);
    drop(store);
    let before = resident();
    let start = Instant::now();
    let store = open("memory");
    figure(
        &format!("milliseconds to open a store of {OBJECTS} objects"),
        start.elapsed().as_secs_f64() * 1000.0,
    );
    let each = (resident() - before) / OBJECTS as f64;
    figure(&format!("bytes of memory for an object of {OBJECT} bytes, after a restart"), each);
    drop(store);
    let start = Instant::now();
    Embedded::check(&folder.join("memory"), &SystemClock::default()).unwrap();
    figure(
        &format!("milliseconds to check a store of {OBJECTS} objects"),
        start.elapsed().as_secs_f64() * 1000.0,
    );
}

fn figure(name: &str, value: f64) {
    println!(r#"{{"figure":"{name}","value":{value:.0}}}"#);
}

/// What the disk can do at most.
fn syncs(folder: &Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("syncs")).unwrap();
    let start = Instant::now();
    for _ in 0..500 {
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    500.0 / start.elapsed().as_secs_f64()
}

/// Each writer makes an object and overwrites it; gives the writes a second.
async fn run(store: &Arc<Embedded>, writers: usize, each: usize) -> f64 {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let value = Bytes::from(vec![b'x'; VALUE]);
            let mut at = Expect::Absent;
            for number in 0..each {
                let key = format!("/registry/things/{writers}/{writer}/{}", number / 8);
                at = if number % 8 == 0 { Expect::Absent } else { at };
                at = Expect::At(store.put(&key, value.clone(), at, None).await.unwrap());
            }
        });
    }
    tasks.join_all().await;
    (writers * each) as f64 / start.elapsed().as_secs_f64()
}

async fn fill(store: &Arc<Embedded>) {
    let mut tasks = JoinSet::new();
    for writer in 0..64 {
        let store = store.clone();
        tasks.spawn(async move {
            for number in (writer..OBJECTS).step_by(64) {
                let key = format!("/registry/pods/default/pod-{number:06}");
                let value = Bytes::from(vec![b'x'; OBJECT]);
                store.put(&key, value, Expect::Absent, None).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// Bytes of this process that are in memory and its own.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}
