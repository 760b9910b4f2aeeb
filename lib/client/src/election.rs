//! Leader election on a Lease, as upstream's components do it
//! (<https://kubernetes.io/docs/concepts/architecture/leases/#leader-election>).

use crate::{Backoff, ClientError, call};
use minik_component::{Chance, Clock, Shutdown, chain};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A server that cannot be reached yet is asked again this soon, at first.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// Whose lease, and how long.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// This candidate; unique among all.
    pub identity: String,
    /// Others wait this long after the last renewal before they take over.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long gives up.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry_period: Duration,
}

impl ElectorConfig {
    /// With upstream's times: 15, 10 and 2 seconds.
    pub fn new(namespace: &str, name: &str, identity: String) -> ElectorConfig {
        ElectorConfig {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// How leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Led<T> {
    /// The work ended by itself or after the wish to end; the lease was given back.
    Done(T),
    /// The end was asked for before this candidate led.
    Never,
    /// The lease could not be renewed; the work was told to end and has ended. The process should end too.
    Lost,
}

/// A candidate.
pub struct Elector {
    config: ElectorConfig,
    client: kube::Client,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    /// The record last seen and when: a lease is over when it has not changed for its duration by our own clock.
    seen: Option<(LeaseSpec, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    holder_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_duration_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acquire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_transitions: Option<i64>,
    /// What others keep there (a strategy, a preferred holder) survives.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    spec: LeaseSpec,
}

impl Elector {
    /// A candidate that has not run yet.
    pub fn new(
        config: ElectorConfig,
        client: kube::Client,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Elector {
        Elector { config, client, clock, chance, seen: None }
    }

    /// Waits until this candidate leads, then does `work` while it leads. The work's shutdown is requested when the
    /// lease is lost or the end is asked for; the lease is given back after the work has ended.
    pub async fn lead<F, T>(mut self, shutdown: Shutdown, work: impl FnOnce(Shutdown) -> F) -> Led<T>
    where
        F: Future<Output = T>,
    {
        // Cancel-safe: an acquired lease that nobody holds on to runs out.
        tokio::select! {
            biased;
            () = shutdown.requested() => return Led::Never,
            () = self.acquire() => {}
        }
        tracing::info!(lease = self.config.name, identity = self.config.identity, "became the leader");
        let term = shutdown.child();
        let mut work = std::pin::pin!(work(term.clone()));
        // Cancel-safe: a renewal that was cut off is done again or the lease is given back below.
        let done = tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = self.hold() => None,
        };
        match done {
            Some(done) => {
                self.release().await;
                Led::Done(done)
            }
            None => {
                tracing::error!(lease = self.config.name, "lost the lease");
                term.request();
                work.await;
                Led::Lost
            }
        }
    }

    async fn acquire(&mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, self.config.retry_period);
        loop {
            let wait = match self.try_to_hold().await {
                Ok(true) => return,
                Ok(false) => {
                    let period = self.config.retry_period;
                    period + period.mul_f64(1.2 * self.chance.fraction())
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "cannot get the lease yet");
                    backoff.next(&*self.chance)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Renews until that failed for too long.
    async fn hold(&mut self) {
        let mut renewed = self.clock.elapsed();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let left =
                self.config.renew_deadline.saturating_sub(self.clock.elapsed().saturating_sub(renewed));
            match tokio::time::timeout(left, self.try_to_hold()).await {
                Ok(Ok(true)) => renewed = self.clock.elapsed(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot renew the lease"),
                Err(_) => return,
            }
            if self.clock.elapsed().saturating_sub(renewed) >= self.config.renew_deadline {
                return;
            }
        }
    }

    fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.config.namespace)
    }

    /// Takes or renews the lease if it is ours or nobody's. False when another holds it.
    async fn try_to_hold(&mut self) -> Result<bool, ClientError> {
        let path = format!("{}/{}", self.path(), self.config.name);
        let mut lease: Lease = match call::get(&self.client, &path).await {
            Ok(lease) => lease,
            Err(error) if call::refusal(&error) == Some(404) => return self.create().await,
            Err(error) => return Err(error),
        };
        let now = self.clock.elapsed();
        if self.seen.as_ref().is_none_or(|(spec, _)| *spec != lease.spec) {
            self.seen = Some((lease.spec.clone(), now));
        }
        let holder = lease.spec.holder_identity.clone().unwrap_or_default();
        let ours = holder == self.config.identity;
        let seconds = lease.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = seconds.map_or(self.config.lease_duration, Duration::from_secs);
        let seen = self.seen.as_ref().map_or(now, |(_, at)| *at);
        if !ours && !holder.is_empty() && now < seen + lasts {
            return Ok(false);
        }
        self.fill(&mut lease.spec, ours);
        self.put(&path, lease).await
    }

    fn fill(&self, spec: &mut LeaseSpec, ours: bool) {
        let now = format!("{:.6}", self.clock.now());
        if !ours {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = i64::try_from(self.config.lease_duration.as_secs()).ok();
        spec.renew_time = Some(now);
    }

    async fn create(&mut self) -> Result<bool, ClientError> {
        let mut spec = LeaseSpec::default();
        self.fill(&mut spec, false);
        spec.lease_transitions = Some(0);
        let metadata = [("name", &self.config.name), ("namespace", &self.config.namespace)]
            .map(|(name, value)| (name.to_owned(), value.clone().into()));
        let lease = Lease {
            api_version: "coordination.k8s.io/v1".into(),
            kind: "Lease".into(),
            metadata: metadata.into_iter().collect(),
            spec,
        };
        self.settle(call::post::<Lease>(&self.client, &self.path(), &lease).await)
    }

    async fn put(&mut self, path: &str, lease: Lease) -> Result<bool, ClientError> {
        self.settle(call::put::<Lease>(&self.client, path, &lease).await)
    }

    /// Remembers what was written. Another was faster: false.
    fn settle(&mut self, written: Result<Lease, ClientError>) -> Result<bool, ClientError> {
        match written {
            Ok(lease) => {
                self.seen = Some((lease.spec, self.clock.elapsed()));
                Ok(true)
            }
            Err(error) if call::refusal(&error) == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, so that another need not wait.
    async fn release(&mut self) {
        let path = format!("{}/{}", self.path(), self.config.name);
        let release = async {
            let mut lease: Lease = call::get(&self.client, &path).await?;
            if lease.spec.holder_identity.as_deref() != Some(&self.config.identity) {
                return Ok(());
            }
            let now = format!("{:.6}", self.clock.now());
            lease.spec.holder_identity = Some(String::new());
            lease.spec.lease_duration_seconds = Some(1);
            (lease.spec.acquire_time, lease.spec.renew_time) = (Some(now.clone()), Some(now));
            call::put::<Lease>(&self.client, &path, &lease).await.map(drop)
        };
        match tokio::time::timeout(self.config.retry_period, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "cannot give the lease back"),
            Err(_) => tracing::debug!("cannot give the lease back in time"),
        }
    }
}
