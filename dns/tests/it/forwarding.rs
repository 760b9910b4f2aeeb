//! Names that other servers know.

use crate::api::{Api, SERVICES, until};
use crate::serving::{Running, start};
use crate::wire::{ask, question, tcp, udp};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use minik_net::NetNs;
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// A server for other names: what it answers depends on the first label.
struct Other {
    port: u16,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

fn answer(bytes: &[u8], over_udp: bool, asked: &AtomicUsize) -> Option<Vec<u8>> {
    let count = asked.fetch_add(1, Ordering::Relaxed);
    let mut message = Message::from_vec(bytes).unwrap();
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    let first = String::from_utf8(name.iter().next().unwrap_or_default().to_vec()).unwrap();
    let address =
        |last| Record::from_rdata(name.clone(), 300, RData::A(Ipv4Addr::new(192, 0, 2, last).into()));
    match &*first.to_lowercase() {
        "none" | "empty" => {
            let zone = Name::from_ascii("example.com.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
            message.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
            if first == "none" {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        "broken" => message.metadata.response_code = ResponseCode::ServFail,
        "refused" => message.metadata.response_code = ResponseCode::Refused,
        "flaky" if count == 0 => return None,
        "long" if over_udp => message.metadata.truncation = true,
        "long" => {
            let text = RData::TXT(TXT::new(vec!["x".repeat(200); 10]));
            message.add_answer(Record::from_rdata(name, 1, text));
        }
        _ => drop(message.add_answer(address(53))),
    }
    Some(message.to_vec().unwrap())
}

impl Other {
    async fn start() -> Other {
        for _ in 0..20 {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // A port that is free for one may be taken for the other.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                return Other::on(udp, tcp);
            }
        }
        panic!("no port is free for both");
    }

    fn on(udp: UdpSocket, tcp: TcpListener) -> Other {
        let port = udp.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = asked.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                if let Some(answer) = answer(&buffer[..length], true, &count) {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let count = asked.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = answer(&bytes, false, &count).unwrap();
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Other { port, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn resolv_conf(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("resolv.conf");
    std::fs::write(&path, text).unwrap();
    path
}

async fn with_other() -> (Running, Other, tempfile::TempDir) {
    let (other, folder) = (Other::start().await, tempfile::tempdir().unwrap());
    let file = resolv_conf(folder.path(), "nameserver 127.0.0.1\nsearch example.com\noptions ndots:2\n");
    let api = Api::default();
    let spec = json!({"type": "ExternalName", "externalName": "www.example.com"});
    api.put(SERVICES, json!({"metadata": {"namespace": "prod", "name": "out"}, "spec": spec}));
    let spec = json!({"type": "ExternalName", "externalName": "none.example.com"});
    api.put(SERVICES, json!({"metadata": {"namespace": "prod", "name": "lost"}, "spec": spec}));
    (start(api, file, other.port).await, other, folder)
}

#[tokio::test]
async fn answers_and_their_absence_are_asked_for_once() {
    let (running, other, _folder) = with_other().await;
    for (count, name, wanted) in [
        (1, "www.example.com. A", "192.0.2.53"),
        (2, "none.example.com. A", "Non-Existent Domain"),
        (3, "empty.example.com. A", "No Error"),
    ] {
        for _ in 0..3 {
            assert_eq!(ask(running.address, name).await, [wanted]);
            assert_eq!(other.asked(), count, "{name}");
        }
    }
    let (answer, _) = udp(running.address, &question("WWW.example.com. A")).await;
    assert!(answer.answers[0].ttl <= 30, "nothing is kept longer than that");
    assert!(!answer.metadata.authoritative);
    let (answer, _) = udp(running.address, &question("none.example.com. A")).await;
    assert_eq!(answer.authorities.len(), 1, "who asks learns for how long there is nothing");
    running.end().await;
}

#[tokio::test]
async fn failures_are_told_and_not_kept() {
    let (running, other, _folder) = with_other().await;
    assert_eq!(ask(running.address, "flaky.example.com. A").await, ["192.0.2.53"], "asked again");
    let before = other.asked();
    assert_eq!(ask(running.address, "broken.example.com. A").await, ["Server Failure"]);
    let after = other.asked();
    assert!(after > before);
    assert_eq!(ask(running.address, "broken.example.com. A").await, ["Server Failure"]);
    assert!(other.asked() > after, "it may be better the next time");
    assert_eq!(ask(running.address, "refused.example.com. A").await, ["Query Refused"]);
    running.end().await;
}

#[tokio::test]
async fn what_is_too_long_is_asked_for_over_tcp() {
    let (running, _other, _folder) = with_other().await;
    assert_eq!(tcp(running.address, &question("long.example.com. TXT")).await.answers.len(), 1);
    let (answer, _) = udp(running.address, &question("long.example.com. TXT")).await;
    assert!(answer.metadata.truncation);
    running.end().await;
}

#[tokio::test]
async fn external_names_are_followed() {
    let (running, other, _folder) = with_other().await;
    let (answer, _) = udp(running.address, &question("out.prod.svc.cluster.local. A")).await;
    let lines: Vec<String> =
        answer.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(lines, ["out.prod.svc.cluster.local. www.example.com.", "www.example.com. 192.0.2.53"]);
    let (answer, _) = udp(running.address, &question("lost.prod.svc.cluster.local. A")).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
    // What the cluster does not have is asked of nobody.
    let before = other.asked();
    assert_eq!(
        ask(running.address, "www.example.com.prod.svc.cluster.local. A").await,
        ["Non-Existent Domain"]
    );
    assert_eq!(other.asked(), before);
    // Addresses that are not the cluster's are.
    assert_eq!(ask(running.address, "1.2.0.192.in-addr.arpa. PTR").await, ["192.0.2.53"]);
    running.end().await;
}

#[tokio::test]
async fn a_server_that_is_asked_by_itself_answers_that_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let bind = minik_testkit::own_address();
    let file = resolv_conf(folder.path(), &format!("nameserver {}\n", bind.ip()));
    let (shutdown, api) = (minik_component::Shutdown::new(), Api::default());
    let config =
        minik_dns::Config { bind, resolv_conf: file, upstream_port: bind.port(), ..Default::default() };
    let task = tokio::spawn(minik_dns::run(config, api.client(), shutdown.clone()));
    until("the server's slice", async || api.writes().first().cloned()).await;
    assert_eq!(ask(bind, "www.example.com. A").await, ["Server Failure"]);
    shutdown.request();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn other_servers_are_asked_from_their_network_namespace() {
    let Ok(netns) = NetNs::create() else {
        eprintln!("not run: no network namespace can be made");
        return;
    };
    minik_net::Netlink::open_in(&netns).unwrap().loopback_up().unwrap();
    let sockets = netns.run(|| {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind(udp.local_addr().unwrap()).unwrap();
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        (udp, tcp)
    });
    let (udp_socket, tcp_socket) = sockets.unwrap();
    let other =
        Other::on(UdpSocket::from_std(udp_socket).unwrap(), TcpListener::from_std(tcp_socket).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("netns");
    // The namespace by a file of this process: nothing is pinned that could be left behind.
    let file =
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&netns)));
    std::os::unix::fs::symlink(file, &pin).unwrap();
    let config = minik_dns::Config {
        resolv_conf: resolv_conf(folder.path(), "nameserver 127.0.0.1\n"),
        upstream_port: other.port,
        upstream_netns: Some(pin),
        bind: ([127, 0, 0, 1], 0).into(),
        node: "n1".into(),
        ..Default::default()
    };
    let (shutdown, api) = (minik_component::Shutdown::new(), Api::default());
    let task = tokio::spawn(minik_dns::run(config, api.client(), shutdown.clone()));
    let slice = until("the server's slice", async || api.get(crate::api::SLICES, crate::serving::OWN)).await;
    let bind = ([127, 0, 0, 1], slice["ports"][0]["port"].as_u64().unwrap() as u16).into();
    assert_eq!(ask(bind, "www.example.com. A").await, ["192.0.2.53"]);
    assert_eq!(tcp(bind, &question("long.example.com. TXT")).await.answers.len(), 1);
    shutdown.request();
    task.await.unwrap().unwrap();
}
