//! What a worker is told: the Pod as it is wanted, and that something has happened.

use crate::core::memory::Verdict;
use crate::pod::PodObject;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A Pod as it is wanted.
#[derive(Clone)]
pub struct Wanted {
    /// The Pod.
    pub pod: Arc<PodObject>,
    /// Whether the API has forgotten it.
    pub is_gone: bool,
    /// Why it is to fail as a whole.
    pub verdict: Option<Verdict>,
}

impl Wanted {
    /// Whether the Pod is to end.
    pub fn is_ending(&self) -> bool {
        self.is_gone || self.verdict.is_some() || self.pod.meta.deletion_timestamp.is_some()
    }
}

/// A worker's mailbox: keeps the newest only.
pub struct Mailbox {
    wanted: Mutex<Wanted>,
    notify: Notify,
    changed: AtomicBool,
    stale: AtomicBool,
}

impl Mailbox {
    /// A mailbox with a Pod in it.
    pub fn new(pod: Arc<PodObject>) -> Mailbox {
        let wanted = Wanted { pod, is_gone: false, verdict: None };
        Mailbox {
            wanted: Mutex::new(wanted),
            notify: Notify::new(),
            changed: AtomicBool::new(true),
            stale: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // Each change is complete before anything can panic.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted.
    pub fn wanted(&self) -> Wanted {
        self.lock().clone()
    }

    /// What is wanted, noting that it was looked at.
    pub fn take(&self) -> Wanted {
        self.changed.store(false, Ordering::SeqCst);
        self.wanted()
    }

    /// Whether the Pod is to end.
    pub fn is_ending(&self) -> bool {
        self.lock().is_ending()
    }

    /// Changes what is wanted.
    pub fn change(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.lock());
        self.look();
    }

    /// Something has happened: look again.
    pub fn look(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }

    /// Something that the Pod mounts has changed.
    pub fn refresh(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.look();
    }

    /// Whether something that the Pod mounts has changed since this was asked last.
    pub fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::SeqCst)
    }

    /// Returns once something has happened since the last [`Mailbox::take`], or after a while.
    pub async fn changed(&self, at_most: Duration) {
        let wait = async {
            while !self.changed.load(Ordering::SeqCst) {
                self.notify.notified().await;
            }
        };
        // Cancel-safe: only waits.
        let _ = tokio::time::timeout(at_most, wait).await;
    }

    /// Returns once the Pod is to end.
    pub async fn ending(&self) {
        loop {
            let notified = self.notify.notified();
            if self.is_ending() {
                // Whoever waits for a change next must still see it.
                self.look();
                return;
            }
            notified.await;
        }
    }

    /// Returns once its end may take less than `seconds`.
    pub async fn shorter_grace(&self, seconds: i64) {
        loop {
            let notified = self.notify.notified();
            if self.lock().pod.grace_seconds() < seconds {
                return;
            }
            notified.await;
        }
    }
}
