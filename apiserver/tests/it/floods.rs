//! Clients that ask too much, too slowly, or for nothing at all: the server ends with them what it must, and goes on with
//! everybody else. `MINIK_FLOOD=N` makes the floods N times as large; the nightly run does.

use crate::service::{Files, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long others may have to wait while a flood is on: far longer than they do, for machines that are busy.
const WITHIN: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

fn times() -> usize {
    std::env::var("MINIK_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of `GET path`, as HPACK has it without any compression.
fn head(path: &str) -> Vec<u8> {
    let mut head = vec![0x82, 0x87, 0x01, 1, b'x', 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path.bytes());
    head
}

/// Runs the test of this name in a process of its own, for what it counts to be its own. Gives whether this is that process.
fn alone(test: &str) -> bool {
    const ALONE: &str = "MINIK_TEST_ALONE";
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let ended =
        again.args(["--exact", &format!("floods::{test}"), "--nocapture"]).env(ALONE, test).status().unwrap();
    assert!(ended.success(), "{test}: {ended}");
    false
}

/// Memory of this process, in which the server runs.
fn memory_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn others_are_served(server: &Server<'_>, name: &str) {
    let asked = async {
        assert_eq!(server.get("/livez").await.0, 200);
        server.make(name).await;
    };
    tokio::time::timeout(WITHIN, asked).await.expect("others are not served");
}

/// CVE-2023-44487: requests that are taken back as soon as they are sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_at_once_keep_nobody_out() {
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    for (name, known) in [("nobody", false), ("admin", true)] {
        let (mut reader, mut writer) = tokio::io::split(server.dial(b"h2", known).await);
        let drained = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        let count = 10_000 * times() as u32;
        let flood = async {
            writer.write_all(PREFACE).await?;
            writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            for number in 0..count {
                let stream = number * 2 + 1;
                let mut both = frame(HEADERS, 0x5, stream, &head(MAPS));
                both.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
                writer.write_all(&both).await?;
            }
            writer.flush().await
        };
        let (flooded, ()) = tokio::join!(flood, others_are_served(&server, name));
        let ended = tokio::time::timeout(WITHIN, drained).await;
        println!("{name}: the flood ended with {flooded:?}, the connection with {ended:?}");
        if !known {
            ended.expect("a stranger's connection is kept").unwrap().ok();
        }
    }
    let (_, none) = server.get(MAPS).await;
    assert_eq!(none["items"].as_array().map(Vec::len), Some(2), "the two of others were made: {none}");
    server.stop().await;
}

/// The class of CVE-2024-27316: a head that never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_an_end_is_broken_off() {
    if !alone("a_head_without_an_end_is_broken_off") {
        return;
    }
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    let before = memory_bytes();
    let (mut reader, mut writer) = tokio::io::split(server.dial(b"h2", true).await);
    let drained = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
    let mut piece = Vec::new();
    // Literal fields, each with a new name.
    while piece.len() < 16_000 {
        piece.extend([0x00, 10]);
        piece.extend(format!("x{:09}", piece.len()).bytes());
        piece.extend([100]);
        piece.extend([b'y'; 100]);
    }
    let most = 64 << 20;
    let flood = async {
        writer.write_all(PREFACE).await?;
        writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        writer.write_all(&frame(HEADERS, 0x1, 1, &head("/api"))).await?;
        let mut sent = 0;
        while sent < most {
            writer.write_all(&frame(CONTINUATION, 0, 1, &piece)).await?;
            sent += piece.len();
        }
        std::io::Result::Ok(sent)
    };
    let flooded = tokio::time::timeout(WITHIN, flood).await.expect("it neither takes the head nor ends");
    assert!(flooded.is_err(), "{} MiB of one head were taken", most >> 20);
    tokio::time::timeout(WITHIN, drained).await.expect("the connection stays").unwrap().ok();
    let grown = memory_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {} MiB", grown >> 20);
    others_are_served(&server, "after").await;
    server.stop().await;
}

/// Says where to and how many connections [`silent`] opens.
const SILENT: &str = "MINIK_TEST_SILENT";

/// A client that says nothing at all, not even in TLS; a process of its own, whose sockets do not count as the server's.
#[test]
fn silent() {
    let Ok(asked) = std::env::var(SILENT) else { return };
    let (address, count) = asked.split_once(' ').unwrap();
    let connect = |_| std::net::TcpStream::connect(address).unwrap();
    let open: Vec<_> = (0..count.parse::<usize>().unwrap()).map(connect).collect();
    println!("\nopen");
    // Until the other side has seen enough.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    drop(open);
}

/// Starts [`silent`], and waits until all its connections are open.
fn silent_clients(address: std::net::SocketAddr, count: usize) -> std::process::Child {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "floods::silent", "--nocapture"])
        .env(SILENT, format!("{address} {count}"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(std::io::BufRead::lines(lines).any(|line| line.unwrap() == "open"), "not all are open");
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_nothing_cost_little() {
    if !alone("connections_that_do_nothing_cost_little") {
        return;
    }
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    let count = 300 * times();
    let before = memory_bytes();
    let address = server.address;
    let silent = tokio::task::spawn_blocking(move || silent_clients(address, count / 3));
    let mut silent = silent.await.unwrap();
    let mut open = Vec::new();
    for number in 0..count - count / 3 {
        open.push(server.dial(b"h2", number % 2 == 0).await);
    }
    let grown = memory_bytes().saturating_sub(before);
    println!("{count} idle connections: {} bytes each, most clients' side included", grown / count);
    assert!(grown / count < 128 << 10, "{} bytes each", grown / count);
    others_are_served(&server, "among-idle").await;
    drop(open);
    drop(silent.stdin.take());
    silent.wait().unwrap();
    server.stop().await;
}

/// Bodies that do not come hold what their sender may hold, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_keep_only_their_sender_waiting() {
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    let token = async |account: &str| {
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        server.json("POST", accounts, None, &json!({"metadata": {"name": account}})).await;
        let (code, answer) =
            server.json("POST", &format!("{accounts}/{account}/token"), None, &json!({})).await;
        assert_eq!(code, 201, "{answer}");
        let role =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
        let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "default"});
        let binding = json!({"metadata": {"name": account}, "roleRef": role, "subjects": [subject]});
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(server.json("POST", bindings, None, &binding).await.0, 201);
        answer["status"]["token"].as_str().unwrap().to_owned()
    };
    let (slow, other) = (token("slow").await, token("other").await);
    let mut open = Vec::new();
    for _ in 0..250 {
        let mut stream = server.dial(b"http/1.1", false).await;
        let head = format!(
            "POST {MAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {slow}\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let began = Instant::now();
    let map = json!({"metadata": {"name": "by-other"}});
    let written = tokio::time::timeout(WITHIN, server.json("POST", MAPS, Some(&other), &map));
    assert_eq!(written.await.expect("another account waits").0, 201);
    others_are_served(&server, "by-admin").await;
    println!("others wrote within {:?}", began.elapsed());
    drop(open);
    server.stop().await;
}

/// What HTTP/1.1 has of the kind: heads without an end, and bodies that lie about their length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_that_makes_no_sense_is_refused() {
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let fields = format!("GET /api HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let twice = "POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab";
    let both = "POST /api HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x\r\ncontent-length: 4\r\n\r\nabcd";
    for (what, text) in
        [("a path", &*long), ("fields", &fields), ("two lengths", twice), ("an encoding", both)]
    {
        let mut stream = server.dial(b"http/1.1", true).await;
        let answer = async {
            // A server that has refused need not read on.
            let _ = stream.write_all(text.as_bytes()).await;
            let mut answer = vec![0; 64];
            let read = stream.read(&mut answer).await.unwrap_or(0);
            String::from_utf8_lossy(&answer[..read]).into_owned()
        };
        let answer = tokio::time::timeout(WITHIN, answer).await.unwrap_or_else(|_| panic!("{what} is kept"));
        let code = answer.split_whitespace().nth(1).unwrap_or_default();
        assert!(answer.is_empty() || code.starts_with('4'), "{what}: {answer}");
    }
    // Data on a stream that nobody opened.
    let mut stream = server.dial(b"h2", true).await;
    for part in [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(DATA, 0, 99, &[0; 100])] {
        stream.write_all(part).await.unwrap();
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(WITHIN, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a broken HTTP/2 connection is kept");
    others_are_served(&server, "after").await;
    let gauge: Value = server.get("/api").await.1;
    assert_eq!(gauge["kind"], "APIVersions");
    server.stop().await;
}
