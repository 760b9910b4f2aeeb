//! What allocation counts, by upstream's names.

use super::Cidr;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Whether somebody asked for one by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// By name.
    Static,
    /// Any.
    Dynamic,
}

impl Scope {
    pub fn of(wanted: bool) -> Scope {
        if wanted { Scope::Static } else { Scope::Dynamic }
    }

    fn name(self) -> &'static str {
        match self {
            Scope::Static => "static",
            Scope::Dynamic => "dynamic",
        }
    }
}

/// The counts.
#[derive(Clone)]
pub struct Counts {
    /// By range: how many are held, and how many are left.
    addresses: Vec<(Cidr, [IntGauge; 2])>,
    /// By whether it came to something.
    address_tries: [IntCounterVec; 2],
    /// Held, and left of so many.
    ports: ([IntGauge; 2], usize),
    port_tries: [IntCounterVec; 2],
    pub(super) address_errors: IntCounterVec,
    pub(super) port_errors: IntCounterVec,
    pub(super) failed_address_repairs: IntCounter,
    pub(super) failed_port_repairs: IntCounter,
}

impl Counts {
    /// Registers all.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn new(
        ranges: &[Cidr],
        ports: &RangeInclusive<u16>,
        registry: &Registry,
    ) -> Result<Counts, prometheus::Error> {
        let vec = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let one = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauges = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["cidr"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let (ips, node_ports) = ("kube_apiserver_clusterip_allocator", "kube_apiserver_nodeport_allocator");
        let held = gauges(&format!("{ips}_allocated_ips"), "Addresses that Services hold")?;
        let left = gauges(&format!("{ips}_available_ips"), "Addresses that are free")?;
        let of = |range: &Cidr| {
            let (label, offsets) = ([range.to_string()], range.offsets());
            let gauges = [held.with_label_values(&label), left.with_label_values(&label)];
            gauges[1].set((offsets.end() - offsets.start() + 1) as i64);
            (*range, gauges)
        };
        let ports_held = gauge(&format!("{node_ports}_allocated_ports"), "Node ports that Services hold")?;
        let ports_left = gauge(&format!("{node_ports}_available_ports"), "Node ports that are free")?;
        ports_left.set(ports.len() as i64);
        Ok(Counts {
            addresses: ranges.iter().map(of).collect(),
            address_tries: [
                vec(&format!("{ips}_allocation_errors_total"), "Addresses not given", &["cidr", "scope"])?,
                vec(&format!("{ips}_allocation_total"), "Addresses given", &["cidr", "scope"])?,
            ],
            ports: ([ports_held, ports_left], ports.len()),
            port_tries: [
                vec(&format!("{node_ports}_allocation_errors_total"), "Node ports not given", &["scope"])?,
                vec(&format!("{node_ports}_allocation_total"), "Node ports given", &["scope"])?,
            ],
            address_errors: vec(
                "apiserver_clusterip_repair_ip_errors_total",
                "Addresses that were found wrong",
                &["type"],
            )?,
            port_errors: vec(
                "apiserver_nodeport_repair_port_errors_total",
                "Node ports that were found wrong",
                &["type"],
            )?,
            failed_address_repairs: one(
                "apiserver_clusterip_repair_reconcile_errors_total",
                "Repairs of addresses that failed",
            )?,
            failed_port_repairs: one(
                "apiserver_nodeport_repair_reconcile_errors_total",
                "Repairs of node ports that failed",
            )?,
        })
    }

    /// Services hold an address more (1) or less (-1).
    pub(super) fn holds(&self, ip: IpAddr, more: i64) {
        if let Some((_, [held, left])) = self.addresses.iter().find(|(range, _)| range.has(ip)) {
            held.add(more);
            left.sub(more);
        }
    }

    pub(super) fn ports_held(&self, held: usize) {
        let ([gauge, left], of) = &self.ports;
        gauge.set(held as i64);
        left.set(*of as i64 - held as i64);
    }

    pub(super) fn gave_address(&self, range: &str, scope: Scope, given: bool) {
        self.address_tries[usize::from(given)].with_label_values(&[range, scope.name()]).inc();
    }

    pub(super) fn gave_port(&self, scope: Scope, given: bool) {
        self.port_tries[usize::from(given)].with_label_values(&[scope.name()]).inc();
    }
}
