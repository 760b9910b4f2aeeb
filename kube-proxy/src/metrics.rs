//! Metrics by upstream's names.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What the proxy counts.
#[derive(Clone)]
pub struct Metrics {
    /// Time of a write to the kernel.
    pub sync_seconds: Histogram,
    /// Time from a change's cause until the kernel knew it.
    pub programming_seconds: Histogram,
    /// Changes of endpoints that were written, and that wait.
    pub endpoint_changes: IntCounter,
    /// Those that wait.
    pub endpoint_changes_pending: IntGauge,
    /// Changes of Services that were written.
    pub service_changes: IntCounter,
    /// Those that wait.
    pub service_changes_pending: IntGauge,
    /// When the kernel was last written.
    pub last_sync: Gauge,
    /// When a change last came.
    pub last_queued: Gauge,
    /// Writes that the kernel refused.
    pub failures: IntCounter,
    /// Connections that were forgotten.
    pub flows_forgotten: IntCounter,
    /// Answers of the health endpoints, by code.
    pub healthz: IntCounterVec,
    /// Those of liveness.
    pub livez: IntCounterVec,
}

impl Metrics {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let named = |name: &str| format!("kubeproxy_{name}");
        let doubled = prometheus::exponential_buckets(0.0005, 2.0, 17)?;
        let histogram = |name, help| -> Result<Histogram, prometheus::Error> {
            let metric =
                Histogram::with_opts(HistogramOpts::new(named(name), help).buckets(doubled.clone()))?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counter = |name, help| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(named(name), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(named(name), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let time = |name, help| -> Result<Gauge, prometheus::Error> {
            let metric = Gauge::new(named(name), help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let coded = |name, help| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(named(name), help), &["code"])?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        Ok(Metrics {
            sync_seconds: histogram("sync_proxy_rules_duration_seconds", "Time of a write of rules")?,
            programming_seconds: histogram(
                "network_programming_duration_seconds",
                "Time from a change's cause until the rules knew it",
            )?,
            endpoint_changes: counter("sync_proxy_rules_endpoint_changes_total", "Changes of endpoints")?,
            endpoint_changes_pending: gauge(
                "sync_proxy_rules_endpoint_changes_pending",
                "Changes of endpoints that are not written yet",
            )?,
            service_changes: counter("sync_proxy_rules_service_changes_total", "Changes of Services")?,
            service_changes_pending: gauge(
                "sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not written yet",
            )?,
            last_sync: time("sync_proxy_rules_last_timestamp_seconds", "When rules were last written")?,
            last_queued: time(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change of rules last came",
            )?,
            failures: counter(
                "sync_proxy_rules_nftables_sync_failures_total",
                "Writes of rules that failed",
            )?,
            flows_forgotten: counter(
                "conntrack_reconciler_deleted_entries_total",
                "Stale connections that were forgotten",
            )?,
            healthz: coded("proxy_healthz_total", "Answers of /healthz")?,
            livez: coded("proxy_livez_total", "Answers of /livez")?,
        })
    }
}
