//! Names, from Pods of both nodes: through the system's resolver, and asked of the cluster's DNS itself.
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use super::client::{From, get};
use super::{Server, World, reached};
use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use std::net::{IpAddr, SocketAddr};

pub fn every_form_resolves_from_pods(world: &World) -> Result<()> {
    let web = world.address("web")?;
    for pod in &world.web {
        for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "alias"] {
            let found = reached(name, || looked_up(pod, name))?;
            ensure!(found == [web], "{} found {found:?} for {name}", pod.name);
        }
        for name in ["db", "db-0.db", "db-0.db.default.svc.cluster.local"] {
            let found = reached(name, || looked_up(pod, name))?;
            ensure!(found == [world.solo.ip], "{} found {found:?} for {name}", pod.name);
        }
        ensure!(looked_up(pod, "nobody.default").is_err(), "{} found nobody", pod.name);
        get((pod.ip, 8080).into(), "/connect?to=web:80")
            .with_context(|| format!("{} to web:80", pod.name))?;
    }
    let dns = world.address("kube-dns")?;
    for pod in [&world.web[0], &world.web[1], &world.web[2], &world.solo] {
        asked(world, From::Pod(pod), (dns, 53).into(), web)?;
    }
    Ok(())
}

/// The next one listens at another port, and nobody has to be told.
pub fn a_killed_server_is_replaced(world: &World) -> Result<()> {
    let unit = format!("pids/{}-dns.json", world.solo.node);
    let path = world.cluster.cluster()?.layout().run.join(unit);
    let process = || -> Result<u64> {
        let text = std::fs::read_to_string(&path)?;
        let written: serde_json::Value = serde_json::from_str(&text)?;
        written["pid"].as_u64().context("no pid")
    };
    let before = process()?;
    std::process::Command::new("kill").args(["-9", &before.to_string()]).status()?;
    reached("another process", || {
        ensure!(process()? != before, "it is still {before}");
        Ok(())
    })?;
    reached("names again", || looked_up(&world.solo, "web")).map(drop)
}

/// The addresses that a Pod's own resolver finds.
fn looked_up(pod: &Server, name: &str) -> Result<Vec<IpAddr>> {
    let answer = get((pod.ip, 8080).into(), &format!("/lookup?name={name}"))?;
    answer.lines().map(|line| Ok(line.parse()?)).collect()
}

/// What the specification says of each form.
fn asked(world: &World, from: From<'_>, dns: SocketAddr, web: IpAddr) -> Result<()> {
    let solo = world.solo.ip;
    let dashed = solo.to_string().replace('.', "-");
    let table = [
        ("web.default.svc.cluster.local. A", format!("A {web}")),
        ("web.default.svc.cluster.local. AAAA", "No Error".into()),
        ("nobody.default.svc.cluster.local. A", "Non-Existent Domain".into()),
        (
            "_http._tcp.web.default.svc.cluster.local. SRV",
            "SRV 0 100 80 web.default.svc.cluster.local.".into(),
        ),
        (
            "_echo._udp.web.default.svc.cluster.local. SRV",
            "SRV 0 100 80 web.default.svc.cluster.local.".into(),
        ),
        ("db.default.svc.cluster.local. A", format!("A {solo}")),
        ("db-0.db.default.svc.cluster.local. A", format!("A {solo}")),
        (
            "_http._tcp.db.default.svc.cluster.local. SRV",
            "SRV 0 100 8080 db-0.db.default.svc.cluster.local.".into(),
        ),
        ("alias.default.svc.cluster.local. CNAME", "CNAME web.default.svc.cluster.local.".into()),
        ("dns-version.cluster.local. TXT", "TXT 1.1.0".into()),
        ("kubernetes.default.svc.cluster.local. A", format!("A {}", world.address("kubernetes")?)),
        (&format!("{dashed}.default.pod.cluster.local. A"), format!("A {solo}")),
        (&format!("{} PTR", reverse(web)), "PTR web.default.svc.cluster.local.".into()),
        (
            &format!("{} PTR", reverse(world.address("web-sticky")?)),
            "PTR web-sticky.default.svc.cluster.local.".into(),
        ),
    ];
    for (question, wanted) in table {
        let found = reached(question, || ask(from, dns, question))?;
        ensure!(found == [wanted.clone()], "{from} asked {question}: {found:?}, not {wanted}");
    }
    // The Pod is behind several Services; its own name is among those of its address.
    let names = ask(from, dns, &format!("{} PTR", reverse(solo)))?;
    ensure!(names.contains(&"PTR db-0.db.default.svc.cluster.local.".to_owned()), "{names:?}");
    Ok(())
}

fn reverse(address: IpAddr) -> String {
    let mut parts: Vec<String> = address.to_string().split('.').map(str::to_owned).collect();
    parts.reverse();
    format!("{}.in-addr.arpa.", parts.join("."))
}

/// The answer's records, or its code when there are none.
fn ask(from: From<'_>, dns: SocketAddr, question: &str) -> Result<Vec<String>> {
    let (name, kind) = question.split_once(' ').context("a question is a name and a type")?;
    let kind: RecordType = kind.parse()?;
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    let answer = Message::from_vec(&from.exchange(dns, &message.to_vec()?)?)?;
    ensure!(answer.metadata.id == message.metadata.id, "the answer to another question");
    let records: Vec<String> =
        answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    Ok(if records.is_empty() { vec![answer.metadata.response_code.to_string()] } else { records })
}
