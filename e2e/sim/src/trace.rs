//! A number that stands for everything that happened in a world, in order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// What happened, as one number.
#[derive(Debug, Default)]
pub struct Trace(AtomicU64);

impl Trace {
    /// Something happened.
    pub fn note(&self, what: impl Hash) {
        // Its keys are constants: the same things give the same number everywhere.
        let mut hasher = DefaultHasher::new();
        (self.number(), what).hash(&mut hasher);
        self.0.store(hasher.finish(), Ordering::Relaxed);
    }

    /// The number.
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
