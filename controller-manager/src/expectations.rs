//! What an owner has done and not yet seen: until then its cache tells an old state, on which it must not decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What was not seen by then never will be: the cache is believed again.
pub const EXPECTED_WITHIN: Duration = Duration::from_secs(300);

/// By owner's uid.
#[derive(Default)]
pub struct Expectations(Mutex<BTreeMap<Arc<str>, Expected>>);

#[derive(Default)]
struct Expected {
    creations: usize,
    deletions: BTreeSet<Arc<str>>,
    since: Duration,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Expected>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything was seen, or waited for long enough.
    pub fn met(&self, owner: &str, now: Duration) -> bool {
        let mut all = self.lock();
        let open = |one: &Expected| one.creations > 0 || !one.deletions.is_empty();
        let waits = all.get(owner).is_some_and(|one| open(one) && now < one.since + EXPECTED_WITHIN);
        if !waits {
            all.remove(owner);
        }
        !waits
    }

    /// Before so many objects are created, and those with these uids deleted.
    pub fn expect(&self, owner: &Arc<str>, creations: usize, deletions: BTreeSet<Arc<str>>, now: Duration) {
        self.lock().insert(owner.clone(), Expected { creations, deletions, since: now });
    }

    /// One was created, or will not be.
    pub fn created(&self, owner: &str, count: usize) {
        if let Some(one) = self.lock().get_mut(owner) {
            one.creations = one.creations.saturating_sub(count);
        }
    }

    /// One is being deleted, or will not be.
    pub fn deleted(&self, owner: &str, uid: &str) {
        if let Some(one) = self.lock().get_mut(owner) {
            one.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &str) {
        self.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_waits_until_it_has_seen_its_own_deeds() {
        let (expectations, owner) = (Expectations::default(), Arc::from("o"));
        assert!(expectations.met("o", Duration::ZERO));
        expectations.expect(&owner, 2, BTreeSet::from(["a".into()]), Duration::ZERO);
        expectations.created("o", 1);
        expectations.deleted("o", "a");
        expectations.created("another", 1);
        assert!(!expectations.met("o", Duration::ZERO));
        expectations.created("o", 1);
        assert!(expectations.met("o", Duration::ZERO));
    }

    #[test]
    fn what_is_never_seen_is_given_up() {
        let (expectations, owner) = (Expectations::default(), Arc::from("o"));
        expectations.expect(&owner, 1, BTreeSet::new(), Duration::from_secs(1));
        assert!(!expectations.met("o", Duration::from_secs(300)));
        assert!(expectations.met("o", Duration::from_secs(301)));
    }
}
