//! The kubelet's metrics, by upstream's names.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// The kubelet's metrics.
#[derive(Clone)]
pub struct Metrics {
    running_pods: IntGauge,
    running_containers: IntGaugeVec,
    started_pods: IntCounter,
    started_containers: IntCounterVec,
    started_pods_errors: IntCounter,
    started_containers_errors: IntCounterVec,
    pod_start: Histogram,
    worker: HistogramVec,
    evictions: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry, node: &str) -> Result<Metrics, prometheus::Error> {
        let counter = |name: &str, help: &str, label: &str| {
            let vec = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let plain = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let buckets = || prometheus::exponential_buckets(0.005, 2.0, 14);
        let name = IntGaugeVec::new(
            Opts::new("kubelet_node_name", "The node's name; the value is always 1"),
            &["node"],
        )?;
        registry.register(Box::new(name.clone()))?;
        name.with_label_values(&[node]).set(1);
        let running_pods = IntGauge::new("kubelet_running_pods", "Pods with a running sandbox")?;
        registry.register(Box::new(running_pods.clone()))?;
        let running_containers = IntGaugeVec::new(
            Opts::new("kubelet_running_containers", "Containers by their state"),
            &["container_state"],
        )?;
        registry.register(Box::new(running_containers.clone()))?;
        let pod_start = Histogram::with_opts(
            HistogramOpts::new(
                "kubelet_pod_start_duration_seconds",
                "From the kubelet seeing a Pod for the first time to the Pod running",
            )
            .buckets(buckets()?),
        )?;
        registry.register(Box::new(pod_start.clone()))?;
        let worker = HistogramVec::new(
            HistogramOpts::new(
                "kubelet_pod_worker_duration_seconds",
                "One look at a Pod, with what was done",
            )
            .buckets(buckets()?),
            &["operation_type"],
        )?;
        registry.register(Box::new(worker.clone()))?;
        Ok(Metrics {
            running_pods,
            running_containers,
            pod_start,
            worker,
            started_pods: plain("kubelet_started_pods_total", "Sandboxes that were begun")?,
            started_pods_errors: plain(
                "kubelet_started_pods_errors_total",
                "Sandboxes that could not be made",
            )?,
            started_containers: counter(
                "kubelet_started_containers_total",
                "Containers that were begun",
                "container_type",
            )?,
            started_containers_errors: counter(
                "kubelet_started_containers_errors_total",
                "Containers that could not be started",
                "container_type",
            )?,
            evictions: counter("kubelet_evictions", "Pods that were evicted", "eviction_signal")?,
        })
    }

    /// A sandbox was begun.
    pub fn sandbox(&self, is_made: bool) {
        self.started_pods.inc();
        if !is_made {
            self.started_pods_errors.inc();
        }
    }

    /// A container was begun.
    pub fn container(&self, kind: crate::pod::Kind, is_started: bool) {
        use crate::pod::Kind;
        let label = match kind {
            Kind::Init | Kind::Sidecar => "init_container",
            Kind::Main => "container",
            Kind::Ephemeral => "ephemeral_container",
        };
        self.started_containers.with_label_values(&[label]).inc();
        if !is_started {
            self.started_containers_errors.with_label_values(&[label]).inc();
        }
    }

    /// A Pod runs for the first time.
    pub fn pod_runs(&self, after: Duration) {
        self.pod_start.observe(after.as_secs_f64());
    }

    /// One look at a Pod was taken.
    pub fn looked(&self, operation: &'static str, took: Duration) {
        self.worker.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// A Pod was evicted.
    pub fn evicted(&self, signal: &str) {
        self.evictions.with_label_values(&[signal]).inc();
    }

    /// How much there is now.
    pub fn population(&self, pods: usize, states: [(&'static str, usize); 3]) {
        self.running_pods.set(pods as i64);
        for (state, count) in states {
            self.running_containers.with_label_values(&[state]).set(count as i64);
        }
    }
}
