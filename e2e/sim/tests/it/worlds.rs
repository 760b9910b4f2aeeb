//! Worlds of chance: each lived twice leaves the same trace, nothing is broken in any, and planted defects are found. How
//! many there are is what a change can wait for; `examples/hunt.rs` lives through more.

use minik_component::{Mistake, Plant};
use minik_sim::world;

/// Seeds that are lived twice, and that must hold.
const SEEDS: std::ops::Range<u64> = 1..5;

#[test]
fn a_seed_gives_the_same_world_twice() {
    let traces = || world::hunt(SEEDS, None, |_, _| false).into_iter().map(|(_, trace)| trace.unwrap());
    let (first, second): (Vec<u64>, Vec<u64>) = (traces().collect(), traces().collect());
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
}

#[test]
fn each_kind_of_mistake_is_planted() {
    for kind in [Mistake::Crash, Mistake::Unobserved, Mistake::Stale] {
        assert!(Plant::ALL.iter().filter(|(_, mistake)| *mistake == kind).count() >= 5, "{kind:?}");
    }
}
