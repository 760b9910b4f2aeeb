//! Durable writes a second of the embedded store: `cargo run --release -p minik-storage --example writes [FOLDER]`.
//! Prints one JSON line a figure.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use minik_storage::{Embedded, Expect, QUOTA_BYTES, Storage};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

const WRITERS: usize = 256;
const EACH: usize = 400;
const VALUE: usize = 1024;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::args().nth(1).map_or_else(|| temporary.path().to_owned(), Into::into);
    let store = Arc::new(Embedded::open(&folder, QUOTA_BYTES).unwrap());
    let one = run(&store, 1, 500).await;
    let many = run(&store, WRITERS, EACH).await;
    println!(r#"{{"figure":"durable writes a second, one writer","value":{one:.0}}}"#);
    println!(r#"{{"figure":"durable writes a second, {WRITERS} writers","value":{many:.0}}}"#);
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
