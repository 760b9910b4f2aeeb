//! What goes wrong, and when: all by one seed.

use crate::trace::Trace;
use http::StatusCode;
use minik_component::Chance;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How often each thing goes wrong, in a thousand. Worlds differ in what goes wrong in them at all: what happens seldom
/// beside everything else happens often where nothing else does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Climate {
    /// Requests that are late.
    pub delays: u64,
    /// Parts of a stream that are a little late.
    pub lags: u64,
    /// Parts of a stream that are very late.
    pub long_lags: u64,
    /// Parts of a watch that are its last.
    pub cuts: u64,
    /// Watches from a revision that is no longer known.
    pub forgotten: u64,
    /// Writes that fail.
    pub failures: u64,
    /// Of writes: how many a component does at most before it dies, about; 0 when none dies.
    pub life: u64,
    /// The same for a server.
    pub server_life: u64,
    /// Whether clocks are moved.
    pub clocks: bool,
    /// Whether nodes are lost.
    pub nodes: bool,
}

impl Climate {
    /// One by chance.
    pub fn of(chance: &dyn Chance) -> Climate {
        let rate = |of_ten: u64, most: u64| {
            let (happens, rate) = (chance.below(10) < of_ten, 1 + chance.below(most));
            if happens { rate } else { 0 }
        };
        Climate {
            delays: rate(7, 400),
            lags: rate(8, 200),
            long_lags: rate(6, 20),
            cuts: rate(7, 30),
            forgotten: rate(6, 500),
            failures: rate(7, 120),
            life: rate(7, 80),
            server_life: rate(5, 300),
            clocks: rate(3, 1) > 0,
            nodes: rate(3, 1) > 0,
        }
    }
}

/// Faults by chance, until it is calm.
pub struct Weather {
    chance: Arc<dyn Chance>,
    climate: Mutex<Climate>,
    stormy: AtomicBool,
    trace: Arc<Trace>,
}

/// What never dies before so many writes: who dies at its first does nothing but begin.
const LEAST_LIFE: u64 = 3;

/// How a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// As it should.
    Well,
    /// It is refused with this code and not done.
    Refused(StatusCode),
    /// The connection breaks, and it is not done.
    Lost,
    /// It is done, and the connection breaks before the answer.
    Unanswered,
}

/// What a server answers to a write that it does not do: it is in trouble, it has forgotten who asks or may ask, or a
/// policy, a quota or a webhook is against it. What would say something of the object that is not so (404, 410, 409 to a
/// creation) is left to the server itself.
const REFUSALS: [StatusCode; 9] = [
    StatusCode::CONFLICT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

impl Weather {
    /// Calm at first; what goes wrong later is noted in `trace`.
    pub fn new(chance: Arc<dyn Chance>, climate: Climate, trace: Arc<Trace>) -> Weather {
        Weather { chance, climate: Mutex::new(climate), stormy: AtomicBool::new(false), trace }
    }

    /// Weather that storms already.
    #[cfg(test)]
    pub fn stormy(climate: Climate) -> Weather {
        let chance = Arc::new(minik_component::SeededChance::new(0));
        Weather { stormy: AtomicBool::new(true), ..Weather::new(chance, climate, Arc::default()) }
    }

    /// Lets faults happen, or not any more.
    pub fn set_stormy(&self, stormy: bool) {
        self.stormy.store(stormy, Ordering::Relaxed);
    }

    /// Whether faults happen.
    pub fn is_stormy(&self) -> bool {
        self.stormy.load(Ordering::Relaxed)
    }

    /// How often what goes wrong.
    pub fn climate(&self) -> Climate {
        // It is copied whole.
        *self.climate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on this goes wrong while it storms.
    pub fn set_climate(&self, climate: Climate) {
        *self.climate.lock().unwrap_or_else(PoisonError::into_inner) = climate;
    }

    /// True in so many of a thousand cases, while it storms.
    fn strikes(&self, permille: u64) -> bool {
        permille > 0 && self.is_stormy() && self.below(1000) < permille
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.chance.below(end)
    }

    fn noted<T: std::hash::Hash>(&self, what: T) -> T {
        self.trace.note(&what);
        what
    }

    /// How a write goes; one that creates is never refused for a conflict.
    pub fn fate(&self, creates: bool) -> Fate {
        if !self.strikes(self.climate().failures) {
            return Fate::Well;
        }
        self.noted(match self.below(4) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            _ => {
                let code = REFUSALS[self.below(REFUSALS.len() as u64) as usize];
                match creates && code == StatusCode::CONFLICT {
                    true => Fate::Refused(StatusCode::SERVICE_UNAVAILABLE),
                    false => Fate::Refused(code),
                }
            }
        })
    }

    /// Whether a watch ends here.
    pub fn cuts(&self) -> bool {
        self.strikes(self.climate().cuts) && self.noted(true)
    }

    /// Whether a watch from a revision finds that it is no longer known.
    pub fn forgets(&self) -> bool {
        self.strikes(self.climate().forgotten) && self.noted(true)
    }

    /// A delay on the way of a request.
    pub async fn delay(&self) {
        if self.strikes(self.climate().delays) {
            self.pass(50).await;
        }
    }

    /// A delay of a stream: mostly none, seldom long.
    pub async fn lag(&self) {
        if self.strikes(self.climate().lags) {
            self.pass(400).await;
        }
        if self.strikes(self.climate().long_lags) {
            self.pass(8000).await;
        }
    }

    /// Lets some time pass, less than so many milliseconds.
    pub async fn pass(&self, most_ms: u64) {
        // bounded: by the number given, in simulated time
        tokio::time::sleep(Duration::from_millis(self.noted(self.below(most_ms)))).await;
    }
}

/// The moment at which something dies: between two of its writes, while it storms.
pub struct Doom {
    weather: Arc<Weather>,
    /// How many writes its kind does at most.
    most: fn(&Climate) -> u64,
    /// Writes that it may still do in storms, once that is known; one that has none left dies at the next.
    left: OnceLock<AtomicU64>,
    dead: AtomicBool,
    struck: Notify,
}

impl Doom {
    /// After some writes by chance, as many as `most` says of a climate; never, if it says none.
    pub fn of(weather: Arc<Weather>, most: fn(&Climate) -> u64) -> Doom {
        Doom { weather, most, left: OnceLock::new(), dead: AtomicBool::new(false), struck: Notify::new() }
    }

    /// Never.
    pub fn none(weather: Arc<Weather>) -> Doom {
        Doom::of(weather, |_| 0)
    }

    /// Another write is about to be done; true when it is not done any more.
    pub fn strikes(&self) -> bool {
        let most = (self.most)(&self.weather.climate());
        if self.weather.is_stormy() && most > 0 {
            let life = || AtomicU64::new(self.weather.noted(LEAST_LIFE + self.weather.below(most)));
            let left = self.left.get_or_init(life);
            match left.load(Ordering::Relaxed) {
                0 if !self.dead.swap(true, Ordering::Relaxed) => self.struck.notify_one(),
                0 => {}
                some => left.store(some - 1, Ordering::Relaxed),
            }
        }
        self.dead.load(Ordering::Relaxed)
    }

    /// Returns when it dies.
    pub async fn struck(&self) {
        self.struck.notified().await;
    }
}
