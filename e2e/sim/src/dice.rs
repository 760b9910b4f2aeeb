//! Chance by a seed, which may be changed in the middle.

use minik_component::{Chance, SeededChance};
use std::sync::{Mutex, PoisonError};

/// Chance by a seed.
pub struct Dice(Mutex<SeededChance>);

impl Dice {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Dice {
        Dice(Mutex::new(SeededChance::new(seed)))
    }

    /// From here on the sequence of another seed.
    pub fn reseed(&self, seed: u64) {
        // A number is drawn whole or not at all.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = SeededChance::new(seed);
    }
}

impl Chance for Dice {
    fn bits(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }
}
