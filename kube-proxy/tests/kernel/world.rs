//! Namespaces joined by veth pairs, servers and clients in them, and the rules of a node between.

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use minik_client::ObjectKey;
use minik_kube_proxy::{
    Book, Change, Entry, Kernel, NodePorts, Place, Service, Settings, Slice, Value, render,
};
use minik_net::{Cidr, NetNs, Netlink, Request, Route, Veth, sysctl};
use serde_json::{Value as Json, json};

/// Long enough for an answer on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// The same for a datagram: one that was lost is sent again by who waits for something.
const DATAGRAM: Duration = Duration::from_secs(5);
/// Long enough to see that nothing comes: packets on a veth take microseconds.
const SILENCE: Duration = Duration::from_millis(400);

pub const NODE: &str = "192.0.2.1";
pub const CLIENT: &str = "192.0.2.2";
pub const POD_A: &str = "10.99.0.10";
pub const POD_B: &str = "10.99.0.11";
pub const VIP: &str = "10.98.0.1";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The server's name and the address that it saw.
    Answer(String, String),
    Refused,
    Nothing,
}

pub fn answer(name: &str, from: &str) -> Seen {
    Seen::Answer(name.to_owned(), from.to_owned())
}

pub struct World {
    pub client: NetNs,
    pub node: NetNs,
    pub a: NetNs,
    pub b: NetNs,
    pub place: Place,
    pub kernel: Kernel,
    pub book: Book,
}

pub fn settings() -> Settings {
    Settings {
        table: "kube-proxy".into(),
        cluster_cidrs: vec!["10.99.0.0/16".parse().unwrap(), "fd99::/16".parse().unwrap()],
        node_ports: vec![NodePorts::Primary],
        masquerade_all: false,
    }
}

impl World {
    /// Pod `a` is on this node ("near"), `b` is behind it too but counts as another node's ("far"), so that it cannot
    /// meet itself.
    pub fn new() -> World {
        World::with(settings())
    }

    pub fn with(settings: Settings) -> World {
        let [client, node, a, b] = [(); 4].map(|()| NetNs::create().unwrap());
        for ns in [&client, &node, &a, &b] {
            Netlink::open_in(ns).unwrap().loopback_up().unwrap();
        }
        join(&node, &client, "outside", "192.0.2.1/24", "192.0.2.2/24");
        join(&node, &client, "outside6", "fd02::1/64", "fd02::2/64");
        let away = Route::to(Cidr::default_v4()).via(ip(CLIENT));
        let away6 = Route::to(Cidr::default_v6()).via(ip("fd02::2"));
        Netlink::open_in(&node)
            .unwrap()
            .apply(&[Request::add_route(&away), Request::add_route(&away6)])
            .unwrap();
        for (ns, name, addresses) in [(&a, "pod-a", [POD_A, "fd99::a"]), (&b, "pod-b", [POD_B, "fd99::b"])] {
            pod(&node, ns, name, &addresses);
        }
        node.run(|| {
            sysctl::write("net/ipv4/ip_forward", "1").unwrap();
            sysctl::write("net/ipv6/conf/all/forwarding", "1").unwrap();
            // What leaves as it came makes the kernel send redirects, and those use up what it grants for refusals.
            for link in ["all", "outside"] {
                sysctl::write(&format!("net/ipv4/conf/{link}/send_redirects"), "0").unwrap();
            }
        })
        .unwrap();
        for (ns, name) in [(&a, "a"), (&b, "b"), (&node, "node")] {
            serve(ns, name);
        }
        let kernel = Kernel::open(node.try_clone().unwrap(), settings).unwrap();
        let place =
            Place { node: "near".into(), zone: "z1".into(), addresses: vec![ip(NODE), ip("fd02::1")] };
        World { client, node, a, b, place, kernel, book: Book::default() }
    }

    /// Makes the kernel serve exactly these, reading it first; returns what that changed.
    pub fn sync(&mut self, objects: &[(Json, Vec<Json>)]) -> Vec<Change> {
        let there = self.kernel.read().unwrap();
        self.fill(objects, &there);
        let changes = self.book.difference(&there);
        self.kernel.apply(&changes).unwrap();
        changes
    }

