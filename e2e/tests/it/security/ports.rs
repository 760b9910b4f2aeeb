//! What listens where, and who is answered: the kubelet's port right by right, and that there is nothing else to reach.
//! <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/>

use super::World;
use anyhow::{Context, Result, ensure};
use minik_client::Identity;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A path of the kubelet's, and the rights on the node of which any one lets it be asked for.
const PATHS: [(&str, &[&str]); 14] = [
    ("GET /healthz", &["healthz", "proxy"]),
    ("GET /metrics", &["metrics"]),
    ("GET /metrics/resource", &["metrics"]),
    ("GET /stats/summary", &["stats"]),
    ("GET /pods", &["pods", "proxy"]),
    ("GET /runningpods/", &["pods", "proxy"]),
    ("GET /configz", &["configz", "proxy"]),
    ("GET /logs/messages", &["log"]),
    ("GET /containerLogs/default/near/main", &["proxy"]),
    ("POST /exec/default/near/main?command=id&output=1", &["proxy"]),
    ("POST /attach/default/near/main?output=1", &["proxy"]),
    ("POST /portForward/default/near?port=80", &["proxy"]),
    ("GET /debug/pprof/", &["proxy"]),
    ("POST /checkpoint/default/near/main", &["proxy"]),
];
const RIGHTS: [&str; 7] = ["healthz", "metrics", "stats", "pods", "configz", "log", "proxy"];

pub fn check(world: &World) -> Result<()> {
    kubelet(world).context("the kubelet's port")?;
    listeners(world)
}

/// Nobody of the accounts has more than one right.
fn accounts(world: &World) -> Result<()> {
    let mut all = String::new();
    for right in RIGHTS {
        all += &format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: has-{right}, namespace: default}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: has-{right}}}\nrules:\n\
             - {{apiGroups: [''], resources: [nodes/{right}], verbs: [get, create]}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: has-{right}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: has-{right}}}\n\
             subjects: [{{kind: ServiceAccount, name: has-{right}, namespace: default}}]\n---\n"
        );
    }
    world.cluster.kubectl_ok("apply -f -", &all).map(drop)
}

fn kubelet(world: &World) -> Result<()> {
    accounts(world)?;
    let [(_, first), _] = &world.nodes;
    let port = format!("{first}:10250");
    let ask = |who: &str, identity: Identity, want: &dyn Fn(&[&str]) -> Option<u16>| -> Result<()> {
        let caller = world.caller(&port, identity)?;
        for (request, rights) in PATHS {
            let (method, path) = request.split_once(' ').context("no method")?;
            let (code, _) = caller.ask(method, path, &Value::Null)?;
            let refused = matches!(code, 401 | 403).then_some(code);
            ensure!(refused == want(rights), "{who}: {request} gives {code}");
        }
        Ok(())
    };
    ask("nobody", Identity::None, &|_| Some(401))?;
    ask("a wrong token", Identity::Token("wrong".into()), &|_| Some(401))?;
    ask("a Pod's account", world.token("default")?, &|_| Some(403))?;
    let other = world.holder(&format!("kubelet-{}", world.nodes[1].0))?;
    ask("the other node", other, &|_| Some(403))?;
    ask("the scheduler", world.holder("scheduler")?, &|_| Some(403))?;
    ask("an administrator", world.holder("admin")?, &|_| None)?;
    for right in RIGHTS {
        let want = |rights: &[&str]| if rights.contains(&right) { None } else { Some(403) };
        ask(&format!("who has nodes/{right}"), world.token(&format!("has-{right}"))?, &want)?;
    }
    for closed in [10255, 4194, 10248] {
        let address = SocketAddr::new(IpAddr::V4(*first), closed);
        let seen = TcpStream::connect_timeout(&address, Duration::from_secs(2));
        ensure!(seen.is_err(), "something answers on the kubelet's old port {closed}");
    }
    Ok(())
}

/// Every process of the cluster listens where it must, and nowhere else.
fn listeners(world: &World) -> Result<()> {
    let known = world.cluster.cluster()?;
    let pids = known.layout().run.join("pids");
    let mut seen = 0;
    for entry in std::fs::read_dir(&pids)? {
        let path = entry?.path();
        let process: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let unit = path.file_stem().and_then(|name| name.to_str()).context("no name")?.to_owned();
        let node = world.nodes.iter().find(|(name, _)| unit.starts_with(name.as_str()));
        let own = node.map(|(name, address)| (unit[name.len() + 1..].to_owned(), *address));
        for address in listening(&process["pid"])? {
            seen += 1;
            let loopback = address.ip().is_loopback();
            let fits = match own.as_ref().map(|(unit, own)| (unit.as_str(), IpAddr::V4(*own))) {
                // The streams of the runtime are for the kubelet beside it.
                Some(("runtime", _)) => loopback,
                Some(("kubelet", own)) => address == SocketAddr::new(own, 10250),
                Some(("dns", own)) => loopback || address.ip() == own,
                // Load balancers ask it, as upstream has it, whether the node has a Service's endpoint.
                Some(("kube-proxy", own)) => loopback || address.ip() == own || address.port() == 10256,
                Some(_) => false,
                None => loopback,
            };
            ensure!(fits, "{unit} listens on {address}");
        }
    }
    ensure!(seen >= 6, "only {seen} listeners were found");
    Ok(())
}

/// The TCP addresses that a process listens on in its own network namespace.
fn listening(pid: &Value) -> Result<Vec<SocketAddr>> {
    let proc = Path::new("/proc").join(pid.to_string());
    let mut own = BTreeSet::new();
    for fd in std::fs::read_dir(proc.join("fd"))?.flatten() {
        let target = std::fs::read_link(fd.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        own.extend(inode.map(str::to_owned));
    }
    let mut found = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = std::fs::read_to_string(proc.join(table)).unwrap_or_default();
        for fields in text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else { continue };
            if own.contains(inode) {
                found.push(address(local).with_context(|| format!("an odd address: {local}"))?);
            }
        }
    }
    Ok(found)
}

/// An address as the kernel prints it: words in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|at| u32::from_str_radix(&ip[at * 8..at * 8 + 8], 16).map(u32::to_ne_bytes))
        .collect::<Result<_, _>>()
        .ok()?;
    let ip = match words[..] {
        [one] => IpAddr::V4(Ipv4Addr::from(one)),
        _ => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
