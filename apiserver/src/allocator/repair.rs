//! What leaked is freed, what is missing is claimed anew: every server compares Services with claims now and then, as
//! upstream's repair controllers do. The comparison is pure; each write is one that another server may make as well.

use super::claim::{FAMILY, IP_ADDRESSES, MANAGED_BY, MANAGER, Owner, family, ip_address};
use super::{ADDRESSES, Allocators, SERVICES};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::loopback::Place;
use crate::object::Object;
use jiff::{SignedDuration, Timestamp};
use minik_apimachinery::time;
use minik_registry::held_by_service;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How long a claim may be without its Service, which is still being made.
const GRACE: SignedDuration = SignedDuration::from_secs(60);
/// How often a port must be found leaked before it is freed.
const LOOKS: u8 = 3;

/// By port: how often it was found leaked.
pub(crate) type Leaks = BTreeMap<u16, u8>;

/// Something that was wrong, told by an event on the object.
#[derive(Debug, PartialEq)]
struct Finding {
    about: Value,
    reason: &'static str,
    message: String,
}

/// What to write.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// IPAddresses that go, by name and uid; before new ones are made.
    remove: Vec<(String, String)>,
    make: Vec<Value>,
    findings: Vec<Finding>,
}

fn owner_of(object: &Value) -> Owner<'_> {
    Owner { namespace: object.meta("namespace"), name: object.meta("name") }
}

/// Compares what Services hold with IPAddresses.
fn plan(services: &[Value], addresses: &[Value], in_range: &dyn Fn(IpAddr) -> bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let held: BTreeMap<(&str, &str), Vec<String>> = services
        .iter()
        .map(|one| ((one.meta("namespace"), one.meta("name")), held_by_service(one).cluster_ips))
        .collect();
    let by_name: BTreeMap<&str, &Value> = addresses.iter().map(|one| (one.meta("name"), one)).collect();
    for service in services {
        for ip in held_by_service(service).cluster_ips {
            let Ok(address) = ip.parse::<IpAddr>() else { continue };
            plan.service(service, address, by_name.get(&*ip).copied(), &held, in_range);
        }
    }
    for address in addresses.iter().filter(|one| one["metadata"]["labels"][MANAGED_BY] == MANAGER) {
        plan.address(address, &held, now);
    }
    plan
}

impl Plan {
    fn find(&mut self, about: &Value, reason: &'static str, message: String) {
        self.findings.push(Finding { about: about.clone(), reason, message });
    }

    fn remove(&mut self, address: &Value) {
        self.remove.push((address.meta("name").to_owned(), address.meta("uid").to_owned()));
    }

    /// A Service's address has an object that names the Service.
    fn service(
        &mut self,
        service: &Value,
        ip: IpAddr,
        claim: Option<&Value>,
        held: &BTreeMap<(&str, &str), Vec<String>>,
        in_range: &dyn Fn(IpAddr) -> bool,
    ) {
        let owner = owner_of(service);
        let named = format!("Cluster IP [{}]: {ip}", family(ip));
        if !in_range(ip) {
            let why = format!("{named} is not within any configured Service CIDR; please recreate service");
            return self.find(service, "ClusterIPOutOfRange", why);
        }
        let Some(claim) = claim else {
            self.find(service, "ClusterIPNotAllocated", format!("{named} is not allocated; repairing"));
            return self.make.push(ip_address(ip, owner));
        };
        let parent = parent_of(claim);
        if parent == Some(owner) {
            let labels = &claim["metadata"]["labels"];
            if labels[FAMILY] != family(ip) || labels[MANAGED_BY] != MANAGER {
                self.remove(claim);
                self.make.push(ip_address(ip, owner));
            }
            return;
        }
        let other = parent.and_then(|other| held.get(&(other.namespace, other.name)));
        if other.is_some_and(|ips| ips.iter().any(|one| *one == ip.to_string())) {
            let why = format!("{named} was assigned to multiple services; please recreate service");
            return self.find(service, "ClusterIPAlreadyAllocated", why);
        }
        let why = format!("{named} has an object of another owner; repairing");
        self.find(service, "ClusterIPNotAllocated", why);
        self.remove(claim);
        self.make.push(ip_address(ip, owner));
    }

    /// An object that we made names a Service that has its address.
    fn address(&mut self, claim: &Value, held: &BTreeMap<(&str, &str), Vec<String>>, now: Timestamp) {
        let ip = claim.meta("name");
        // One that a Service was found to need has been seen to.
        if self.remove.iter().any(|(removed, _)| removed == ip) {
            return;
        }
        let Some(parent) = parent_of(claim) else {
            let why = format!("IPAddress {ip} does not refer to a Service any more: cleaning up");
            self.find(claim, "IPAddressNotAllocated", why);
            return self.remove(claim);
        };
        let (namespace, name) = (parent.namespace, parent.name);
        match held.get(&(namespace, name)) {
            Some(ips) if ips.iter().any(|one| one == ip) => return,
            Some(_) if is_older(claim, now) => {
                let why = format!(
                    "IPAddress: {ip} for Service {namespace}/{name} has a wrong reference; cleaning up"
                );
                self.find(claim, "IPAddressWrongReference", why);
            }
            None if is_older(claim, now) => {
                let why = format!(
                    "IPAddress: {ip} for Service {namespace}/{name} appears to have leaked: cleaning up"
                );
                self.find(claim, "IPAddressNotAllocated", why);
            }
            _ => return,
        }
        self.remove(claim);
    }
}

