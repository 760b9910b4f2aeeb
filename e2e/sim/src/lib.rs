//! The simulated cluster: every service in one thread, on a paused clock, over a store in memory, with all chance from one
//! seed: the services' own, what goes wrong, and the order of hash maps. The same seed gives the same world again, write
//! for write: worlds of chance live in processes of their own ([`world::each`]).
//!
//! ```text
//!  Sim::start(seed) ── Apis over Memory ──┬── client(user) ── scheduler::run
//!   (current-thread runtime, time paused) ├── client(user) ── controller_manager::run
//!                                         ├── client(user) ── fake_nodes::run
//!                                         └── admin client ── the test
//! ```
//!
//! Invariants:
//! - Every write to the store is held against what must never be ([`Ledger`]), before anybody else sees it; what watches
//!   tell is held against it, too.
//! - While it storms ([`Weather`]) requests fail or lose their answers, watches lag, break and have to begin anew, a second
//!   server lags behind the store and dies, services die between two writes and come back, clocks are moved, nodes lost.
//! - No socket, no TLS, no helper thread: a request is a call of the apiserver's `answer`.
//! - Time moves only when every task waits; an hour passes in milliseconds.
//! - In the services `select!` is `biased`: its own chance is of no seed.
//!
//! What it is for: recorded behaviour of controllers and the scheduler over the whole API, and properties that hold
//! whatever happens in between ([`world`]). That they would be found is seen by planted defects ([`minik_component::Plant`]).

mod calls;
mod clock;
mod cluster;
mod component;
mod dice;
mod entropy;
mod ledger;
mod server;
mod settle;
mod store;
mod trace;
mod transport;
mod weather;
mod witness;
pub mod world;

pub use clock::{START, SimClock};
pub use cluster::{Parts, Sim};
pub use ledger::Ledger;
pub use transport::Who;
pub use weather::{Climate, Weather};
