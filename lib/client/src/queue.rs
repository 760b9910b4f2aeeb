//! A queue of keys, as client-go's workqueue: a key waits once, one worker holds it, the earlier deadline wins.

use minik_component::{Chance, Plant, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How a key is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It went well; failures of the past are forgotten.
    Ok,
    /// It failed; again after a growing wait.
    Failed,
    /// It went well and wants to be looked at again then.
    After(Duration),
}

/// A queue of keys.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    first: Duration,
    most: Duration,
    chance: Arc<dyn Chance>,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Everything in `ready`.
    waiting: BTreeSet<K>,
    /// Held by a worker; the flag says that it was added again meanwhile.
    held: BTreeMap<K, bool>,
    later: BTreeMap<K, Instant>,
    /// `later` by time.
    deadlines: BTreeSet<(Instant, K)>,
    failures: BTreeMap<K, u32>,
    closed: bool,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue { shared: self.shared.clone() }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// A queue whose failed keys wait for `first`, doubled up to `most`.
    pub fn new(first: Duration, most: Duration, chance: Arc<dyn Chance>) -> WorkQueue<K> {
        let state = State {
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            held: BTreeMap::new(),
            later: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            failures: BTreeMap::new(),
            closed: false,
        };
        WorkQueue {
            shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), first, most, chance }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // Each change is complete before anything can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key now. One that waits already is not added twice; one that a worker holds comes again after it.
    pub fn add(&self, key: K) {
        self.state().add(key);
        self.shared.wake.notify_one();
    }

    /// Adds a key after a while; the earlier of two deadlines wins.
    pub fn add_after(&self, key: K, wait: Duration) {
        self.state().add_at(key, Instant::now() + wait);
        self.shared.wake.notify_one();
    }

    /// The next key, held until [`WorkQueue::done`]; `None` once the queue is closed.
    pub async fn next(&self) -> Option<K> {
        loop {
            // Registered before the state is looked at, so that no wake is missed.
            let woken = self.shared.wake.notified();
            let deadline = {
                let mut state = self.state();
                state.promote(Instant::now());
                if state.closed {
                    self.shared.wake.notify_one();
                    return None;
                }
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.held.insert(key.clone(), false);
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return Some(key);
                }
                state.deadlines.first().map(|(at, _)| *at)
            };
            match deadline {
                // Cancel-safe: both arms only wait.
                Some(deadline) => {
                    tokio::select! {
                        biased;
                        () = woken => {}
                        () = tokio::time::sleep_until(deadline) => {}
                    }
                }
                None => woken.await,
            }
        }
    }

    /// Gives a key back.
    pub fn done(&self, key: K, outcome: Done) {
        let outcome = match outcome {
            Done::Failed if planted(Plant::FailedKeyForgotten) => Done::Ok,
            outcome => outcome,
        };
        let again = {
            let mut state = self.state();
            if state.held.remove(&key) == Some(true) {
                state.add(key.clone());
            }
            match outcome {
                Done::Ok | Done::After(_) => drop(state.failures.remove(&key)),
                Done::Failed => *state.failures.entry(key.clone()).or_insert(0) += 1,
            }
            match outcome {
                Done::Ok => None,
                Done::After(wait) => Some(wait),
                Done::Failed => Some(self.wait_after(state.failures.get(&key).copied().unwrap_or(1))),
            }
        };
        match again {
            Some(wait) => self.add_after(key, wait),
            None => self.shared.wake.notify_one(),
        }
    }

    fn wait_after(&self, failures: u32) -> Duration {
        let doubled = self.shared.first.saturating_mul(1 << (failures - 1).min(20)).min(self.shared.most);
        doubled.mul_f64(0.5 + self.shared.chance.fraction() / 2.0)
    }

    /// Ends the queue: every worker's next key is `None`.
    pub fn close(&self) {
        self.state().closed = true;
        self.shared.wake.notify_waiters();
        self.shared.wake.notify_one();
    }

    /// How many keys are ready and not held.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Ord + Clone> State<K> {
    fn add(&mut self, key: K) {
        if let Some(again) = self.held.get_mut(&key) {
            *again = !planted(Plant::ChangedWhileHeld);
        } else if self.waiting.insert(key.clone()) {
            self.forget(&key);
            self.ready.push_back(key);
        }
    }

    /// Moves what is due from `later` to `ready`.
    fn promote(&mut self, now: Instant) {
        while let Some((_, key)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            self.forget(&key);
            self.add(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if self.later.get(&key).is_some_and(|sooner| *sooner <= at) {
            return;
        }
        self.forget(&key);
        self.later.insert(key.clone(), at);
        self.deadlines.insert((at, key));
    }

    /// Takes a key out of what comes later.
    fn forget(&mut self, key: &K) {
        if let Some(at) = self.later.remove(key) {
            self.deadlines.remove(&(at, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minik_component::SeededChance;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(Duration::from_millis(100), Duration::from_secs(10), Arc::new(SeededChance::new(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_held_by_one() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "a held key must not be given out");
        queue.done("a", Done::Ok);
        assert_eq!(queue.next().await, Some("a"));
        queue.done("a", Done::Ok);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_wins() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let queue = queue();
        let mut waits = Vec::new();
        queue.add("a");
        for _ in 0..4 {
            let start = Instant::now();
            let key = queue.next().await.unwrap();
            waits.push(start.elapsed());
            queue.done(key, Done::Failed);
        }
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_all_workers() {
        let queue = queue();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
