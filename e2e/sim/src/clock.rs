//! Time that stands still while anything can run.

use minik_component::Clock;
use std::time::Duration;
use tokio::time::Instant;

/// The time of day when a simulation begins.
pub const START: jiff::Timestamp = jiff::Timestamp::constant(1_800_000_000, 0);

/// Both clocks follow the runtime's paused one.
#[derive(Debug, Clone, Copy)]
pub struct SimClock {
    begun: Instant,
}

impl Default for SimClock {
    fn default() -> SimClock {
        SimClock { begun: Instant::now() }
    }
}

impl Clock for SimClock {
    fn now(&self) -> jiff::Timestamp {
        START + self.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
