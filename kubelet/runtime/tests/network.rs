//! Networks of Pods on the real kernel, each node and Pod in a network namespace of its own.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use minik_net::{Cidr, NetNs, Netlink, Route, Veth, nft, sysctl};
use minik_runtime::network::{HostPort, Network, NetworkConfig, NetworkError, PodIdentity};
use minik_testkit::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "10.78.0.1";

/// A node, and beside it a client that reaches it by a wire.
struct Node {
    folder: tempfile::TempDir,
    ns: NetNs,
    client: NetNs,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::Builder::new().prefix("minik-network-").tempdir().unwrap();
        let (ns, client) = (NetNs::create().unwrap(), NetNs::create().unwrap());
        let (mut here, mut there) = (Netlink::open_in(&ns).unwrap(), Netlink::open_in(&client).unwrap());
        let wire = Veth {
            name: "wire",
            peer: "wire",
            peer_netns: Some(&client),
            mtu: Some(1400),
            ..Veth::default()
        };
        let near = here.add_veth(&wire).unwrap();
        let far = there.index_of("wire").unwrap();
        there.set_up(far).unwrap();
        here.loopback_up().unwrap();
        here.add_address(near, format!("{NODE}/24").parse().unwrap()).unwrap();
        there.add_address(far, "10.78.0.2/24".parse().unwrap()).unwrap();
        here.replace_route(&Route::to(Cidr::default_v4()).via("10.78.0.2".parse().unwrap()).dev(near))
            .unwrap();
        there.replace_route(&Route::to(Cidr::default_v4()).via(NODE.parse().unwrap()).dev(far)).unwrap();
        ns.run(|| sysctl::write("net/ipv4/ip_forward", "1")).unwrap().unwrap();
        Node { folder, ns, client }
    }

    fn config(&self) -> NetworkConfig {
        NetworkConfig {
            pod_cidr: Some("10.79.1.0/29".into()),
            state: self.folder.path().join("state"),
            cni_conf_dir: self.folder.path().join("conf"),
            cni_bin_dir: self.folder.path().join("bin"),
        }
    }

    /// Runs inside the node, as a runtime does.
    fn run<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(NetworkConfig) -> F + Send) -> T {
        let config = self.config();
        self.ns
            .run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(work(config))
            })
            .unwrap()
    }

    fn add(&self, pod: &Pod, identity: &PodIdentity) -> Result<Vec<IpAddr>, NetworkError> {
        self.run(async |config| Network::open(config).await?.add(identity, &pod.path).await)
    }

    fn remove(&self, identity: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        self.run(async |config| Network::open(config).await?.remove(identity, netns).await)
    }
}

/// A Pod's namespace, pinned as a runtime may do.
struct Pod {
    ns: NetNs,
    path: PathBuf,
}

impl Pod {
    fn new(node: &Node, name: &str) -> Pod {
        let path = node.folder.path().join(name);
        Pod { ns: NetNs::create_pinned(&path).unwrap(), path }
    }

    fn listen(&self, address: &str) -> TcpListener {
        self.ns.run(|| TcpListener::bind(address)).unwrap().unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        NetNs::unpin(&self.path).unwrap();
    }
}

fn identity(sandbox: &str, ports: &[(&str, &str, u16, u16)]) -> PodIdentity {
    let ports = ports.iter().map(|(protocol, host_ip, host_port, container_port)| HostPort {
        protocol: (*protocol).to_owned(),
        host_ip: (*host_ip).to_owned(),
        host_port: *host_port,
        container_port: *container_port,
    });
    PodIdentity {
        sandbox_id: sandbox.into(),
        namespace: "ns".into(),
        name: "name".into(),
        uid: "uid".into(),
        ports: ports.collect(),
        ..PodIdentity::default()
    }
}

/// Connects from a namespace, and says whether the listener took it and from which address.
fn connect(from: &NetNs, to: &str, listener: &TcpListener) -> Result<IpAddr, String> {
    let address: SocketAddr = to.parse().unwrap();
    let stream =
        from.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap().map_err(|e| e.to_string())?;
    let (mut taken, peer) = listener.accept().map_err(|e| e.to_string())?;
    taken.write_all(b"hello").map_err(|e| e.to_string())?;
    let mut said = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).read_exact(&mut said).map_err(|e| e.to_string())?;
    Ok(peer.ip())
}

