//! Leases: what expires at about the same time shares one, since each costs etcd memory and a write of its own.

use super::once;
use super::proto::{Client, LeaseGrantRequest};
use crate::StorageError;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys of one lease; etcd deletes them in one transaction.
const KEYS: usize = 1000;
/// How much later than asked for something may expire: a twentieth of its time, and a minute at most.
const PART: i64 = 20;
const LATER_AT_MOST: i64 = 60;
/// Leases that are filled at once, one a length of time that is in use (events, apiserver leases).
const OPEN: usize = 4;

struct Lease {
    id: i64,
    /// When etcd ends it.
    ends_at: i64,
    /// The earliest wish that it serves.
    from: i64,
    keys: usize,
}

/// The leases that take more keys.
pub(super) struct Leases {
    client: Client,
    open: Mutex<Vec<Lease>>,
}

impl Leases {
    pub fn new(client: Client) -> Leases {
        Leases { client, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that ends at a time or a little later.
    pub async fn for_time(&self, at: i64, now: i64) -> Result<i64, StorageError> {
        if let Some(id) = take(&mut self.lock(), at) {
            return Ok(id);
        }
        let seconds = (at - now).max(1);
        let later = (seconds / PART).clamp(1, LATER_AT_MOST);
        let granted = once(self.client.clone().grant(LeaseGrantRequest { ttl: seconds + later })).await?;
        if !granted.error.is_empty() {
            return Err(StorageError::Unavailable(granted.error));
        }
        let lease = Lease { id: granted.id, ends_at: at + later, from: at, keys: 1 };
        let id = lease.id;
        // Two that came at once have one each; the later one is filled.
        let mut open = self.lock();
        open.retain(|other| other.ends_at > now);
        open.insert(0, lease);
        open.truncate(OPEN);
        Ok(id)
    }

    /// A lease that etcd no longer knows.
    pub fn forget(&self, id: i64) {
        self.lock().retain(|lease| lease.id != id);
    }
}

fn take(open: &mut [Lease], at: i64) -> Option<i64> {
    let fits = |lease: &&mut Lease| lease.from <= at && at <= lease.ends_at && lease.keys < KEYS;
    let lease = open.iter_mut().find(fits)?;
    lease.keys += 1;
    Some(lease.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_for_a_while_and_until_it_is_full() {
        let mut open = vec![Lease { id: 7, ends_at: 160, from: 100, keys: KEYS - 2 }];
        assert_eq!(take(&mut open, 99), None, "what ends earlier would live too long");
        assert_eq!(take(&mut open, 161), None, "what ends later would go too early");
        assert_eq!(take(&mut open, 100), Some(7));
        assert_eq!(take(&mut open, 160), Some(7));
        assert_eq!(take(&mut open, 160), None, "full");
    }
}
