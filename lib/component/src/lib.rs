//! Process plumbing that every service shares: shutdown, telemetry, clock, chance, TLS, health and metrics.
//!
//! ```text
//!  main ── flags ──> telemetry::init ──> Shutdown::on_signals ──> service.run(config, client, shutdown)
//!                                                                     └─> ops::serve (/livez /readyz /metrics)
//! ```
//!
//! Invariants: nothing here knows a service or Kubernetes objects; time and chance are values that are passed in.

mod clock;
mod cork;
mod duration;
mod exit;
pub mod ops;
mod plant;
pub mod serve;
mod shutdown;
mod telemetry;
pub mod tls;

pub use clock::{Chance, Clock, LETTERS, SeededChance, SystemChance, SystemClock, generate_name};
pub use duration::duration;
pub use exit::{chain, exit_code};
#[cfg(feature = "plants")]
pub use plant::plant;
pub use plant::{Mistake, Plant, planted};
pub use shutdown::Shutdown;
pub use telemetry::{LogFormat, TelemetryFlags};
