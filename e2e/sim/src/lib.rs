//! The simulated cluster: every service in one thread, on a paused clock, over a store in memory, with the services' chance
//! from one seed. The order in which tokio's `select!` looks is not of the seed yet: a world does not repeat exactly.
//!
//! ```text
//!  Sim::start(seed) ── Api over Memory ──┬── client(user) ── scheduler::run
//!   (current-thread runtime, time paused) ├── client(user) ── controller_manager::run
//!                                         ├── client(user) ── fake_nodes::run
//!                                         └── admin client ── the test
//! ```
//!
//! Invariants:
//! - Every write to the store is held against what must never be ([`Ledger`]), before anybody else sees it.
//! - While it storms ([`Weather`]) requests fail or lose their answers, watches lag and break, a second server lags behind
//!   the store, and services die between two writes and come back.
//! - No socket, no TLS, no helper thread: a request is a call of the apiserver's `answer`.
//! - Time moves only when every task waits; an hour passes in milliseconds.
//!
//! What it is for: recorded behaviour of controllers and the scheduler over the whole API, and properties that hold
//! whatever happens in between.

mod calls;
mod clock;
mod cluster;
mod component;
mod ledger;
mod settle;
mod store;
mod transport;
mod weather;

pub use clock::{START, SimClock};
pub use cluster::{Parts, Sim};
pub use ledger::Ledger;
pub use transport::Who;
pub use weather::Weather;
