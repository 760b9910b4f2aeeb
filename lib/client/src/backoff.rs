//! Waits between tries: doubled, capped, jittered.

use minik_component::Chance;
use std::time::Duration;

/// A growing wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `most`.
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, next: first }
    }

    /// The next wait: between half of it and all of it, so that many who failed together do not return together.
    pub fn next(&mut self, chance: &dyn Chance) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait.mul_f64(0.5 + chance.fraction() / 2.0)
    }

    /// Begins again after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minik_component::SeededChance;

    #[test]
    fn waits_grow_to_their_cap_and_begin_again() {
        let chance = SeededChance::new(3);
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<Duration> = (0..8).map(|_| backoff.next(&chance)).collect();
        assert!(waits[0] <= first && waits[0] >= first / 2);
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits[7] >= most / 2);
        backoff.reset();
        assert!(backoff.next(&chance) <= first);
    }
}