#[test]
fn pods_reach_each_other_and_the_node_and_are_reached() {
    let node = Node::new();
    let (a, b) = (Pod::new(&node, "a"), Pod::new(&node, "b"));
    let ip = |pod, name: &str| node.add(pod, &identity(name, &[])).unwrap()[0];
    let (ip_a, ip_b) = (ip(&a, "aaaaaaaaaaaaaaaa"), ip(&b, "bbbbbbbbbbbbbbbb"));
    assert_ne!(ip_a, ip_b);
    assert_eq!(ip(&a, "aaaaaaaaaaaaaaaa"), ip_a, "asking again changes nothing");
    let listener = b.listen("0.0.0.0:80");
    let to_b = format!("{ip_b}:80");
    assert_eq!(connect(&a.ns, &to_b, &listener), Ok(ip_a), "Pods see each other's own addresses");
    assert_eq!(connect(&node.ns, &to_b, &listener), Ok(NODE.parse().unwrap()));
    assert_eq!(connect(&node.client, &to_b, &listener), Ok("10.78.0.2".parse().unwrap()));
    assert_eq!(connect(&b.ns, "127.0.0.1:80", &listener), Ok("127.0.0.1".parse().unwrap()), "loopback is up");
    let outside = node.client.run(|| TcpListener::bind("10.78.0.2:80")).unwrap().unwrap();
    assert_eq!(connect(&a.ns, "10.78.0.2:80", &outside), Ok(ip_a));
    let mut inside = Netlink::open_in(&a.ns).unwrap();
    assert_eq!(inside.link("eth0").unwrap().unwrap().mtu, 1400, "as large as the node's way out takes");
}

#[test]
fn an_address_is_used_again_once_its_link_has_gone() {
    let node = Node::new();
    // Five addresses are left for Pods.
    let mut pods = Vec::new();
    for name in ["p0", "p1", "p2", "p3", "p4"] {
        let pod = Pod::new(&node, name);
        let ip = node.add(&pod, &identity(name, &[])).unwrap()[0];
        pods.push((name, pod, ip));
    }
    let late = Pod::new(&node, "late");
    let full = |error: &NetworkError| error.to_string() == "no address is free in 10.79.1.0/29";
    assert!(full(&node.add(&late, &identity("late", &[])).unwrap_err()));
    // Given back, but the namespace still runs: its link is there.
    let (name, pod, ip) = pods.remove(2);
    node.remove(&identity(name, &[]), Some(&pod.path)).unwrap();
    node.remove(&identity(name, &[]), None).unwrap();
    assert!(full(&node.add(&late, &identity("late", &[])).unwrap_err()));
    drop(pod);
    let again = eventually(PATIENCE, || node.add(&late, &identity("late", &[])).map_err(|e| e.to_string()));
    assert_eq!(again, [ip]);
    let mut holders = node.run(async |config| Network::open(config).await.unwrap().holders().await);
    holders.sort();
    assert_eq!(holders, ["late", "p0", "p1", "p3", "p4"]);
}

#[test]
fn host_ports_lead_to_the_pod() {
    let node = Node::new();
    let (pod, other) = (Pod::new(&node, "pod"), Pod::new(&node, "other"));
    let ports = [
        ("TCP", "", 8080, 80),
        ("udp", "", 8080, 53),
        ("tcp", NODE, 8081, 80),
        ("tcp", "127.0.0.1", 8082, 80),
    ];
    let identity_pod = identity("pod", &ports);
    let ip = node.add(&pod, &identity_pod).unwrap()[0];
    let ip_other = node.add(&other, &identity("other", &[])).unwrap()[0];
    let listener = pod.listen("0.0.0.0:80");
    let node_ip: IpAddr = NODE.parse().unwrap();
    let client: IpAddr = "10.78.0.2".parse().unwrap();
    let to = |port: u16| format!("{NODE}:{port}");
    assert_eq!(connect(&node.client, &to(8080), &listener), Ok(client), "the client's own address is seen");
    assert_eq!(connect(&node.client, &to(8081), &listener), Ok(client));
    assert_eq!(connect(&other.ns, &to(8080), &listener), Ok(ip_other));
    assert_eq!(connect(&node.ns, &to(8080), &listener), Ok(node_ip));
    assert_eq!(connect(&node.ns, "127.0.0.1:8080", &listener), Ok(node_ip), "through the node's loopback");
    assert_eq!(connect(&node.ns, "127.0.0.1:8082", &listener), Ok(node_ip));
    assert_eq!(connect(&pod.ns, &to(8080), &listener), Ok(node_ip), "the Pod asks itself through the node");
    assert!(connect(&node.client, &to(8082), &listener).is_err(), "only on loopback");
    let udp = pod.ns.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = node.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    asker.send_to(b"question", to(8080)).unwrap();
    let mut said = [0; 16];
    assert_eq!(udp.recv_from(&mut said).unwrap().0, 8);

    let taken = node.add(&Pod::new(&node, "late"), &identity("late", &[("tcp", "", 8080, 80)])).unwrap_err();
    assert_eq!(taken.to_string(), "host port 8080/tcp is in use by another Pod");
    node.add(&pod, &identity_pod).unwrap();
    // What is remembered is enough: after a crash only the sandbox's id may be known.
    node.remove(&PodIdentity { sandbox_id: "pod".into(), ..PodIdentity::default() }, None).unwrap();
    assert!(connect(&node.client, &to(8080), &listener).is_err());
    let rules = node.ns.run(|| nft::list(&[])).unwrap().unwrap();
    assert!(!rules.contains(&ip.to_string()) && !rules.contains("8080"), "{rules}");
    let late = Pod::new(&node, "again");
    node.add(&late, &identity("again", &[("tcp", "", 8080, 80)])).unwrap();
    let listener = late.listen("0.0.0.0:80");
    assert_eq!(connect(&node.client, &to(8080), &listener), Ok(client));
}

