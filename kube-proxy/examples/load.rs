//! Measures, in a network namespace of its own (needs root): the first write of many Services, a restart that finds them
//! there, and changes of one endpoint. `cargo run --release -p minik-kube-proxy --example load -- [SERVICES] [ENDPOINTS]`

use minik_client::ObjectKey;
use minik_kube_proxy::{Book, Config, Entry, Kernel, Place, Service, Slice, Value, render};
use minik_net::NetNs;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Anyhow<T> = Result<T, Box<dyn Error>>;

fn service(n: usize) -> Anyhow<Service> {
    let text = format!(
        r#"{{"metadata":{{"name":"s{n}","namespace":"default"}},"spec":{{"clusterIP":"10.{}.{}.{}","ports":[{{"port":80}}]}}}}"#,
        100 + n / 65_025,
        n / 255 % 255,
        n % 255
    );
    Ok(serde_json::from_str(&text)?)
}

fn slice(n: usize, endpoints: usize) -> Anyhow<Arc<Slice>> {
    let address = |e: usize| format!(r#"{{"addresses":["10.{}.{}.{}"]}}"#, 10 + e, n / 255 % 255, n % 255);
    let endpoints: Vec<String> = (0..endpoints).map(address).collect();
    let text = format!(
        r#"{{"metadata":{{"name":"s{n}-1","namespace":"default","labels":{{"kubernetes.io/service-name":"s{n}"}}}},"ports":[{{"port":8080}}],"endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    Ok(Arc::new(serde_json::from_str(&text)?))
}

fn fill(book: &mut Book, services: usize, endpoints: usize, there: &HashMap<Entry, Value>) -> Anyhow<()> {
    for n in 0..services {
        let wanted =
            render(&service(n)?, &[slice(n, endpoints)?], &Place::default(), &|of, list, slot| match there
                .get(&Entry::Slot(of, list, slot))
            {
                Some(Value::Endpoint(endpoint)) => Some(*endpoint),
                _ => None,
            });
        book.set(&ObjectKey::new("default", &format!("s{n}")), wanted);
    }
    Ok(())
}

fn main() -> Anyhow<()> {
    let number = |position, default| std::env::args().nth(position).map_or(Ok(default), |text| text.parse());
    let (services, endpoints): (usize, usize) = (number(1, 10_000)?, number(2, 3)?);
    let ns = NetNs::create()?;
    let mut kernel = Kernel::open(ns.try_clone()?, Config::default().settings)?;
    let mut book = Book::default();
    let began = Instant::now();
    let there = kernel.read()?;
    fill(&mut book, services, endpoints, &there)?;
    let changes = book.difference(&there);
    let rendered = began.elapsed();
    kernel.apply(&changes)?;
    println!(
        "{services} Services, {} elements: rendered {rendered:?}, all {:?}",
        changes.len(),
        began.elapsed()
    );

    let began = Instant::now();
    let mut kernel = Kernel::open(ns, Config::default().settings)?;
    let there = kernel.read()?;
    let read = began.elapsed();
    let mut book = Book::default();
    fill(&mut book, services, endpoints, &there)?;
    let changes = book.difference(&there);
    println!("restart: read {read:?}, all {:?}, {} changes", began.elapsed(), changes.len());

    let mut times: Vec<Duration> = Vec::new();
    for round in 0..200 {
        let n = round * 37 % services.max(1);
        let key = ObjectKey::new("default", &format!("s{n}"));
        let (service, slice) = (service(n)?, slice(n, endpoints - round % 2)?);
        let began = Instant::now();
        let wanted =
            render(&service, &[slice], &Place::default(), &|of, list, slot| book.slot(&key, of, list, slot));
        let changes = book.set(&key, wanted);
        kernel.apply(&changes)?;
        times.push(began.elapsed());
    }
    times.sort();
    println!("one endpoint: median {:?}, 99th {:?}, most {:?}", times[100], times[198], times[199]);
    Ok(())
}
