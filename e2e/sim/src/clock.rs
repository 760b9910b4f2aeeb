//! Time that stands still while anything can run.

use minik_component::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time of day when a simulation begins.
pub const START: jiff::Timestamp = jiff::Timestamp::constant(1_800_000_000, 0);

/// Both clocks follow the runtime's paused one. Copies of it are the same clock; another machine's is made by
/// [`SimClock::another`], and its time of day can be moved.
#[derive(Debug, Clone)]
pub struct SimClock {
    begun: Instant,
    wrong_by_ms: Arc<AtomicI64>,
}

impl Default for SimClock {
    fn default() -> SimClock {
        SimClock { begun: Instant::now(), wrong_by_ms: Arc::default() }
    }
}

impl SimClock {
    /// The clock of another machine, which is right.
    pub fn another(&self) -> SimClock {
        SimClock { begun: self.begun, wrong_by_ms: Arc::default() }
    }

    /// Makes the time of day wrong by so much.
    pub fn set_wrong_by_ms(&self, ms: i64) {
        self.wrong_by_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> jiff::Timestamp {
        let wrong = jiff::SignedDuration::from_millis(self.wrong_by_ms.load(Ordering::Relaxed));
        START + self.elapsed() + wrong
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