    pub fn fill(&mut self, objects: &[(Json, Vec<Json>)], there: &HashMap<Entry, Value>) {
        let named: BTreeSet<ObjectKey> = objects.iter().map(|(service, _)| key(service)).collect();
        for gone in self.book.owners().into_iter().filter(|owner| !named.contains(owner)) {
            self.book.set(&gone, Vec::new());
        }
        let ports: Vec<_> =
            self.place.addresses.iter().map(|a| (Entry::NodePortAddress(*a), Value::Present)).collect();
        self.book.set(&ObjectKey::default(), ports);
        for (service, slices) in objects {
            let key = key(service);
            let (service, slices) = parse(service, slices);
            let wanted = render(&service, &slices, &self.place, &|of, list, slot| match there
                .get(&Entry::Slot(of, list, slot))
            {
                Some(Value::Endpoint(endpoint)) => Some(*endpoint),
                _ => None,
            });
            self.book.set(&key, wanted);
        }
    }

    /// Changes one Service as the running program does.
    pub fn change(&mut self, service: &Json, slices: &[Json]) -> Vec<Change> {
        let key = key(service);
        let (service, slices) = parse(service, slices);
        let book = &self.book;
        let wanted =
            render(&service, &slices, &self.place, &|of, list, slot| book.slot(&key, of, list, slot));
        let changes = self.book.set(&key, wanted);
        self.kernel.apply(&changes).unwrap();
        changes
    }
}

fn parse(service: &Json, slices: &[Json]) -> (Service, Vec<Arc<Slice>>) {
    // As in the program: from text, since a slice's metadata is read twice.
    let slices = slices.iter().map(|slice| Arc::new(serde_json::from_str(&slice.to_string()).unwrap()));
    (serde_json::from_str(&service.to_string()).unwrap(), slices.collect())
}

fn key(service: &Json) -> ObjectKey {
    ObjectKey::new("default", service["metadata"]["name"].as_str().unwrap())
}

/// A Service `web` with one port, 80 to 8080.
pub fn service(spec: Json) -> Json {
    let mut all = json!({
        "type": "ClusterIP", "clusterIP": VIP, "clusterIPs": [VIP],
        "ports": [{ "protocol": "TCP", "port": 80 }],
    });
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": all })
}

/// A slice of `web`, each endpoint by address, node and conditions.
pub fn slice(protocol: &str, endpoints: &[(&str, &str, Json)]) -> Json {
    let endpoints: Vec<Json> = endpoints
        .iter()
        .map(|(address, node, conditions)| {
            json!({ "addresses": [address], "nodeName": node, "conditions": conditions })
        })
        .collect();
    json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "name": "", "protocol": protocol, "port": 8080 }], "endpoints": endpoints,
    })
}

pub fn ready() -> Json {
    json!({ "ready": true })
}

pub fn both() -> Json {
    slice("TCP", &[(POD_A, "near", ready()), (POD_B, "far", ready())])
}

fn join(node: &NetNs, other: &NetNs, name: &str, here: &str, there: &str) {
    let mut near = Netlink::open_in(node).unwrap();
    let peer = name.replace("outside", "eth");
    let veth = Veth { name, peer: &peer, peer_netns: Some(other), ..Veth::default() };
    let (here, there): (Cidr, Cidr) = (here.parse().unwrap(), there.parse().unwrap());
    let index = near.add_veth(&veth).unwrap();
    no_dad(node, name);
    near.add_address(index, here).unwrap();
    let mut far = Netlink::open_in(other).unwrap();
    let index = far.index_of(&peer).unwrap();
    no_dad(other, &peer);
    let all = if here.address().is_ipv4() { Cidr::default_v4() } else { Cidr::default_v6() };
    far.apply(&[
        Request::link_up(index),
        Request::add_address(index, there),
        Request::add_route(&Route::to(all).via(here.address()).dev(index)),
    ])
    .unwrap();
}

/// Addresses of version 6 are usable at once.
fn no_dad(ns: &NetNs, link: &str) {
    ns.run(|| sysctl::write(&format!("net/ipv6/conf/{link}/accept_dad"), "0").unwrap()).unwrap();
}

