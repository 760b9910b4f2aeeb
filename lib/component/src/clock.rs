//! Time and chance as values, so that what decides can be run again exactly.

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A source of time.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn now(&self) -> jiff::Timestamp;
    /// Time since some moment before the process started; never goes back.
    fn elapsed(&self) -> Duration;
}

/// The machine's clocks. Elapsed time is tokio's, so that it stands still where a test paused it.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { start: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Letters and digits of which no words come out, and of which none looks like another: generated names end with some.
pub const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them.
const ADDED: usize = 5;
/// How much of what stands before them is kept: then the name is one of 63, as labels of DNS demand.
const PREFIX: usize = 63 - ADDED;

/// A name from a prefix (`metadata.generateName`), by chance.
pub fn generate_name(prefix: &str, chance: &dyn Chance) -> String {
    let kept = &prefix[..prefix.floor_char_boundary(PREFIX)];
    let letter = |_| char::from(LETTERS[chance.below(LETTERS.len() as u64) as usize]);
    kept.chars().chain((0..ADDED).map(letter)).collect()
}

/// A source of chance.
pub trait Chance: Send + Sync {
    /// Sixty-four random bits.
    fn bits(&self) -> u64;

    /// A number below `end`, which is above zero.
    fn below(&self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// A number from 0 up to, without, 1.
    fn fraction(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The kernel's chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn bits(&self) -> u64 {
        let mut bytes = [0; 8];
        SysRng.try_fill_bytes(&mut bytes).expect("the kernel gives random bytes");
        u64::from_le_bytes(bytes)
    }
}

/// Chance that is the same for the same seed.
#[derive(Debug)]
pub struct SeededChance(Mutex<StdRng>);

impl SeededChance {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> SeededChance {
        SeededChance(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Chance for SeededChance {
    fn bits(&self) -> u64 {
        // A panic elsewhere leaves the generator usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let sequence = |seed| {
            let chance = SeededChance::new(seed);
            (0..4).map(|_| chance.bits()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
    }

    #[test]
    fn chance_stays_in_its_range() {
        let chance = SeededChance::new(1);
        for _ in 0..1000 {
            assert!(chance.below(3) < 3);
            assert!((0.0..1.0).contains(&chance.fraction()));
        }
    }
}
