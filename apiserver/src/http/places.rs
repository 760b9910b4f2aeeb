//! Places for requests that are under way, so that the server does what it can do and no client takes it all.
//!
//! Who fills places waits for his own: a user has at most a quarter of them, all ServiceAccounts but those of kube-system
//! together at most half. So a Pod's token, which anybody in the Pod has, keeps neither nodes nor the control plane out. The
//! group of masters waits for nothing, so that an administrator can always get in.

use crate::authn::{MASTERS, UserInfo};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request waits for its turn when there are more.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// Users whose shares are kept; those that nobody uses are forgotten when there are more.
const KEPT: usize = 1000;
const ACCOUNTS: &str = "system:serviceaccounts";
const SYSTEM_ACCOUNTS: &str = "system:serviceaccounts:kube-system";

/// How many requests may be under way at once; 0 is any number.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// That change nothing.
    pub reading: usize,
    /// That change something.
    pub writing: usize,
}

impl Default for InFlight {
    /// Upstream's numbers.
    fn default() -> InFlight {
        InFlight { reading: 400, writing: 200 }
    }
}

/// Places for requests of both kinds.
pub(crate) struct Places {
    pub reading: Pool,
    pub writing: Pool,
}

impl Places {
    pub fn new(most: InFlight) -> Places {
        Places { reading: Pool::new(most.reading), writing: Pool::new(most.writing) }
    }
}

/// Places for requests of one kind.
pub(crate) struct Pool {
    most: usize,
    all: Arc<Semaphore>,
    accounts: Arc<Semaphore>,
    users: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place; it is free again with this.
pub(crate) struct Turn(#[allow(dead_code)] Vec<OwnedSemaphorePermit>);

impl Pool {
    fn new(most: usize) -> Pool {
        let all = |places: usize| Arc::new(Semaphore::new(places.max(1)));
        Pool { most, all: all(most), accounts: all(most / 2), users: Mutex::default() }
    }

    /// A place for a request of this user, or `None` when none came free in time.
    pub async fn turn(&self, user: &UserInfo) -> Option<Turn> {
        if self.most == 0 || user.in_group(MASTERS) {
            return Some(Turn(Vec::new()));
        }
        let mut wanted = vec![self.share(&user.name)];
        if user.in_group(ACCOUNTS) && !user.in_group(SYSTEM_ACCOUNTS) {
            wanted.push(self.accounts.clone());
        }
        wanted.push(self.all.clone());
        let taken = async {
            let mut places = Vec::with_capacity(wanted.len());
            for one in wanted {
                // None of them is ever closed.
                places.push(one.acquire_owned().await.ok()?);
            }
            Some(Turn(places))
        };
        tokio::time::timeout(TURN_WITHIN, taken).await.ok().flatten()
    }

    fn share(&self, user: &str) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(user) {
            return share.clone();
        }
        if users.len() >= KEPT {
            users.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let share = Arc::new(Semaphore::new((self.most / 4).max(1)));
        users.insert(user.to_owned(), share.clone());
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> UserInfo {
        let group = format!("{ACCOUNTS}:{namespace}");
        UserInfo::known(&format!("system:serviceaccount:{namespace}:{name}"), &[ACCOUNTS, &group])
    }

    /// How many places one gets who never gives any back.
    async fn taken(pool: &Pool, users: &[UserInfo], held: &mut Vec<Turn>) -> usize {
        let before = held.len();
        for user in users {
            while let Some(turn) = pool.turn(user).await {
                held.push(turn);
                assert!(held.len() < 1000, "there is no end");
            }
        }
        held.len() - before
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_all_places() {
        let (pool, mut held) = (Pool::new(200), Vec::new());
        let greedy = account("default", "a");
        assert_eq!(taken(&pool, std::slice::from_ref(&greedy), &mut held).await, 50);
        let many: Vec<UserInfo> = (0..10).map(|number| account("n", &number.to_string())).collect();
        assert_eq!(taken(&pool, &many, &mut held).await, 50, "accounts have half of the places");
        let nodes: Vec<UserInfo> = ["a", "b", "c"]
            .map(|node| UserInfo::known(&format!("system:node:{node}"), &["system:nodes"]))
            .into();
        assert_eq!(taken(&pool, &nodes, &mut held).await, 100);
        assert!(pool.turn(&account("kube-system", "x")).await.is_none(), "all are taken");
        let admin = UserInfo::known("admin", &[MASTERS]);
        assert!(pool.turn(&admin).await.is_some(), "an administrator gets in");
        held.clear();
        assert!(pool.turn(&greedy).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let (pool, user) = (Pool::new(0), UserInfo::known("u", &[]));
        let mut held = Vec::new();
        for _ in 0..500 {
            held.push(pool.turn(&user).await.expect("a place"));
        }
    }
}
