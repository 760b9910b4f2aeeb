//! Zones: how many nodes of each are well, and how fast Pods may be evicted there. Pure.

use crate::config::NodeTimes;
use crate::objects::NodeObject;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Well enough.
    Normal,
    /// Much of it is not ready: more likely the network than the nodes.
    Partial,
    /// None of it is ready.
    Full,
}

/// A zone.
#[derive(Debug, Clone)]
struct Zone {
    health: Health,
    /// Nodes a second.
    rate: f64,
    /// What may be spent now; never above one.
    tokens: f64,
    filled_at: Duration,
}

/// All zones.
#[derive(Debug, Clone, Default)]
pub struct Zones {
    zones: BTreeMap<String, Zone>,
    /// None of any zone is ready: this end may be the one that is cut off, so nobody is evicted.
    all_disrupted: bool,
}

/// What looking at all zones has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As before.
    Same,
    /// Some zone has another rate now.
    Changed,
    /// No node anywhere is ready any more.
    AllLost,
    /// Some node is ready again after none was.
    Back,
}

/// The zone that a node is in.
pub fn of(node: &NodeObject) -> String {
    let label = |names: [&str; 2]| {
        names.iter().find_map(|name| node.metadata.labels.get(*name)).map_or("", |value| &**value)
    };
    let region = label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]);
    let zone = label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]);
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:{zone}") }
}

/// How a zone with so many ready and unready nodes is.
fn health(ready: usize, unready: usize, times: &NodeTimes) -> Health {
    let share = unready as f64 / (ready + unready).max(1) as f64;
    match () {
        () if ready == 0 && unready > 0 => Health::Full,
        () if unready > 2 && share >= times.unhealthy_share => Health::Partial,
        () => Health::Normal,
    }
}

impl Zones {
    /// Looks at all nodes.
    pub fn look<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a NodeObject>,
        times: &NodeTimes,
        now: Duration,
    ) -> Turn {
        let mut counts = BTreeMap::<String, (usize, usize)>::new();
        for node in nodes {
            let excluded = node.metadata.labels.contains_key("node.kubernetes.io/exclude-disruption");
            let count = counts.entry(of(node)).or_default();
            match node.ready() {
                _ if excluded => {}
                Some("True") => count.0 += 1,
                // One that has said nothing yet counts as unready, as upstream counts it.
                _ => count.1 += 1,
            }
        }
        let healths: BTreeMap<&String, Health> =
            counts.iter().map(|(zone, (ready, unready))| (zone, health(*ready, *unready, times))).collect();
        let lost = !healths.is_empty() && healths.values().all(|health| *health == Health::Full);
        let was = std::mem::replace(&mut self.all_disrupted, lost);
        self.zones.retain(|zone, _| counts.contains_key(zone));
        let mut changed = false;
        for (name, health) in healths {
            let size = counts.get(name).map_or(0, |(ready, unready)| ready + unready);
            let rate = rate(health, size, times);
            let fresh = Zone { health, rate, tokens: 1.0, filled_at: now };
            let zone = self.zones.entry(name.clone()).or_insert(fresh);
            zone.fill(now);
            changed |= (zone.health, zone.rate) != (health, rate);
            (zone.health, zone.rate) = (health, rate);
        }
        match (was, lost) {
            (false, true) => Turn::AllLost,
            (true, false) => Turn::Back,
            _ if changed => Turn::Changed,
            _ => Turn::Same,
        }
    }

    /// Asks to evict a node of this zone now. `Err` says after how long to ask again; `None`: when something changes.
    pub fn admit(&mut self, zone: &str, now: Duration) -> Result<(), Option<Duration>> {
        if self.all_disrupted {
            return Err(None);
        }
        // A zone that nobody has looked at yet is asked about again after the next look.
        let Some(zone) = self.zones.get_mut(zone) else { return Err(None) };
        zone.fill(now);
        if zone.tokens >= 1.0 {
            zone.tokens -= 1.0;
            return Ok(());
        }
        match zone.rate > 0.0 {
            true => Err(Some(Duration::from_secs_f64((1.0 - zone.tokens) / zone.rate))),
            false => Err(None),
        }
    }

    /// Whether no node of any zone is ready.
    pub fn all_disrupted(&self) -> bool {
        self.all_disrupted
    }
}

