//! Services to kernel rules, in a network namespace of its own: the first write of many, a restart that finds them there and
//! rewrites nothing, and changes of one endpoint.

use crate::Flags;
use crate::figures::{Against, Figure, Figures, own_cpu};
use anyhow::{Context, Result, anyhow};
use minik_client::ObjectKey;
use minik_kube_proxy::{Book, Config, Entry, Kernel, Place, Service, Slice, Value, render};
use minik_net::NetNs;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SERVICES: usize = 5000;
const ENDPOINTS: usize = 3;
/// Changes of one endpoint.
const CHANGES: usize = 400;

#[derive(Default)]
struct Seen {
    load: Vec<Duration>,
    load_cpu: Vec<f64>,
    restart: Vec<Duration>,
    rewritten: Vec<f64>,
    change: Vec<Duration>,
    change_cpu: Vec<f64>,
    elements: usize,
}

/// Measures `proxy`.
pub fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let mut seen = Seen::default();
    for _ in 0..flags.runs {
        one(&mut seen)?;
    }
    figures.tell(
        Figure::times("proxy_load", &seen.load)
            .also("services", SERVICES)
            .also("endpoints", SERVICES * ENDPOINTS)
            .also("elements", seen.elements),
    )?;
    figures.tell(Figure::cost("proxy_load_cpu", "ms", Against::Cpu, seen.load_cpu))?;
    figures.tell(Figure::times("proxy_restart", &seen.restart))?;
    figures.tell(
        Figure::cost("proxy_restart_rewrites", "elements", Against::Nothing, seen.rewritten).target(0.0),
    )?;
    figures.tell(Figure::times("proxy_change", &seen.change))?;
    figures.tell(Figure::cost("proxy_change_cpu", "ms", Against::Cpu, seen.change_cpu))
}

fn one(seen: &mut Seen) -> Result<()> {
    let ns = NetNs::create().context("making a network namespace, which needs root")?;
    let (began, cpu) = (Instant::now(), own_cpu());
    let (mut kernel, _, changes) = start(ns.try_clone()?)?;
    kernel.apply(&changes).context("writing all rules")?;
    seen.load.push(began.elapsed());
    seen.load_cpu.push(ms(own_cpu() - cpu));
    seen.elements = changes.len();

    drop(kernel);
    let began = Instant::now();
    let (mut kernel, mut book, changes) = start(ns)?;
    seen.restart.push(began.elapsed());
    seen.rewritten.push(changes.len() as f64);

    let mut spent = Duration::ZERO;
    for round in 0..CHANGES {
        let number = round * 37 % SERVICES;
        let (service, slice) = (service(number)?, slice(number, ENDPOINTS - round % 2)?);
        let (began, cpu, key) = (Instant::now(), own_cpu(), key(number));
        let known = |of, list, slot| book.slot(&key, of, list, slot);
        let wanted = render(&service, &[slice], &Place::default(), &known);
        let changes = book.set(&key, wanted);
        kernel.apply(&changes).context("writing one change")?;
        seen.change.push(began.elapsed());
        spent += own_cpu() - cpu;
    }
    seen.change_cpu.push(ms(spent) / CHANGES as f64);
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a proxy does when it starts, up to its first write: reads what stands and renders all that should.
fn start(ns: NetNs) -> Result<(Kernel, Book, Vec<minik_kube_proxy::Change>)> {
    let mut kernel = Kernel::open(ns, Config::default().settings).context("reaching the packet filter")?;
    let there: HashMap<Entry, Value> = kernel.read().context("reading the rules")?;
    let mut book = Book::default();
    for number in 0..SERVICES {
        let slot = |of, list, slot| match there.get(&Entry::Slot(of, list, slot)) {
            Some(Value::Endpoint(endpoint)) => Some(*endpoint),
            _ => None,
        };
        let wanted = render(&service(number)?, &[slice(number, ENDPOINTS)?], &Place::default(), &slot);
        book.set(&key(number), wanted);
    }
    let changes = book.difference(&there);
    Ok((kernel, book, changes))
}

fn key(number: usize) -> ObjectKey {
    ObjectKey::new("default", &format!("s{number}"))
}

fn service(number: usize) -> Result<Service> {
    let address = format!("10.100.{}.{}", number / 255, number % 255);
    let service = json!({"metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    serde_json::from_value(service).map_err(|error| anyhow!("a Service: {error}"))
}

fn slice(number: usize, endpoints: usize) -> Result<Arc<Slice>> {
    let endpoint =
        |one: usize| json!({"addresses": [format!("10.{}.{}.{}", 10 + one, number / 255, number % 255)]});
    let endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    let labels = json!({"kubernetes.io/service-name": format!("s{number}")});
    let slice = json!({"metadata": {"name": format!("s{number}-1"), "namespace": "default", "labels": labels},
        "ports": [{"port": 8080}], "endpoints": endpoints});
    Ok(Arc::new(serde_json::from_value(slice).map_err(|error| anyhow!("a slice: {error}"))?))
}
