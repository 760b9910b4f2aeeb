//! What a Pod asks for, summed as upstream sums it
//! (<https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>).

use crate::wire;
use minik_apimachinery::quantity::{Format, Quantity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Quantities by resource name.
pub type ResourceList = BTreeMap<Arc<str>, Quantity>;

/// What a container without a request counts as when nodes are compared: a tenth of a core and 200 MiB.
const UNASKED_CPU_MILLI: i64 = 100;
const UNASKED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts as they are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_storage_bytes: i64,
    /// Huge pages and extended resources, in their units.
    pub others: BTreeMap<Arc<str>, i64>,
}

impl Resources {
    /// From quantities; names that no node counts are left out.
    pub fn from_list(list: &ResourceList) -> Resources {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            match &**name {
                "cpu" => resources.cpu_milli = quantity.milli_value(),
                "memory" => resources.memory_bytes = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = quantity.value(),
                other
                    if other.contains('/')
                        || other.starts_with("hugepages-")
                        || other.starts_with("attachable-volumes-") =>
                {
                    resources.others.insert(name.clone(), quantity.value());
                }
                _ => {}
            }
        }
        resources
    }

    /// Adds `other` `times` times (1 or -1).
    pub fn add(&mut self, other: &Resources, times: i64) {
        self.cpu_milli += times * other.cpu_milli;
        self.memory_bytes += times * other.memory_bytes;
        self.ephemeral_storage_bytes += times * other.ephemeral_storage_bytes;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_insert(0) += times * amount;
        }
    }

    /// Whether it asks for nothing.
    pub fn is_nothing(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_storage_bytes == 0
            && self.others.is_empty()
    }

    /// Cpu, memory and the rest by name, in a fixed order.
    pub fn amounts(&self) -> impl Iterator<Item = (&str, i64)> {
        let named = [
            ("cpu", self.cpu_milli),
            ("memory", self.memory_bytes),
            ("ephemeral-storage", self.ephemeral_storage_bytes),
        ];
        named.into_iter().chain(self.others.iter().map(|(name, amount)| (&**name, *amount)))
    }
}

/// A Pod's requests in the forms that decisions use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// What the specification asks for.
    pub asked: Resources,
    /// As `asked`, but every container counts as asking for some cpu and memory.
    pub scored: Resources,
    /// What it takes of its node: while it is resized, the largest of what is asked, allocated and actual.
    pub taken: Resources,
    /// As `taken`, with every container counted.
    pub taken_scored: Resources,
}

impl Requests {
    pub(crate) fn of(pod: &wire::Pod) -> Requests {
        let sum = |of: &Of| Resources::from_list(&pod_requests(pod, of));
        let asked = Of { which: Which::Spec, unasked: false };
        let scored = Of { which: Which::Spec, unasked: true };
        let resized = pod.status.resizes();
        let (asked, scored) = (sum(&asked), sum(&scored));
        let taken = if resized { taken(pod, false) } else { asked.clone() };
        let taken_scored = if resized { taken_of_scored(pod) } else { scored.clone() };
        Requests { asked, scored, taken, taken_scored }
    }
}

fn taken(pod: &wire::Pod, unasked: bool) -> Resources {
    let infeasible = pod.status.resize_is_infeasible();
    let mut most = ResourceList::new();
    for which in [Which::Spec, Which::Allocated, Which::Actual] {
        if which == Which::Spec && infeasible {
            continue;
        }
        largest(&mut most, &containers(pod, &Of { which, unasked }));
    }
    Resources::from_list(&completed(pod, most))
}

fn taken_of_scored(pod: &wire::Pod) -> Resources {
    taken(pod, true)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Spec,
    Allocated,
    Actual,
}

struct Of {
    which: Which,
    unasked: bool,
}

/// A Pod's requests: containers beside sidecars, or the greediest moment of starting; then the Pod's own; then overhead.
fn pod_requests(pod: &wire::Pod, of: &Of) -> ResourceList {
    completed(pod, containers(pod, of))
}

fn completed(pod: &wire::Pod, mut sum: ResourceList) -> ResourceList {
    for (name, quantity) in &pod.spec.resources.requests {
        if matches!(&**name, "cpu" | "memory") || name.starts_with("hugepages-") {
            sum.insert(name.clone(), quantity.0);
        }
    }
    add_wire(&mut sum, &pod.spec.overhead);
    sum
}

fn containers(pod: &wire::Pod, of: &Of) -> ResourceList {
    let mut sum = ResourceList::new();
    for container in &pod.spec.containers {
        add(&mut sum, &container_requests(pod, container, of));
    }
    let (mut sidecars, mut starting) = (ResourceList::new(), ResourceList::new());
    for container in &pod.spec.init_containers {
        let mut requests = container_requests(pod, container, of);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &requests);
            add(&mut sidecars, &requests);
            largest(&mut starting, &sidecars);
        } else {
            add(&mut requests, &sidecars);
            largest(&mut starting, &requests);
        }
    }
    largest(&mut sum, &starting);
    sum
}

fn container_requests(pod: &wire::Pod, container: &wire::Container, of: &Of) -> ResourceList {
    let mut requests = ResourceList::new();
    let status = pod.status.of(&container.name);
    let spec = &container.resources.requests;
    let list = match (of.which, status) {
        (Which::Spec, _) | (_, None) => spec,
        (Which::Allocated, Some(status)) => status.allocated_resources.as_ref().unwrap_or(spec),
        (Which::Actual, Some(status)) => {
            let actual = status.resources.as_ref().map(|resources| &resources.requests);
            actual.filter(|list| !list.is_empty()).or(status.allocated_resources.as_ref()).unwrap_or(spec)
        }
    };
    add_wire(&mut requests, list);
    if of.unasked {
        requests.entry("cpu".into()).or_insert_with(|| Quantity::from_milli(UNASKED_CPU_MILLI));
        requests
            .entry("memory".into())
            .or_insert_with(|| Quantity::from_whole(UNASKED_MEMORY_BYTES, Format::BinarySi));
    }
    requests
}

fn add(sum: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        let sum = sum.entry(name.clone()).or_insert_with(|| Quantity::from_milli(0));
        *sum = sum.add(quantity);
    }
}

fn add_wire(sum: &mut ResourceList, more: &wire::Resources) {
    for (name, quantity) in more {
        let sum = sum.entry(name.clone()).or_insert_with(|| Quantity::from_milli(0));
        *sum = sum.add(&quantity.0);
    }
}

fn largest(list: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        match list.get_mut(name) {
            Some(held) if *held >= *quantity => {}
            Some(held) => *held = *quantity,
            None => drop(list.insert(name.clone(), *quantity)),
        }
    }
}
