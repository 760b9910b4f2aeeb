//! Hunts for defects in worlds of chance: `hunt FIRST COUNT [PLANT]` (seeds, and a defect to be found, such as `BoundAgain`);
//! `hunt plants FIRST COUNT [PLANT...]` looks for each planted defect, or for these. `hunt SEED 1` gives the same world each
//! time, with all that happens in it when `RUST_LOG=debug` is set.

use anyhow::{Context, bail, ensure};
use minik_component::Plant;
use minik_sim::world::{self, World};
use std::ops::ControlFlow;

fn main() -> anyhow::Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        minik_component::TelemetryFlags::default().init();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["plants", first, count, ref names @ ..] => plants(first.parse()?, count.parse()?, names),
        [first, count] => hunt(first.parse()?, count.parse()?, None),
        [first, count, plant] => hunt(first.parse()?, count.parse()?, Some(named(plant)?)),
        _ => bail!("usage: hunt FIRST COUNT [PLANT], or hunt plants FIRST COUNT [PLANT...]"),
    }
}

fn named(name: &str) -> anyhow::Result<Plant> {
    let mut all = Plant::ALL.iter().map(|(plant, _)| *plant);
    all.find(|plant| format!("{plant:?}") == name)
        .with_context(|| format!("{name:?} is not planted anywhere"))
}

fn hunt(first: u64, count: u64, plant: Option<Plant>) -> anyhow::Result<()> {
    let mut broken = 0;
    let worlds: Vec<World> = (first..first + count).map(|seed| World { seed, plant }).collect();
    world::each(&worlds, |World { seed, .. }, outcome| {
        match outcome {
            Ok(trace) if count == 1 => println!("seed {seed} leaves the trace {trace:016x}"),
            Ok(_) => {}
            Err(error) => {
                broken += 1;
                println!("seed {seed}: {error:#}");
            }
        }
        ControlFlow::Continue(())
    })?;
    ensure!(broken == 0, "{broken} of {count} seeds are broken");
    println!("{count} seeds hold");
    Ok(())
}

/// A seed of so many that finds each planted defect.
fn plants(first: u64, count: u64, names: &[&str]) -> anyhow::Result<()> {
    let named: Vec<Plant> = names.iter().map(|name| named(name)).collect::<Result<_, _>>()?;
    let mut missed = Vec::new();
    for (plant, mistake) in Plant::ALL {
        if !named.is_empty() && !named.contains(plant) {
            continue;
        }
        let mut found = None;
        let worlds: Vec<World> =
            (first..first + count).map(|seed| World { seed, plant: Some(*plant) }).collect();
        world::each(&worlds, |World { seed, .. }, outcome| match outcome {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                found.get_or_insert((seed, error));
                ControlFlow::Break(())
            }
        })?;
        match found {
            Some((seed, error)) => println!("{plant:?} ({mistake:?}): seed {seed}: {error:#}"),
            None => missed.push(*plant),
        }
    }
    ensure!(missed.is_empty(), "not found within {count} seeds: {missed:?}");
    Ok(())
}
