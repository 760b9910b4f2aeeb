//! Metrics by CoreDNS' names.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_server::net::xfer::Protocol;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::net::SocketAddr;

/// What the server counts.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    seconds: HistogramVec,
    hits: IntCounterVec,
    misses: IntCounterVec,
}

/// Every family counts for this server, as CoreDNS names one.
const SERVER: &str = "dns://:53";

impl Metrics {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let requests = Opts::new("coredns_dns_requests_total", "Questions, by zone, transport and type");
        let responses = Opts::new("coredns_dns_responses_total", "Answers, by zone and code");
        let seconds = HistogramOpts::new("coredns_dns_request_duration_seconds", "Time to an answer")
            .buckets(prometheus::exponential_buckets(0.00025, 2.0, 16)?);
        let hits = Opts::new("coredns_cache_hits_total", "Questions that were answered from the cache");
        let misses = Opts::new("coredns_cache_misses_total", "Questions that were not in the cache");
        let metrics = Metrics {
            requests: IntCounterVec::new(requests, &["server", "zone", "proto", "family", "type"])?,
            responses: IntCounterVec::new(responses, &["server", "zone", "rcode"])?,
            seconds: HistogramVec::new(seconds, &["server", "zone"])?,
            hits: IntCounterVec::new(hits, &["server", "type"])?,
            misses: IntCounterVec::new(misses, &["server"])?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.responses.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.hits.clone()))?;
        registry.register(Box::new(metrics.misses.clone()))?;
        Ok(metrics)
    }

    /// Counts a question.
    pub fn asked(&self, zone: &str, protocol: Protocol, source: SocketAddr, kind: RecordType) {
        let protocol = if protocol == Protocol::Udp { "udp" } else { "tcp" };
        let family = if source.is_ipv4() { "1" } else { "2" };
        self.requests.with_label_values(&[SERVER, zone, protocol, family, type_label(kind)]).inc();
    }

    /// Counts an answer and the time that it took.
    pub fn answered(&self, zone: &str, code: ResponseCode, seconds: f64) {
        self.responses.with_label_values(&[SERVER, zone, code_label(code)]).inc();
        self.seconds.with_label_values(&[SERVER, zone]).observe(seconds);
    }

    /// Counts what the cache knew: that there is something, that there is nothing, or neither.
    pub fn cached(&self, found: Option<bool>) {
        match found {
            Some(true) => self.hits.with_label_values(&[SERVER, "success"]).inc(),
            Some(false) => self.hits.with_label_values(&[SERVER, "denial"]).inc(),
            None => self.misses.with_label_values(&[SERVER]).inc(),
        }
    }
}

/// Types by name, out of a closed set.
fn type_label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        _ => "other",
    }
}
