//! How many results in a row it takes.

/// What a result changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Same,
    /// The probe is good or bad from now on.
    Now(bool),
}

/// Counts equal results in a row.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    successes: u32,
    failures: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    /// Good after so many successes, bad after so many failures.
    pub fn new(successes: u32, failures: u32) -> Counter {
        Counter { successes, failures, last: None, run: 0 }
    }

    /// Counts a result.
    pub fn add(&mut self, is_good: bool) -> Outcome {
        self.run = if self.last == Some(is_good) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(is_good);
        let needed = if is_good { self.successes } else { self.failures };
        if self.run >= needed { Outcome::Now(is_good) } else { Outcome::Same }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_count_in_a_row() {
        let mut counter = Counter::new(2, 3);
        let got: Vec<Outcome> =
            [true, true, false, false, true, false, false, false].map(|good| counter.add(good)).into();
        use Outcome::{Now, Same};
        assert_eq!(got, [Same, Now(true), Same, Same, Same, Same, Same, Now(false)]);
    }
}
