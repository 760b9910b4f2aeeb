//! What goes wrong, and when: all by one seed.

use http::StatusCode;
use minik_component::Chance;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Faults by chance, until it is calm.
pub struct Weather {
    chance: Arc<dyn Chance>,
    stormy: AtomicBool,
}

/// How a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What a server that is in trouble answers.
const TROUBLE: [StatusCode; 5] = [
    StatusCode::CONFLICT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

impl Weather {
    /// Calm at first.
    pub fn new(chance: Arc<dyn Chance>) -> Weather {
        Weather { chance, stormy: AtomicBool::new(false) }
    }

    /// Lets faults happen, or not any more.
    pub fn set_stormy(&self, stormy: bool) {
        self.stormy.store(stormy, Ordering::Relaxed);
    }

    /// Whether faults happen.
    pub fn is_stormy(&self) -> bool {
        self.stormy.load(Ordering::Relaxed)
    }

    /// True in so many of a thousand cases, while it storms.
    pub fn strikes(&self, permille: u64) -> bool {
        self.is_stormy() && self.chance.below(1000) < permille
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.chance.below(end)
    }

    /// How a write goes; one that creates is never refused for a conflict.
    pub fn fate(&self, creates: bool) -> Fate {
        if !self.strikes(60) {
            return Fate::Well;
        }
        match self.below(4) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            _ => {
                let code = TROUBLE[self.below(TROUBLE.len() as u64) as usize];
                match creates && code == StatusCode::CONFLICT {
                    true => Fate::Refused(StatusCode::SERVICE_UNAVAILABLE),
                    false => Fate::Refused(code),
                }
            }
        }
    }

    /// A delay on the way of a request.
    pub async fn delay(&self) {
        if self.strikes(200) {
            tokio::time::sleep(Duration::from_millis(self.below(50))).await;
        }
    }

    /// A delay of a stream: mostly none, seldom long.
    pub async fn lag(&self) {
        if self.strikes(100) {
            tokio::time::sleep(Duration::from_millis(self.below(400))).await;
        }
        if self.strikes(4) {
            tokio::time::sleep(Duration::from_millis(self.below(8000))).await;
        }
    }
}

/// The moment at which a component dies: between two of its writes.
pub struct Doom {
    /// Writes that it may still do; below zero it lives on.
    left: AtomicI64,
    struck: Notify,
}

impl Doom {
    /// After so many writes; never for `None`.
    pub fn after(writes: Option<u64>) -> Doom {
        let left = writes.and_then(|writes| i64::try_from(writes).ok()).map_or(-1, |writes| writes + 1);
        Doom { left: AtomicI64::new(left), struck: Notify::new() }
    }

    /// Another write is about to be done; true when it is not done any more.
    pub fn strikes(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                self.struck.notify_one();
            }
        }
        left == 1 || left == 0
    }

    /// Returns when it dies.
    pub async fn struck(&self) {
        self.struck.notified().await;
    }
}
