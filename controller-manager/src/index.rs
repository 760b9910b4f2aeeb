//! Objects of an informer by something else than their key.

use minik_client::{Change, Informer, InformerBuilder, ObjectKey, Projection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Sorted = BTreeMap<Arc<str>, BTreeSet<ObjectKey>>;

/// Which objects share a value that is read from them.
pub struct Index<T> {
    value: fn(&T) -> Option<Arc<str>>,
    sorted: Mutex<Sorted>,
}

impl<T: Projection> Index<T> {
    /// An index by this value, of nothing yet.
    pub fn new(value: fn(&T) -> Option<Arc<str>>) -> Arc<Index<T>> {
        Arc::new(Index { value, sorted: Mutex::default() })
    }

    /// Follows an informer; handlers that are added later find it up to date.
    pub fn follow(self: &Arc<Self>, informer: &mut InformerBuilder<T>) {
        let index = self.clone();
        informer.add_handler(move |change| index.observe(change));
    }

    /// The objects with this value, by key.
    pub fn find(&self, objects: &Informer<T>, value: &str) -> Vec<Arc<T>> {
        let keys: Vec<ObjectKey> = self.lock().get(value).into_iter().flatten().cloned().collect();
        let still = |object: &Arc<T>| (self.value)(object).as_deref() == Some(value);
        keys.iter().filter_map(|key| objects.get(key)).filter(still).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Sorted> {
        // Each change is complete before anything can panic.
        self.sorted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, change: &Change<T>) {
        let mut sorted = self.lock();
        let before = match change {
            Change::Added(_) => None,
            Change::Updated { old, .. } | Change::Deleted(old) => Some(old),
        };
        if let Some(old) = before
            && let Some(value) = (self.value)(old)
            && let Some(keys) = sorted.get_mut(&value)
        {
            keys.remove(&old.meta().key());
            if keys.is_empty() {
                sorted.remove(&value);
            }
        }
        let object = change.object();
        if !matches!(change, Change::Deleted(_))
            && let Some(value) = (self.value)(object)
        {
            sorted.entry(value).or_default().insert(object.meta().key());
        }
    }
}
