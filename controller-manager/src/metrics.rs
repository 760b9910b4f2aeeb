//! Metrics by upstream's names.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What the controllers count.
#[derive(Clone)]
pub struct Metrics {
    depth: IntGaugeVec,
    work_seconds: HistogramVec,
    retries: IntCounterVec,
    /// Pods evicted for taints.
    pub evicted: IntCounter,
    /// Pods deleted because nobody else would, by cause.
    pub pods_collected: IntCounterVec,
}

impl Metrics {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let depth = Opts::new("workqueue_depth", "Keys that wait in a controller's queue");
        let work = HistogramOpts::new("workqueue_work_duration_seconds", "Time that a key takes")
            .buckets(prometheus::exponential_buckets(1e-4, 10.0, 7)?);
        let retries = Opts::new("workqueue_retries_total", "Keys that failed and are tried again");
        let evicted = Opts::new(
            "taint_eviction_controller_pod_deletions_total",
            "Pods deleted for taints that they do not tolerate",
        );
        let collected =
            Opts::new("pod_gc_collector_force_delete_pods_total", "Pods deleted because nobody else would");
        let metrics = Metrics {
            depth: IntGaugeVec::new(depth, &["name"])?,
            work_seconds: HistogramVec::new(work, &["name"])?,
            retries: IntCounterVec::new(retries, &["name"])?,
            evicted: IntCounter::with_opts(evicted)?,
            pods_collected: IntCounterVec::new(collected, &["reason"])?,
        };
        registry.register(Box::new(metrics.depth.clone()))?;
        registry.register(Box::new(metrics.work_seconds.clone()))?;
        registry.register(Box::new(metrics.retries.clone()))?;
        registry.register(Box::new(metrics.evicted.clone()))?;
        registry.register(Box::new(metrics.pods_collected.clone()))?;
        Ok(metrics)
    }

    /// Notes how many keys wait.
    pub fn depth(&self, queue: &str, depth: usize) {
        self.depth.with_label_values(&[queue]).set(depth as i64);
    }

    /// Notes how long a key took.
    pub fn worked(&self, queue: &str, seconds: f64) {
        self.work_seconds.with_label_values(&[queue]).observe(seconds);
    }

    /// Notes that a key is tried again.
    pub fn retried(&self, queue: &str) {
        self.retries.with_label_values(&[queue]).inc();
    }
}
