//! Metrics by upstream's names.

use prometheus::{CounterVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// What the server counts.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    inflight: IntGaugeVec,
    long_running: IntGaugeVec,
    refused: IntCounterVec,
    panics: CounterVec,
}

/// What a request is, in words of a closed set.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// The verb, in upstream's capitals.
    pub verb: &'a str,
    /// The group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// The subresource.
    pub subresource: &'a str,
    /// `namespace`, `cluster` or `resource`.
    pub scope: &'a str,
}

impl Metrics {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let buckets = vec![
            0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
            15.0, 20.0, 30.0, 45.0, 60.0,
        ];
        let labels = ["verb", "group", "version", "resource", "subresource", "scope"];
        let metrics = Metrics {
            requests: IntCounterVec::new(
                Opts::new(
                    "apiserver_request_total",
                    "Requests, by what was asked for and the code of the answer",
                ),
                &["verb", "group", "version", "resource", "subresource", "scope", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "apiserver_request_duration_seconds",
                    "Seconds until the answer, but for watches",
                )
                .buckets(buckets),
                &labels,
            )?,
            inflight: IntGaugeVec::new(
                Opts::new("apiserver_current_inflight_requests", "Requests under way"),
                &["request_kind"],
            )?,
            long_running: IntGaugeVec::new(
                Opts::new("apiserver_longrunning_requests", "Watches, logs and proxied requests under way"),
                &labels,
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "apiserver_request_terminations_total",
                    "Requests that were refused to protect the server",
                ),
                &["code"],
            )?,
            panics: CounterVec::new(
                Opts::new("apiserver_request_aborts_total", "Requests that ended in a defect of the server"),
                &["verb"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.inflight.clone()))?;
        registry.register(Box::new(metrics.long_running.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.panics.clone()))?;
        Ok(metrics)
    }

    /// A request was answered.
    pub fn answered(&self, labels: Labels<'_>, code: u16, seconds: Option<f64>) {
        let Labels { verb, group, version, resource, subresource, scope } = labels;
        let code = code.to_string();
        let all = [verb, group, version, resource, subresource, scope, &code];
        self.requests.with_label_values(&all).inc();
        if let Some(seconds) = seconds {
            self.seconds.with_label_values(&all[..6]).observe(seconds);
        }
    }

    /// A gauge of requests under way, `mutating` or `readOnly`.
    pub fn inflight(&self, mutating: bool) -> prometheus::IntGauge {
        self.inflight.with_label_values(&[if mutating { "mutating" } else { "readOnly" }])
    }

    /// A gauge of long requests under way.
    pub fn long_running(&self, labels: Labels<'_>) -> prometheus::IntGauge {
        let Labels { verb, group, version, resource, subresource, scope } = labels;
        self.long_running.with_label_values(&[verb, group, version, resource, subresource, scope])
    }

    /// A request was refused to protect the server.
    pub fn refused(&self, code: u16) {
        self.refused.with_label_values(&[&code.to_string()]).inc();
    }

    /// A request ended in a defect.
    pub fn panicked(&self, verb: &str) {
        self.panics.with_label_values(&[verb]).inc();
    }
}
