//! Worlds of chance: so many hold, the same seed gives the same trace twice, and planted defects are found again where they
//! were found before. One test, in a process of one thread, which is forked for each world.

use anyhow::{bail, ensure};
use minik_component::{Mistake, Plant};
use minik_sim::world::{self, World};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// These seeds hold. Without optimization a world takes some seconds, so that these are only some; the nightly run lives
/// through thousands.
const HOLD: std::ops::Range<u64> = 0..60;
/// These give the same trace twice; the second time beside other worlds.
const TWICE: std::ops::Range<u64> = 0..3;
/// Where planted defects are found, of those that are within a dozen seeds.
const FOUND: &[(Plant, u64)] = &[
    (Plant::DeploymentsUntold, 4),
    (Plant::ReplicaSetsUntold, 1),
    (Plant::ServicesUntold, 0),
    (Plant::WaitingPodsUntold, 6),
    (Plant::AddressesForgotten, 1),
    (Plant::RetriedUnderNewName, 2),
    (Plant::FailedKeyForgotten, 2),
    (Plant::FailedCreationExpected, 10),
    (Plant::OneStepAtATime, 2),
    (Plant::DeletionUnexpected, 6),
    (Plant::LeavingPodUnseen, 0),
    (Plant::ChangedWhileHeld, 9),
    (Plant::ResumedTooLate, 0),
    (Plant::NothingExpected, 0),
];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_list = std::env::args().any(|word| word == "--list");
    if is_list || !(words.is_empty() || words.iter().any(|word| "worlds".contains(word.as_str()))) {
        return Ok(());
    }
    each_kind_of_mistake_is_planted()?;
    let plain = |seed| World { seed, plant: None };
    let planted: Vec<World> = FOUND.iter().map(|&(plant, seed)| World { seed, plant: Some(plant) }).collect();
    let worlds: Vec<World> = planted.into_iter().chain(HOLD.map(plain)).chain(TWICE.map(plain)).collect();
    let (mut traces, mut wrong, mut found) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    world::each(&worlds, |World { seed, plant }, outcome| {
        match (plant, outcome) {
            (None, Ok(trace)) => {
                let first = *traces.entry(seed).or_insert(trace);
                if first != trace {
                    wrong.push(format!("seed {seed} leaves the trace {first:016x} and then {trace:016x}"));
                }
            }
            (None, Err(error)) => wrong.push(format!("seed {seed}: {error:#}")),
            (Some(plant), Ok(_)) => wrong.push(format!("{plant:?} is not found by seed {seed}")),
            (Some(plant), Err(_)) => drop(found.insert(plant)),
        }
        ControlFlow::Continue(())
    })?;
    println!("{} seeds lived, {} planted defects found", traces.len(), found.len());
    if !wrong.is_empty() {
        bail!("{}\n`cargo run -p minik-sim --example hunt -- SEED 1` repeats one", wrong.join("\n"));
    }
    Ok(())
}

fn each_kind_of_mistake_is_planted() -> anyhow::Result<()> {
    for kind in [Mistake::Crash, Mistake::Unobserved, Mistake::Stale] {
        let of_kind = Plant::ALL.iter().filter(|(_, mistake)| *mistake == kind).count();
        ensure!(of_kind >= 5, "only {of_kind} planted defects are of the kind {kind:?}");
    }
    Ok(())
}