fn pod(node: &NetNs, pod: &NetNs, name: &str, addresses: &[&str]) {
    let mut outer = Netlink::open_in(node).unwrap();
    let mac = [0x0a, 0, 0, 0, 0, 1];
    let veth = Veth { name, peer: "eth0", peer_netns: Some(pod), mac: Some(mac), ..Veth::default() };
    let near = outer.add_veth(&veth).unwrap();
    no_dad(node, name);
    let mut inner = Netlink::open_in(pod).unwrap();
    let eth0 = inner.index_of("eth0").unwrap();
    no_dad(pod, "eth0");
    inner.set_up(eth0).unwrap();
    for (address, gateway) in addresses.iter().zip(["169.254.1.1", "fe80::1:1"]) {
        let all = if ip(address).is_ipv4() { Cidr::default_v4() } else { Cidr::default_v6() };
        outer.add_address(near, Cidr::host(ip(gateway))).unwrap();
        outer.replace_route(&Route::to(Cidr::host(ip(address))).dev(near)).unwrap();
        inner
            .apply(&[
                Request::add_address(eth0, Cidr::host(ip(address))),
                Request::add_neighbour(eth0, ip(gateway), mac),
                Request::add_route(&Route::to(Cidr::host(ip(gateway))).dev(eth0)),
                Request::add_route(&Route::to(all).via(ip(gateway)).dev(eth0)),
            ])
            .unwrap();
    }
}

/// Answers on 8080, TCP and UDP, with its name and the client's address. Its threads end with the test's process.
fn serve(ns: &NetNs, name: &'static str) {
    let (tcp, udp) =
        ns.run(|| (TcpListener::bind("[::]:8080").unwrap(), UdpSocket::bind("[::]:8080").unwrap())).unwrap();
    let line = move |from: SocketAddr| format!("{name} {}", from.ip().to_canonical());
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = tcp.accept() {
            drop(stream.write_all(line(from).as_bytes()));
        }
    });
    std::thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut packet) {
            drop(udp.send_to(line(from).as_bytes(), from));
        }
    });
}

fn seen(text: &str) -> Seen {
    let (name, from) = text.split_once(' ').unwrap();
    answer(name, from)
}

/// Connects over TCP; `within` bounds the wait for what does not answer.
fn tcp_within(ns: &NetNs, address: &str, port: u16, within: Duration) -> Seen {
    let to = SocketAddr::new(ip(address), port);
    let connected = ns.run(|| TcpStream::connect_timeout(&to, within)).unwrap();
    let mut text = String::new();
    let read = connected.and_then(|mut stream| {
        stream.set_read_timeout(Some(within))?;
        stream.read_to_string(&mut text)
    });
    match read {
        Ok(_) => seen(&text),
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Seen::Nothing,
        Err(e) if e.kind() == ErrorKind::HostUnreachable => Seen::Nothing,
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
            Seen::Refused
        }
        Err(e) => panic!("{to}: {e}"),
    }
}

pub fn tcp(ns: &NetNs, address: &str, port: u16) -> Seen {
    tcp_within(ns, address, port, SOON)
}

/// Checks that a connection neither succeeds nor is refused.
pub fn dropped(ns: &NetNs, address: &str, port: u16) -> bool {
    tcp_within(ns, address, port, SILENCE) == Seen::Nothing
}

/// Everything that enough connections see.
pub fn all_tcp(ns: &NetNs, address: &str, port: u16) -> BTreeSet<Seen> {
    (0..48).map(|_| tcp(ns, address, port)).collect()
}

pub fn udp_socket(ns: &NetNs) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(DATAGRAM)).unwrap();
    socket
}

/// Sends from a socket, on one flow, and reads the answer.
pub fn udp(socket: &UdpSocket, address: &str, port: u16) -> Seen {
    let to = SocketAddr::new(ip(address), port);
    // Connected, so that it is told of refusals.
    socket.connect(to).unwrap();
    let mut packet = [0; 64];
    match socket.send(b"?").and_then(|_| socket.recv(&mut packet)) {
        Ok(length) => seen(std::str::from_utf8(&packet[..length]).unwrap()),
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Seen::Nothing,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
        Err(e) => panic!("{to}: {e}"),
    }
}
