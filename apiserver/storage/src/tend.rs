//! What every store needs from time to time: what has expired is deleted, and old revisions are forgotten.

use crate::{Storage, StorageError};
use minik_component::{Shutdown, chain};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

/// Between two looks for what has expired: nobody counts on seconds, and a look costs next to nothing.
const EXPIRY_PERIOD: Duration = Duration::from_secs(2);
/// Between two compactions; each forgets what was overwritten before the last one. Upstream's period.
pub const COMPACTION_PERIOD: Duration = Duration::from_secs(300);

/// Tends a store until `shutdown`. A store that does not answer is asked again at the next turn.
pub async fn tend(storage: Arc<dyn Storage>, shutdown: Shutdown) {
    let mut expiry = interval(EXPIRY_PERIOD);
    let mut compaction = interval_at(Instant::now() + COMPACTION_PERIOD, COMPACTION_PERIOD);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    compaction.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forget = storage.revision().await.ok();
    loop {
        // Cancel-safe: ticks are not lost, and the work is done outside of the select.
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            _ = expiry.tick() => report("delete what has expired", storage.expire().await),
            _ = compaction.tick() => {
                let now = storage.revision().await;
                if let Some(before) = forget {
                    report("forget old revisions", storage.compact(before).await);
                }
                forget = now.ok().or(forget);
            }
        }
    }
}

fn report(what: &str, result: Result<(), StorageError>) {
    if let Err(error) = result {
        tracing::warn!(error = chain(&error), "cannot {what}; trying again later");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expect, Memory, Revision};
    use bytes::Bytes;

    #[tokio::test(start_paused = true)]
    async fn what_expires_goes_and_old_revisions_are_forgotten_in_time() {
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let shutdown = Shutdown::new();
        let tending = tokio::spawn(tend(storage.clone(), shutdown.clone()));
        // It has looked at the empty store when it waits for the first time.
        tokio::task::yield_now().await;
        let put = async |key: &str, ttl| storage.put(key, Bytes::new(), Expect::Absent, ttl).await.unwrap();
        put("/kept", None).await;
        put("/event", Some(Duration::from_secs(60))).await;
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert!(storage.get("/event").await.unwrap().is_some());
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(storage.get("/event").await.unwrap().is_none());
        let later = put("/later", None).await;
        // The first turn forgets what was there at the start, the second what was there at the first turn.
        tokio::time::sleep(COMPACTION_PERIOD).await;
        assert!(storage.watch(Revision(1)).await.is_ok());
        tokio::time::sleep(COMPACTION_PERIOD).await;
        assert!(storage.watch(Revision(1)).await.is_err());
        assert!(storage.watch(later).await.is_ok());
        shutdown.request();
        tending.await.unwrap();
    }
}
