//! The store in etcd: upstream's keys and values, so that a stock kube-apiserver could take the data over, and the other
//! way round.
//!
//! ```text
//!  put, delete ──> one transaction: compare mod_revision, then write, else read what is there
//!  watch       ──> one etcd watch over all keys; broken connections resume after the last revision told
//!  ttl         ──> a lease, shared by what expires at about the same time
//! ```
//!
//! Every key is watched, not only those below the prefix: so each revision of etcd arrives, and who waits for a revision
//! needs no progress notification, which some versions of etcd (3.4.23 among them) send too early.

mod errors;
mod lease;
mod proto;
mod watch;

use crate::{Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use errors::{is_compacted, is_final, translate};
use futures::stream::{self, StreamExt};
use lease::Leases;
use minik_component::{Chance, Clock};
use proto::{
    Client, CompactionRequest, Compare, DeleteRangeRequest, KeyValue, Op, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// One try of a call. A healthy etcd answers in milliseconds; a leader election takes a second or two.
const TRY: Duration = Duration::from_secs(5);
/// Tries of a read. Writes are not tried again: one that did not answer may have happened.
const TRIES: u32 = 4;
/// Records of one page of a list.
const PAGE: i64 = 1000;
/// Times that a list begins anew when its revision was compacted between two pages.
const LISTS: u32 = 3;
/// The key that is written to move the revision on.
const RAISE: &str = "minik_raise";
/// Writes at once that do so: etcd makes what waits durable together.
const RAISING: usize = 128;
/// A connection that is cut off is given up within nine seconds; etcd takes pings more often than every five for an attack.
const KEEP_ALIVE: Duration = Duration::from_secs(6);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where etcd is, and how to get in.
#[derive(Debug, Clone, Default)]
pub struct EtcdConfig {
    /// `https://HOST:PORT` or `http://HOST:PORT`, one or more.
    pub servers: Vec<String>,
    /// The CA of the servers' certificates.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// The keys that are ours, such as `/registry/`.
    pub prefix: String,
}

/// The store in etcd.
pub struct Etcd {
    client: Client,
    prefix: String,
    leases: Leases,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    /// The tasks behind the watches; they end with the store.
    watches: Mutex<JoinSet<()>>,
}

impl Etcd {
    /// Prepares connections and asks the servers for their revision once.
    ///
    /// # Errors
    /// [`StorageError::Broken`] for files and addresses that cannot be used, [`StorageError::Unavailable`] when no server
    /// answers.
    pub async fn connect(
        config: &EtcdConfig,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Etcd, StorageError> {
        let tls = tls(config)?;
        let endpoints = config.servers.iter().map(|server| endpoint(server, tls.as_ref()));
        let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
        let client = Client::new(Channel::balance_list(endpoints.into_iter()));
        let store = Etcd {
            client: client.clone(),
            prefix: config.prefix.clone(),
            leases: Leases::new(client),
            clock,
            chance,
            watches: Mutex::default(),
        };
        store.revision().await?;
        Ok(store)
    }

    /// Reads, again when the connection fails.
    async fn range(&self, request: RangeRequest) -> Result<(RangeResponse, Revision), StorageError> {
        let mut tried = 0;
        loop {
            let error = match once(self.client.clone().range(request.clone())).await {
                Ok(answer) => {
                    let revision = revision_of(answer.header)?;
                    return Ok((answer, revision));
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => error,
            };
            tried += 1;
            if tried == TRIES {
                return Err(error);
            }
            tokio::time::sleep(backoff(tried, &*self.chance)).await;
        }
    }

    async fn transact(&self, key: &str, expect: Expect, write: Op) -> Result<Revision, StorageError> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let mod_revision = match expect {
            Expect::Absent => 0,
            Expect::At(revision) => signed(revision),
        };
        let (equal, of_last_write) = (0, 2);
        let compare = Compare {
            result: equal,
            target: of_last_write,
            key: key.clone(),
            mod_revision: Some(mod_revision),
        };
        let look = Op::Range(RangeRequest { key, ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp::of(write)],
            failure: vec![RequestOp::of(look)],
        };
        let answer = once(self.client.clone().txn(request)).await?;
        if answer.succeeded {
            return revision_of(answer.header);
        }
        let there = answer.responses.into_iter().find_map(|one| one.range?.kvs.pop());
        Err(StorageError::Conflict(there.map(record).transpose()?))
    }

    async fn list_once(&self, prefix: &str) -> Result<Everything, StorageError> {
        let (revision, pairs) = self.pairs(prefix).await?;
        Ok(Everything { records: pairs.into_iter().map(record).collect::<Result<_, _>>()?, revision })
    }

    /// All pairs below a prefix at one revision, page by page.
    async fn pairs(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), StorageError> {
        let range_end = prefix_end(prefix);
        let mut key = Bytes::copy_from_slice(prefix.as_bytes());
        let (mut revision, mut pairs) = (Revision::default(), Vec::new());
        loop {
            let at = signed(revision);
            let page = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision: at,
                count_only: false,
            };
            let (page, now) = self.range(page).await?;
            if at == 0 {
                revision = now;
            }
            // Copies: the bytes as they came are a part of a whole page, which they would keep in memory.
            pairs.extend(page.kvs.into_iter().map(|pair| KeyValue {
                value: Bytes::copy_from_slice(&pair.value),
                key: Bytes::copy_from_slice(&pair.key),
                ..pair
            }));
            match pairs.last() {
                Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok((revision, pairs)),
            }
        }
    }

    /// When a lease ends, in Unix seconds; `None` for one that has ended.
    async fn ends_at(&self, lease: i64) -> Result<Option<i64>, StorageError> {
        let answer =
            once(self.client.clone().time_to_live(proto::LeaseTimeToLiveRequest { id: lease })).await?;
        Ok((answer.ttl > 0).then(|| self.clock.now().as_second() + answer.ttl))
    }

    /// Moves etcd's revision on to at least this one, so that no client ever sees one go back. Costs a write a revision.
    ///
    /// # Errors
    /// etcd's.
    pub async fn raise(&self, to: Revision) -> Result<(), StorageError> {
        let key = Bytes::from_static(RAISE.as_bytes());
        let write = || TxnRequest {
            success: vec![RequestOp::of(Op::Put(PutRequest { key: key.clone(), ..PutRequest::default() }))],
            ..TxnRequest::default()
        };
        let now = self.revision().await?;
        let mut writes = stream::iter(now.0..to.0)
            .map(|_| once(self.client.clone().txn(write())))
            .buffer_unordered(RAISING);
        while let Some(result) = writes.next().await {
            result?;
        }
        if now < to {
            let remove = Op::Delete(DeleteRangeRequest { key: key.clone() });
            let request = TxnRequest { success: vec![RequestOp::of(remove)], ..TxnRequest::default() };
            once(self.client.clone().txn(request)).await?;
            self.compact(to).await?;
        }
        Ok(())
    }

    /// Whether what happened after a revision still is known, and not in the future.
    async fn check_known(&self, after: Revision) -> Result<(), StorageError> {
        // A store that nobody wrote to has revision 1.
        match self.range(RangeRequest { revision: signed(after).max(1), ..count() }).await {
            Ok(_) => Ok(()),
            // Compacted, or restored from an older backup: list again in both cases.
            Err(StorageError::Compacted { .. }) => {
                Err(StorageError::Compacted { oldest: self.revision().await? })
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Storage for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let (mut answer, _) = self.range(RangeRequest { key, ..RangeRequest::default() }).await?;
        answer.kvs.pop().map(record).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<Everything, StorageError> {
        let mut tried = 1;
        loop {
            match self.list_once(prefix).await {
                Err(StorageError::Compacted { .. }) if tried < LISTS => tried += 1,
                answer => return answer,
            }
        }
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError> {
        let write = |lease| {
            let key = Bytes::copy_from_slice(key.as_bytes());
            Op::Put(PutRequest { key, value: value.clone(), lease })
        };
        let Some(ttl) = ttl else { return self.transact(key, expect, write(0)).await };
        // etcd counts a lease's time on a clock that never goes back, and so do we.
        let now = seconds(self.clock.elapsed());
        let at = now + seconds(ttl);
        let lease = self.leases.for_time(at, now).await?;
        match self.transact(key, expect, write(lease)).await {
            Err(error) if errors::is_lease_gone(&error) => {
                self.leases.forget(lease);
                let lease = self.leases.for_time(at, now).await?;
                self.transact(key, expect, write(lease)).await
            }
            answer => answer,
        }
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        let request = DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()) };
        self.transact(key, Expect::At(expect), Op::Delete(request)).await
    }

    async fn revision(&self) -> Result<Revision, StorageError> {
        // A linearizable read, as every one that is not said to be serializable.
        Ok(self.range(count()).await?.1)
    }

    async fn watch(&self, after: Revision) -> Result<Changes, StorageError> {
        self.check_known(after).await?;
        let (watch, changes) =
            watch::Watch::new(self.client.clone(), &self.prefix, after, self.chance.clone());
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are taken off; what they had to say stands in their streams.
        while watches.try_join_next().is_some() {}
        watches.spawn(watch.run());
        Ok(changes)
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        let request = CompactionRequest { revision: signed(before) };
        match once(self.client.clone().compact(request)).await {
            // Somebody else compacted already.
            Err(error) if is_compacted(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn export(&self, prefix: &str) -> Result<Export, StorageError> {
        let (revision, pairs) = self.pairs(prefix).await?;
        let mut ends: BTreeMap<i64, Option<i64>> = BTreeMap::from([(0, None)]);
        let mut records = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let lease = pair.lease;
            if let Entry::Vacant(unknown) = ends.entry(lease) {
                unknown.insert(self.ends_at(lease).await?);
            }
            let expires_at = ends.get(&lease).copied().flatten();
            // What had a lease that has ended meanwhile is gone.
            if lease == 0 || expires_at.is_some() {
                records.push((record(pair)?, expires_at));
            }
        }
        Ok(Export { revision, records })
    }

    async fn expire(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2)
}

/// Asks for nothing but the revision of the answer.
fn count() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..RangeRequest::default() }
}

/// One try of a call.
async fn once<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, StorageError> {
    match tokio::time::timeout(TRY, call).await {
        Ok(answer) => answer.map_err(|status| translate(&status)),
        Err(_) => Err(StorageError::Unavailable(format!("etcd did not answer within {TRY:?}"))),
    }
}

/// The wait before try number `tried`: doubled each time up to two seconds, half of it by chance.
fn backoff(tried: u32, chance: &dyn Chance) -> Duration {
    let most = Duration::from_millis(25 << tried.min(6)).min(Duration::from_secs(2));
    most.mul_f64(0.5 + chance.fraction() / 2.0)
}

fn broken(path: &str, error: &dyn std::error::Error) -> StorageError {
    StorageError::Broken { path: path.to_owned(), problem: minik_component::chain(error) }
}

fn endpoint(server: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, StorageError> {
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| broken(server, &error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    match tls.filter(|_| server.starts_with("https:")) {
        Some(tls) => endpoint.tls_config(tls.clone()).map_err(|error| broken(server, &error)),
        None => Ok(endpoint),
    }
}

fn tls(config: &EtcdConfig) -> Result<Option<ClientTlsConfig>, StorageError> {
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(|error| broken(&path.display().to_string(), &error));
    if !config.servers.iter().any(|server| server.starts_with("https:")) {
        return Ok(None);
    }
    let mut tls = ClientTlsConfig::new();
    if let Some(path) = &config.ca_file {
        tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
    }
    if let Some((certificate, key)) = &config.identity_files {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(tls))
}

/// The first key after all that have the prefix.
fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    // All keys.
    Bytes::from_static(b"\0")
}

fn record(pair: KeyValue) -> Result<Record, StorageError> {
    let key = std::str::from_utf8(&pair.key).map_err(|_| odd("a key that is no text"))?;
    Ok(Record { key: key.into(), value: pair.value, revision: unsigned(pair.mod_revision) })
}

fn revision_of(header: Option<proto::Header>) -> Result<Revision, StorageError> {
    header.map(|header| unsigned(header.revision)).ok_or_else(|| odd("an answer without a revision"))
}

fn odd(what: &str) -> StorageError {
    StorageError::Unavailable(format!("etcd gave {what}"))
}

/// etcd counts revisions from 1 in signed numbers; none of them is negative.
fn unsigned(revision: i64) -> Revision {
    Revision(revision.max(0).cast_unsigned())
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