fn parent_of(claim: &Value) -> Option<Owner<'_>> {
    let parent = &claim["spec"]["parentRef"];
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    (text("group").is_empty() && text("resource") == "services")
        .then(|| Owner { namespace: text("namespace"), name: text("name") })
}

fn is_older(claim: &Value, now: Timestamp) -> bool {
    let made = time::parse(claim.meta("creationTimestamp")).ok().flatten();
    made.is_none_or(|made| now.duration_since(made) > GRACE)
}

/// Compares the ports that Services hold with those that are marked: gives what should be marked. Leaked ones stay until
/// they were seen often enough.
fn plan_ports(
    services: &[Value],
    marked: &BTreeSet<u16>,
    allocators: &Allocators,
    leaks: &mut Leaks,
) -> (BTreeSet<u16>, Vec<Finding>) {
    let (mut right, mut findings) = (BTreeSet::new(), Vec::new());
    let mut find = |about: &Value, reason, message: String| {
        findings.push(Finding { about: about.clone(), reason, message });
    };
    for service in services {
        let held: BTreeSet<u16> = held_by_service(service).node_ports.into_iter().collect();
        for port in held {
            if !allocators.ports.contains(&port) {
                let (first, last) = (allocators.ports.start(), allocators.ports.end());
                let why = format!(
                    "Port {port} is not within the port range {first}-{last}; please recreate service"
                );
                find(service, "PortOutOfRange", why);
            } else if !right.insert(port) {
                let why = format!("Port {port} was assigned to multiple services; please recreate service");
                find(service, "PortAlreadyAllocated", why);
            } else if !marked.contains(&port) {
                find(service, "PortNotAllocated", format!("Port {port} is not allocated; repairing"));
            }
        }
    }
    let leaked: BTreeSet<u16> = marked.difference(&right).copied().collect();
    leaks.retain(|port, _| leaked.contains(port));
    for port in leaked {
        let looks = leaks.entry(port).or_insert(0);
        *looks += 1;
        if *looks < LOOKS {
            right.insert(port);
        } else {
            tracing::warn!(port, "a node port leaked; it is free again");
        }
    }
    (right, findings)
}

impl Api {
    /// Looks through all Services and claims once, and puts right what is wrong.
    pub(crate) async fn repair_allocations(&self, leaks: &mut Leaks) {
        let counts = &self.allocators().counts;
        if let Err(error) = self.repair_addresses().await {
            counts.failed_address_repairs.inc();
            tracing::warn!(%error, "cannot repair the claims of addresses");
        }
        if let Err(error) = self.repair_ports(leaks).await {
            counts.failed_port_repairs.inc();
            tracing::warn!(%error, "cannot repair the claims of node ports");
        }
    }

