//! A store whose requests are counted and timed, under upstream's metric names.

use crate::{Changes, Everything, Expect, Export, Record, Revision, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Upstream's buckets, and finer ones below them: an embedded store answers in a fraction of a millisecond.
const BUCKETS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 15.0, 60.0];

/// Group and resource of a key, from the closed set of what is served.
pub type Label = dyn Fn(&str) -> (&'static str, &'static str) + Send + Sync;

/// A store whose requests are counted and timed.
pub struct Measured {
    store: Arc<dyn Storage>,
    label: Box<Label>,
    seconds: HistogramVec,
    requests: IntCounterVec,
    errors: IntCounterVec,
}

impl Measured {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(
        store: Arc<dyn Storage>,
        label: Box<Label>,
        registry: &Registry,
    ) -> Result<Measured, prometheus::Error> {
        let labels = ["operation", "group", "resource"];
        let options =
            HistogramOpts::new("etcd_request_duration_seconds", "Seconds that requests to the store took")
                .buckets(BUCKETS.to_vec());
        let seconds = HistogramVec::new(options, &labels)?;
        let requests =
            IntCounterVec::new(Opts::new("etcd_requests_total", "Requests to the store"), &labels)?;
        let errors = IntCounterVec::new(
            Opts::new("etcd_request_errors_total", "Requests to the store that failed"),
            &labels,
        )?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Measured { store, label, seconds, requests, errors })
    }

    async fn measure<T>(
        &self,
        operation: &str,
        key: &str,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let (group, resource) = (self.label)(key);
        let labels = [operation, group, resource];
        // Time that passed for the machine, whatever clock decides; it goes nowhere but into the metric.
        let start = Instant::now();
        let result = request.await;
        self.seconds.with_label_values(&labels).observe(start.elapsed().as_secs_f64());
        self.requests.with_label_values(&labels).inc();
        // A conflict is an answer.
        if result.as_ref().is_err_and(|error| !matches!(error, StorageError::Conflict(_))) {
            self.errors.with_label_values(&labels).inc();
        }
        result
    }
}

#[async_trait]
impl Storage for Measured {
    async fn get(&self, key: &str) -> Result<Option<Record>, StorageError> {
        self.measure("get", key, self.store.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Everything, StorageError> {
        self.measure("list", prefix, self.store.list(prefix)).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StorageError> {
        let operation = if expect == Expect::Absent { "create" } else { "update" };
        self.measure(operation, key, self.store.put(key, value, expect, ttl)).await
    }

    async fn delete(&self, key: &str, expect: Revision) -> Result<Revision, StorageError> {
        self.measure("delete", key, self.store.delete(key, expect)).await
    }

    async fn revision(&self) -> Result<Revision, StorageError> {
        self.measure("revision", "", self.store.revision()).await
    }

    async fn watch(&self, after: Revision) -> Result<Changes, StorageError> {
        self.store.watch(after).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        self.measure("compact", "", self.store.compact(before)).await
    }

    async fn export(&self, prefix: &str) -> Result<Export, StorageError> {
        self.store.export(prefix).await
    }

    async fn expire(&self) -> Result<(), StorageError> {
        self.store.expire().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    #[tokio::test]
    async fn requests_are_counted_by_resource() {
        let registry = Registry::new();
        let label = |key: &str| if key.starts_with("/pods/") { ("", "pods") } else { ("", "") };
        let store = Measured::new(Arc::new(Memory::new()), Box::new(label), &registry).unwrap();
        let revision = store.put("/pods/a", Bytes::new(), Expect::Absent, None).await.unwrap();
        assert!(store.put("/pods/a", Bytes::new(), Expect::Absent, None).await.is_err());
        store.delete("/pods/a", revision).await.unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"etcd_requests_total{group="",operation="create",resource="pods"} 2"#,
            r#"etcd_requests_total{group="",operation="delete",resource="pods"} 1"#,
            r#"etcd_request_duration_seconds_count{group="",operation="create",resource="pods"} 2"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("etcd_request_errors_total{"), "a conflict is an answer");
    }
}
