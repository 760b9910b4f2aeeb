//! Three etcd members over TLS, each in a network namespace of its own behind one hub, where the clients are.
//!
//! ```text
//!  clients in the hub ── 10.77.N.1/30 ── veth ── 10.77.N.2/30: member N   (members reach each other through the hub)
//! ```

use minik_net::{Cidr, NetNs, Netlink, Request, Route, RouteKind, Veth, sysctl};
use minik_storage::EtcdConfig;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const MEMBERS: [usize; 3] = [0, 1, 2];

/// What is done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// The others do not reach it, the clients do.
    CutFromOthers,
    /// Nobody reaches it.
    CutFromAll,
    /// It stands still, with all its connections.
    Stop,
}

pub const FAULTS: [Fault; 4] = [Fault::Kill, Fault::CutFromOthers, Fault::CutFromAll, Fault::Stop];

struct Member {
    namespace: NetNs,
    /// Its end in the hub.
    link: u32,
    child: Option<Child>,
}

/// The members; they and their network end with the value.
pub struct Members {
    hub: NetNs,
    members: Vec<Member>,
    folder: TempDir,
}

fn address(member: usize, host: u8) -> IpAddr {
    [10, 77, member as u8 + 1, host].into()
}

fn network(member: usize) -> Cidr {
    Cidr::new(address(member, 0), 30).unwrap()
}

impl Members {
    /// Starts all; they are there when one leads.
    pub fn start() -> Members {
        let hub = NetNs::create().unwrap();
        let mut links = Netlink::open_in(&hub).unwrap();
        links.loopback_up().unwrap();
        hub.run(|| sysctl::write("net/ipv4/ip_forward", "1")).unwrap().unwrap();
        let members = MEMBERS.map(|number| {
            let namespace = NetNs::create().unwrap();
            let name = format!("member{number}");
            let veth = Veth { name: &name, peer: "eth0", peer_netns: Some(&namespace), ..Veth::default() };
            let link = links.add_veth(&veth).unwrap();
            links.add_address(link, Cidr::new(address(number, 1), 30).unwrap()).unwrap();
            let mut inner = Netlink::open_in(&namespace).unwrap();
            inner.loopback_up().unwrap();
            let eth0 = inner.index_of("eth0").unwrap();
            inner.set_up(eth0).unwrap();
            inner.add_address(eth0, Cidr::new(address(number, 2), 30).unwrap()).unwrap();
            let out = Route::to(Cidr::default_v4()).via(address(number, 1)).dev(eth0);
            inner.replace_route(&out).unwrap();
            Member { namespace, link, child: None }
        });
        let folder = tempfile::tempdir().unwrap();
        certificates(folder.path());
        let mut all = Members { hub, members: members.into(), folder };
        MEMBERS.iter().for_each(|number| all.revive(*number));
        all
    }

    /// Where the clients are.
    pub fn hub(&self) -> NetNs {
        self.hub.try_clone().unwrap()
    }

    /// How a client connects, the members in an order of its own.
    pub fn config(&self, first: usize) -> EtcdConfig {
        let url = |number: usize| format!("https://{}:2379", address((first + number) % 3, 2));
        EtcdConfig {
            servers: MEMBERS.map(url).into(),
            ca_file: Some(self.file("ca.crt")),
            identity_files: Some((self.file("etcd.crt"), self.file("etcd.key"))),
            prefix: "/".into(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a member with what it has on disk.
    fn revive(&mut self, number: usize) {
        let url = |number: usize, port: u16| format!("https://{}:{port}", address(number, 2));
        let cluster = MEMBERS.map(|number| format!("m{number}={}", url(number, 2380))).join(",");
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{number}"), "--initial-cluster", &cluster]);
        command.arg("--data-dir").arg(self.file(&format!("data{number}")));
        for (flags, port) in [
            (["--listen-client-urls", "--advertise-client-urls"], 2379),
            (["--listen-peer-urls", "--initial-advertise-peer-urls"], 2380),
        ] {
            command.args(flags.map(|flag| format!("{flag}={}", url(number, port))));
        }
        command.args(["--listen-metrics-urls", &format!("http://{}:2381", address(number, 2))]);
        for part in ["", "peer-"] {
            command.arg(format!("--{part}client-cert-auth"));
            for (flag, file) in
                [("cert-file", "etcd.crt"), ("key-file", "etcd.key"), ("trusted-ca-file", "ca.crt")]
            {
                command.arg(format!("--{part}{flag}")).arg(self.file(file));
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.members[number].namespace.run(|| command.spawn()).unwrap();
        self.members[number].child =
            Some(child.expect("etcd cannot be started; on Debian and Ubuntu: apt-get install etcd-server"));
    }

    /// The member that leads; for who is among the clients.
    pub fn leader(&self) -> Option<usize> {
        MEMBERS
            .into_iter()
            .find(|number| metrics(*number).is_some_and(|all| all.contains("\netcd_server_is_leader 1\n")))
    }

    pub fn afflict(&mut self, number: usize, fault: Fault) {
        match fault {
            Fault::Kill => self.kill(number),
            Fault::CutFromOthers => self.cut_from_others(number, true),
            Fault::CutFromAll => self.hub_link(Request::link_down(self.members[number].link)),
            Fault::Stop => self.signal(number, "STOP"),
        }
    }

    pub fn heal(&mut self, number: usize, fault: Fault) {
        match fault {
            Fault::Kill => self.revive(number),
            Fault::CutFromOthers => self.cut_from_others(number, false),
            Fault::CutFromAll => self.hub_link(Request::link_up(self.members[number].link)),
            Fault::Stop => self.signal(number, "CONT"),
        }
    }

    fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn hub_link(&self, request: Request) {
        Netlink::open_in(&self.hub).unwrap().apply(&[request]).unwrap();
    }

    /// Drops what goes either way between a member and the others.
    fn cut_from_others(&self, number: usize, cut: bool) {
        for other in MEMBERS.into_iter().filter(|other| *other != number) {
            for (from, to) in [(number, other), (other, number)] {
                let mut links = Netlink::open_in(&self.members[from].namespace).unwrap();
                let mut route = Route::to(network(to));
                route.kind = RouteKind::Blackhole;
                let changed = if cut { links.replace_route(&route) } else { links.delete_route(&route) };
                changed.unwrap();
            }
        }
    }

    fn signal(&self, number: usize, signal: &str) {
        let child = self.members[number].child.as_ref().unwrap();
        let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        MEMBERS.iter().for_each(|number| self.kill(*number));
    }
}

fn metrics(number: usize) -> Option<String> {
    let wait = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address(number, 2), 2381), wait).ok()?;
    stream.set_read_timeout(Some(wait)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    Some(all)
}

/// A CA and one certificate for all.
fn certificates(folder: &Path) {
    let [ca_key, key] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "etcd");
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let hosts = MEMBERS.map(|number| address(number, 2).to_string());
    let member = rcgen::CertificateParams::new(hosts).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text) in [("ca.crt", ca.pem()), ("etcd.crt", member.pem()), ("etcd.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
}
