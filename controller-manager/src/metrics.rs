//! Metrics by upstream's names.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What the controllers count.
#[derive(Clone)]
pub struct Metrics {
    depth: IntGaugeVec,
    work_seconds: HistogramVec,
    retries: IntCounterVec,
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
        let metrics = Metrics {
            depth: IntGaugeVec::new(depth, &["name"])?,
            work_seconds: HistogramVec::new(work, &["name"])?,
            retries: IntCounterVec::new(retries, &["name"])?,
        };
        registry.register(Box::new(metrics.depth.clone()))?;
        registry.register(Box::new(metrics.work_seconds.clone()))?;
        registry.register(Box::new(metrics.retries.clone()))?;
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