    /// The same for addresses alone, whose claims tell their age.
    pub(crate) async fn repair_addresses(&self) -> Result<()> {
        self.world().fresh().await?;
        let (services, addresses) = (self.view().list(SERVICES, ""), self.view().list(ADDRESSES, ""));
        let plan = plan(&services, &addresses, &|ip| self.allocators().in_range(ip), self.now());
        let errors = &self.allocators().counts.address_errors;
        for finding in &plan.findings {
            let kind = match finding.reason {
                "ClusterIPOutOfRange" => "out-of-range",
                "ClusterIPAlreadyAllocated" => "duplicate",
                "IPAddressNotAllocated" => "leak",
                "IPAddressWrongReference" => "reference",
                _ => "repair",
            };
            errors.with_label_values(&[kind]).inc();
            self.tell("ipallocator-repair-controller", "ClusterIPAllocation", finding).await;
        }
        for (name, uid) in &plan.remove {
            match self.loopback().delete_one(IP_ADDRESSES, name, uid).await {
                Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for address in plan.make {
            match self.loopback().create(IP_ADDRESSES, address).await {
                Ok(_) | Err(ApiError::AlreadyExists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn repair_ports(&self, leaks: &mut Leaks) -> Result<()> {
        let mut findings = Vec::new();
        let counted = leaks.clone();
        // The marks are read first, then the Services: a Service that is made in between was marked after that, so that
        // our write fails and we look again.
        self.change_ports(&mut |marked| {
            *leaks = counted.clone();
            let services = self.view().list(SERVICES, "");
            let (right, found) = plan_ports(&services, marked, self.allocators(), leaks);
            findings = found;
            let changed = right != *marked;
            *marked = right;
            changed
        })
        .await?;
        for finding in &findings {
            let kind = match finding.reason {
                "PortOutOfRange" => "out-of-range",
                "PortAlreadyAllocated" => "duplicate",
                _ => "repair",
            };
            self.allocators().counts.port_errors.with_label_values(&[kind]).inc();
            self.tell("portallocator-repair-controller", "PortAllocation", finding).await;
        }
        Ok(())
    }

    /// Makes an event of a finding.
    async fn tell(&self, by: &str, action: &str, finding: &Finding) {
        let about = &finding.about;
        let namespace = Some(about.meta("namespace")).filter(|one| !one.is_empty()).unwrap_or("default");
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"namespace": namespace, "name": format!("{}.{:016x}", about.meta("name"), self.chance().bits())},
            "eventTime": time::micros(self.now()), "reportingController": by, "reportingInstance": by,
            "action": action, "reason": finding.reason, "type": "Warning", "note": finding.message,
            "regarding": {
                "apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": about.meta("namespace"),
                "name": about.meta("name"), "uid": about.meta("uid"),
                "resourceVersion": about.meta("resourceVersion"),
            },
        });
        tracing::warn!(reason = finding.reason, "{}", finding.message);
        let place = Place { group: "events.k8s.io", version: "v1", plural: "events", namespace };
        if let Err(error) = self.loopback().create(place, event).await {
            tracing::warn!(%error, "cannot tell of it by an event");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ip: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}})
    }

    fn claim(ip: &str, name: &str, made: &str) -> Value {
        let mut claim = ip_address(ip.parse().unwrap(), Owner { namespace: "n", name });
        claim["metadata"]["creationTimestamp"] = made.into();
        claim["metadata"]["uid"] = format!("of {ip}").into();
        claim
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-01T01:00:00Z";

    fn check(
        services: &[Value],
        claims: &[Value],
        removed: &[&str],
        made: &[(&str, &str)],
        reasons: &[&str],
    ) {
        let in_range = |ip: IpAddr| ip.to_string().starts_with("10.0.");
        let plan = plan(services, claims, &in_range, NEW.parse().unwrap());
        let names: Vec<&str> = plan.remove.iter().map(|(name, _)| name.as_str()).collect();
        let new: Vec<(&str, &str)> = plan
            .make
            .iter()
            .map(|one| (one.meta("name"), one["spec"]["parentRef"]["name"].as_str().unwrap()))
            .collect();
        let told: Vec<&str> = plan.findings.iter().map(|one| one.reason).collect();
        assert_eq!((&names[..], &new[..], &told[..]), (removed, made, reasons));
    }

    #[test]
    fn each_address_of_a_service_has_its_claim_and_no_other_stays() {
        let a = service("a", "10.0.0.1");
        let one = [a.clone()];
        check(&one, &[claim("10.0.0.1", "a", OLD)], &[], &[], &[]);
        check(&one, &[], &[], &[("10.0.0.1", "a")], &["ClusterIPNotAllocated"]);
        let leaked = claim("10.0.0.2", "gone", OLD);
        check(&[], &[leaked], &["10.0.0.2"], &[], &["IPAddressNotAllocated"]);
        // Its Service may be on its way.
        check(&[], &[claim("10.0.0.2", "soon", NEW)], &[], &[], &[]);
        let moved = claim("10.0.0.2", "a", OLD);
        check(&one, &[claim("10.0.0.1", "a", OLD), moved], &["10.0.0.2"], &[], &["IPAddressWrongReference"]);
        let other = claim("10.0.0.1", "gone", OLD);
        check(&one, &[other], &["10.0.0.1"], &[("10.0.0.1", "a")], &["ClusterIPNotAllocated"]);
        let twice = [a, service("b", "10.0.0.1")];
        check(&twice, &[claim("10.0.0.1", "a", OLD)], &[], &[], &["ClusterIPAlreadyAllocated"]);
        check(&[service("c", "10.9.0.1")], &[], &[], &[], &["ClusterIPOutOfRange"]);
        let mut unlabelled = claim("10.0.0.1", "a", OLD);
        unlabelled["metadata"]["labels"] = json!({});
        check(&one, &[unlabelled], &["10.0.0.1"], &[("10.0.0.1", "a")], &[]);
    }

    #[test]
    fn a_leaked_port_is_free_after_three_looks() {
        let counts = super::super::Counts::new(&[], &(30000..=30009), &prometheus::Registry::new()).unwrap();
        let chance = std::sync::Arc::new(minik_component::SeededChance::new(1));
        let all = Allocators::new(Vec::new(), 30000..=30009, chance, counts);
        let mut held = service("a", "10.0.0.1");
        held["spec"]["type"] = "NodePort".into();
        held["spec"]["ports"] = json!([{"port": 80, "nodePort": 30000}, {"port": 81, "nodePort": 31000}]);
        let mut leaks = Leaks::new();
        let mut marked = BTreeSet::from([30005]);
        let mut looks = Vec::new();
        for _ in 0..3 {
            let (right, found) = plan_ports(&[held.clone()], &marked, &all, &mut leaks);
            looks.push((right.iter().copied().collect::<Vec<_>>(), found.len()));
            marked = right;
        }
        // First the missing mark and the port out of range are told, then only the latter.
        assert_eq!(looks, [(vec![30000, 30005], 2), (vec![30000, 30005], 1), (vec![30000], 1)]);
    }
}