const PLUGIN: &str = r#"#!/bin/sh
printf '%s %s %s %s %s %s\n' "$0" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_IFNAME" "$CNI_NETNS" "$CNI_ARGS" >> "${0%/*}/log"
cat >> "${0%/*}/log"; echo >> "${0%/*}/log"
if [ "$CNI_COMMAND" = ADD ] && [ -e "${0%/*}/fail-${0##*/}" ]; then
    echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no more addresses", "details": "pool is empty"}'
    exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
    echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "10.99.0.7/16", "interface": 0}]}'
fi
"#;

fn log(node: &Node) -> String {
    let log = fs::read_to_string(node.folder.path().join("bin/log")).unwrap_or_default();
    fs::remove_file(node.folder.path().join("bin/log")).ok();
    log
}

#[test]
fn a_plugin_chain_takes_the_built_in_networks_place() {
    let node = Node::new();
    let (conf, bin) = (node.folder.path().join("conf"), node.folder.path().join("bin"));
    let status = || node.run(async |config| Network::open(config).await.unwrap().status().await);
    status().unwrap();
    fs::create_dir_all(&conf).unwrap();
    fs::create_dir_all(&bin).unwrap();
    fs::write(
        conf.join("10-net.conflist"),
        r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
            {"type": "main", "own": 1}, {"type": "meta", "capabilities": {"portMappings": true}}]}"#,
    )
    .unwrap();
    fs::write(conf.join("20-later.conf"), "not read").unwrap();
    let missing = format!("failed to find plugin \"main\" in path [{}]", bin.display());
    assert_eq!(status().unwrap_err().to_string(), missing);
    for name in ["main", "meta"] {
        fs::write(bin.join(name), PLUGIN).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    status().unwrap();

    let pod = Pod::new(&node, "pod");
    let who = identity("sandbox", &[("tcp", "", 8080, 80)]);
    let ip: IpAddr = "10.99.0.7".parse().unwrap();
    assert_eq!(node.add(&pod, &who).unwrap(), [ip]);
    assert_eq!(node.add(&pod, &who).unwrap(), [ip], "kept, not asked again");
    let said = log(&node);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[0].contains("/main ADD sandbox eth0 ") && lines[2].contains("/meta ADD"), "{said}");
    assert!(lines[0].ends_with(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=name;K8S_POD_INFRA_CONTAINER_ID=sandbox;K8S_POD_UID=uid"
    ));
    assert!(lines[1].contains("\"own\":1") && !lines[1].contains("prevResult"), "{said}");
    assert!(
        lines[3].contains("\"hostPort\":8080") && lines[3].contains("\"address\":\"10.99.0.7/16\""),
        "{said}"
    );
    assert!(Netlink::open_in(&pod.ns).unwrap().link("lo").unwrap().unwrap().up);

    // Those who brought it in take it out, whatever is configured now.
    fs::remove_dir_all(&conf).unwrap();
    node.remove(&who, Some(&pod.path)).unwrap();
    node.remove(&who, None).unwrap();
    let said = log(&node);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 4 && lines[0].contains("/meta DEL") && lines[2].contains("/main DEL"), "{said}");
    assert!(lines[3].contains("10.99.0.7"), "DEL hears what was done: {said}");

    fs::create_dir_all(&conf).unwrap();
    fs::write(conf.join("1.conf"), r#"{"cniVersion": "1.0.0", "name": "n", "type": "meta"}"#).unwrap();
    fs::write(bin.join("fail-meta"), "").unwrap();
    let error = node.add(&pod, &who).unwrap_err().to_string();
    assert_eq!(error, "plugin type=\"meta\" failed (add): no more addresses; pool is empty");
    assert!(log(&node).contains("/meta DEL"), "what was begun is undone");
    assert!(node.run(async |config| Network::open(config).await.unwrap().holders().await).is_empty());
}
