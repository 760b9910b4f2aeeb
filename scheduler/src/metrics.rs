//! Metrics by upstream's names.

use crate::queue::Pending;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

/// What the scheduler counts.
#[derive(Clone)]
pub struct Metrics {
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    algorithm_seconds: Histogram,
    pending: IntGaugeVec,
    pod_attempts: Histogram,
    pod_seconds: HistogramVec,
    preemptions: IntCounter,
    victims: Histogram,
}

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Bound.
    Scheduled,
    /// No node does.
    Unschedulable,
    /// Something failed.
    Error,
}

impl Metrics {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let doubled = |first: f64, count| prometheus::exponential_buckets(first, 2.0, count);
        let attempts = Opts::new("scheduler_schedule_attempts_total", "Attempts to schedule Pods, by result");
        let attempt = HistogramOpts::new(
            "scheduler_scheduling_attempt_duration_seconds",
            "Time of a scheduling attempt, binding included",
        );
        let algorithm =
            HistogramOpts::new("scheduler_scheduling_algorithm_duration_seconds", "Time of a decision");
        let pending = Opts::new("scheduler_pending_pods", "Pods that wait, by queue");
        let pod_attempts =
            HistogramOpts::new("scheduler_pod_scheduling_attempts", "Attempts until a Pod was bound");
        let pod = HistogramOpts::new(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Time from a Pod's first attempt until it was bound",
        );
        let preemptions =
            Opts::new("scheduler_preemption_attempts_total", "Times that preemption was thought of");
        let victims = HistogramOpts::new("scheduler_preemption_victims", "Pods pushed out at a time");
        let metrics = Metrics {
            attempts: IntCounterVec::new(attempts, &["result", "profile"])?,
            attempt_seconds: HistogramVec::new(attempt.buckets(doubled(0.001, 15)?), &["result", "profile"])?,
            algorithm_seconds: Histogram::with_opts(algorithm.buckets(doubled(0.001, 15)?))?,
            pending: IntGaugeVec::new(pending, &["queue"])?,
            pod_attempts: Histogram::with_opts(pod_attempts.buckets(doubled(1.0, 5)?))?,
            pod_seconds: HistogramVec::new(pod.buckets(doubled(0.01, 20)?), &["attempts"])?,
            preemptions: IntCounter::with_opts(preemptions)?,
            victims: Histogram::with_opts(victims.buckets(doubled(1.0, 7)?))?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.attempt_seconds.clone()))?;
        registry.register(Box::new(metrics.algorithm_seconds.clone()))?;
        registry.register(Box::new(metrics.pending.clone()))?;
        registry.register(Box::new(metrics.pod_attempts.clone()))?;
        registry.register(Box::new(metrics.pod_seconds.clone()))?;
        registry.register(Box::new(metrics.preemptions.clone()))?;
        registry.register(Box::new(metrics.victims.clone()))?;
        Ok(metrics)
    }

    /// Notes an attempt.
    pub fn attempt(&self, outcome: Outcome, profile: &str, seconds: f64) {
        let result = match outcome {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        };
        self.attempts.with_label_values(&[result, profile]).inc();
        self.attempt_seconds.with_label_values(&[result, profile]).observe(seconds);
    }

    /// Notes a decision's time.
    pub fn decided(&self, seconds: f64) {
        self.algorithm_seconds.observe(seconds);
    }

    /// Notes that a Pod was bound.
    pub fn bound(&self, attempts: u32, seconds: f64) {
        self.pod_attempts.observe(f64::from(attempts));
        let label = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
        self.pod_seconds.with_label_values(&[label.as_str()]).observe(seconds);
    }

    /// Notes a thought of preemption and how many were pushed out.
    pub fn preempted(&self, victims: usize) {
        self.preemptions.inc();
        if victims > 0 {
            self.victims.observe(victims as f64);
        }
    }

    /// Notes how many Pods wait.
    pub fn pending(&self, pending: Pending) {
        let counts = [
            ("active", pending.active),
            ("backoff", pending.backoff),
            ("unschedulable", pending.unschedulable),
            ("gated", pending.gated),
        ];
        for (queue, count) in counts {
            self.pending.with_label_values(&[queue]).set(count as i64);
        }
    }
}