impl Zone {
    fn fill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * self.rate).min(1.0);
        self.filled_at = now;
    }
}

/// Nodes a second.
fn rate(health: Health, size: usize, times: &NodeTimes) -> f64 {
    match health {
        Health::Normal | Health::Full => times.eviction_rate,
        Health::Partial if size > times.large_zone => times.secondary_eviction_rate,
        Health::Partial => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn nodes(zone: &str, ready: usize, unready: usize) -> Vec<NodeObject> {
        let node = |ready: &str| {
            serde_json::from_value(
                json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
            .unwrap()
        };
        (0..ready).map(|_| node("True")).chain((0..unready).map(|_| node("Unknown"))).collect()
    }

    fn check(ready: usize, unready: usize, wanted: Health, rate_wanted: f64) {
        let times = NodeTimes::default();
        let found = health(ready, unready, &times);
        assert_eq!((found, rate(found, ready + unready, &times)), (wanted, rate_wanted), "{ready} {unready}");
    }

    #[test]
    fn a_zone_is_as_its_nodes_are() {
        check(0, 0, Health::Normal, 0.1);
        check(1, 0, Health::Normal, 0.1);
        check(0, 1, Health::Full, 0.1);
        check(1, 2, Health::Normal, 0.1);
        check(2, 3, Health::Partial, 0.0);
        check(20, 40, Health::Partial, 0.01);
        check(6, 4, Health::Normal, 0.1);
    }

    #[test]
    fn nobody_is_evicted_while_no_node_is_ready() {
        let (times, mut zones) = (NodeTimes::default(), Zones::default());
        let well = [nodes("a", 1, 0), nodes("b", 1, 1)].concat();
        assert_eq!(zones.look(&well, &times, Duration::ZERO), Turn::Same);
        assert_eq!(zones.admit(":b", Duration::ZERO), Ok(()));
        let lost = [nodes("a", 0, 1), nodes("b", 0, 2)].concat();
        assert_eq!(zones.look(&lost, &times, Duration::from_secs(100)), Turn::AllLost);
        assert_eq!(zones.admit(":a", Duration::from_secs(100)), Err(None));
        assert_eq!(zones.look(&well, &times, Duration::from_secs(200)), Turn::Back);
        assert_eq!(zones.admit(":a", Duration::from_secs(200)), Ok(()));
    }

    #[test]
    fn a_node_alone_that_is_lost_keeps_its_pods() {
        let (times, mut zones) = (NodeTimes::default(), Zones::default());
        zones.look(&nodes("", 1, 0), &times, Duration::ZERO);
        assert_eq!(zones.look(&nodes("", 0, 1), &times, Duration::ZERO), Turn::AllLost);
        assert_eq!(zones.admit(":", Duration::from_secs(1000)), Err(None));
    }

    proptest! {
        /// However often it is asked, no more nodes are evicted than the rate allows, plus one.
        #[test]
        fn evictions_keep_to_their_rate(waits in proptest::collection::vec(0..30u64, 1..200)) {
            let (times, mut zones) = (NodeTimes::default(), Zones::default());
            let all = nodes("a", 3, 3);
            let (mut now, mut evicted) = (Duration::ZERO, 0u32);
            zones.look(&all, &times, now);
            for wait in waits {
                now += Duration::from_secs(wait);
                zones.look(&all, &times, now);
                if zones.admit(":a", now).is_ok() {
                    evicted += 1;
                }
                prop_assert!(f64::from(evicted) <= now.as_secs_f64() * times.eviction_rate + 1.0 + 1e-9);
            }
        }
    }
}
