//! Durable writes into the embedded store, in this process.

use crate::Flags;
use crate::figures::{Against, Figure, Figures, own_cpu};
use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join_all;
use minik_component::SystemClock;
use minik_storage::{Embedded, Expect, QUOTA_BYTES, Storage};
use std::sync::Arc;
use std::time::Instant;

const WRITERS: usize = 64;
const EACH: usize = 1000;
/// Writes of a single writer, each of which waits for the disk.
const ALONE: usize = 500;
const VALUE: usize = 1024;
/// A writer overwrites its object so often, then makes another.
const OVERWRITTEN: usize = 8;

/// Measures `store`.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut alone, mut many, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..flags.runs {
        let folder = tempfile::tempdir()?;
        let store = Embedded::open(folder.path(), QUOTA_BYTES, Arc::new(SystemClock::default()))?;
        alone.push(write(&store, 1, ALONE).await?);
        let before = own_cpu();
        many.push(write(&store, WRITERS, EACH).await?);
        costs.push((own_cpu() - before).as_secs_f64() * 1e6 / (WRITERS * EACH) as f64);
    }
    figures.tell(Figure::rate("store_writes_alone", "1/s", Against::Disk, alone))?;
    figures.tell(
        Figure::rate("store_writes", "1/s", Against::Disk, many).target(30_000.0).also("writers", WRITERS),
    )?;
    figures.tell(Figure::cost("store_cpu_a_write", "us", Against::Cpu, costs))
}

/// Gives the writes a second.
async fn write(store: &Embedded, writers: usize, each: usize) -> Result<f64> {
    let value = Bytes::from(vec![b'x'; VALUE]);
    let writing = (0..writers).map(|writer| {
        let value = value.clone();
        async move {
            let mut at = Expect::Absent;
            for number in 0..each {
                let key = format!("/registry/things/{writers}/{writer}/{}", number / OVERWRITTEN);
                at = if number % OVERWRITTEN == 0 { Expect::Absent } else { at };
                at = Expect::At(store.put(&key, value.clone(), at, None).await?);
            }
            anyhow::Ok(())
        }
    });
    let began = Instant::now();
    try_join_all(writing).await?;
    Ok((writers * each) as f64 / began.elapsed().as_secs_f64())
}
