//! Commands and attaching over WebSocket, as kubectl speaks it.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, shell};
use minik_cri::v1;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client of one stream: it frames messages by hand, as RFC 6455 wants them.
struct Client {
    stream: TcpStream,
    /// What came in, by channel.
    seen: BTreeMap<u8, Vec<u8>>,
}

impl Client {
    async fn open(url: &str, protocol: &str) -> Result<Client, String> {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("HTTP/1.1 101") {
            return Err(head.lines().next().unwrap().to_owned());
        }
        assert!(head.to_lowercase().contains(&format!("sec-websocket-protocol: {protocol}")), "{head}");
        Ok(Client { stream, seen: BTreeMap::new() })
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let length = u8::try_from(bytes.len() + 1).unwrap();
        assert!(length < 126);
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x82, 0x80 | length];
        frame.extend(mask);
        let payload = [&[channel], bytes].concat();
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Takes one message. Gives whether there may be more.
    async fn next(&mut self) -> bool {
        let head = self.stream.read_u8().await.unwrap();
        let length = match self.stream.read_u8().await.unwrap() {
            126 => usize::from(self.stream.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.unwrap();
        if head & 0x0f == 8 {
            return false;
        }
        let (channel, bytes) = payload.split_first().unwrap();
        self.seen.entry(*channel).or_default().extend(bytes);
        true
    }

    fn said(&self, channel: u8) -> String {
        String::from_utf8(self.seen.get(&channel).cloned().unwrap_or_default()).unwrap()
    }

    async fn until(&mut self, channel: u8, words: &str) {
        while !self.said(channel).contains(words) {
            assert!(self.next().await, "it ended without {words:?}: {:?}", self.said(channel));
        }
    }

    async fn drain(&mut self) {
        while self.next().await {}
    }
}

async fn exec_url(runtime: &mut Fixture, id: &str, script: &str, tty: bool, stdin: bool) -> String {
    let request = v1::ExecRequest {
        container_id: id.into(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    runtime.client.exec(request).await.unwrap().into_inner().url
}

#[tokio::test]
async fn commands_have_stdin_output_status_and_terminals() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("stream");
    let sandbox = runtime.run_pod(&pod).await;
    let id = runtime.started(&sandbox, &pod, command(&["sleep", "1000"])).await;

    let url = exec_url(&mut runtime, &id, "cat; echo bad >&2; exit 4", false, true).await;
    let mut client = Client::open(&url, "v5.channel.k8s.io").await.unwrap();
    client.send(0, b"typed\n").await;
    client.until(1, "typed").await;
    client.send(255, &[0]).await;
    client.drain().await;
    assert_eq!((client.said(1), client.said(2)), ("typed\n".to_owned(), "bad\n".to_owned()));
    assert!(client.said(3).contains(r#""reason":"ExitCode","message":"4""#), "{}", client.said(3));
    assert!(Client::open(&url, "v5.channel.k8s.io").await.is_err(), "an address is used once");

    let url = exec_url(&mut runtime, &id, "read x; echo got $x; stty size; exit 0", true, true).await;
    let mut client = Client::open(&url, "v4.channel.k8s.io").await.unwrap();
    client.send(4, br#"{"Width":91,"Height":33}"#).await;
    client.send(0, b"line\r").await;
    client.drain().await;
    assert!(client.said(1).contains("got line\r\n33 91\r\n"), "{:?}", client.said(1));
    assert!(client.said(3).contains("Success"));

    let request = v1::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["/no".into()],
        stdout: true,
        ..Default::default()
    };
    let url = runtime.client.exec(request).await.unwrap().into_inner().url;
    let mut client = Client::open(&url, "v5.channel.k8s.io").await.unwrap();
    client.drain().await;
    assert!(client.said(3).contains("stat /no: no such file or directory"), "{}", client.said(3));
    assert_eq!(
        Client::open(&exec_url(&mut runtime, &id, "true", false, false).await, "other")
            .await
            .err()
            .as_deref(),
        Some("HTTP/1.1 400 Bad Request")
    );
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn who_attaches_sees_output_and_writes_stdin() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("attach");
    let sandbox = runtime.run_pod(&pod).await;
    let mut config = shell("while read x; do echo read $x; test $x = end && exit 0; done; echo closed");
    (config.stdin, config.stdin_once) = (true, true);
    let id = runtime.started(&sandbox, &pod, config).await;
    let request =
        v1::AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let url = runtime.client.attach(request).await.unwrap().into_inner().url;
    let mut client = Client::open(&url, "v5.channel.k8s.io").await.unwrap();
    client.send(0, b"one\n").await;
    client.until(1, "read one").await;
    client.send(0, b"end\n").await;
    client.drain().await;
    assert!(client.said(1).ends_with("read end\n") && client.said(3).contains("Success"));
    assert_eq!(runtime.ended(&id).await.exit_code, 0);
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

/// A stream's opening, with headers stored as they are.
fn syn_stream(id: u32, headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut body = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for word in headers.iter().flat_map(|(name, value)| [name, value]) {
        body.extend(u32::try_from(word.len()).unwrap().to_be_bytes());
        body.extend(word.as_bytes());
    }
    let length = u16::try_from(body.len()).unwrap();
    let mut frame = [&id.to_be_bytes()[..], &[0; 6]].concat();
    if first {
        frame.extend([0x78, 0x01]);
    }
    frame.push(0);
    frame.extend(length.to_le_bytes());
    frame.extend((!length).to_le_bytes());
    frame.extend(body);
    frame.extend([0, 0, 0, 0xff, 0xff]);
    let length = u32::try_from(frame.len()).unwrap();
    [&[0x80, 3, 0, 1][..], &length.to_be_bytes(), &frame].concat()
}

/// What comes on each stream until all of `ends` have ended.
async fn spdy_data(stream: &mut TcpStream, ends: &[u32]) -> BTreeMap<u32, Vec<u8>> {
    let (mut seen, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new());
    while !ends.iter().all(|id| ended.contains(id)) {
        let (first, second) = (stream.read_u32().await.unwrap(), stream.read_u32().await.unwrap());
        let mut body = vec![0; (second & 0xff_ffff) as usize];
        stream.read_exact(&mut body).await.unwrap();
        if first >> 31 == 0 {
            seen.entry(first).or_default().extend(body);
            if second >> 24 == 1 {
                ended.push(first);
            }
        }
    }
    seen
}

#[tokio::test]
async fn ports_are_forwarded_into_the_pod() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("ports");
    let sandbox = runtime.run_pod(&pod).await;
    let config = shell("exec httpd -f -p 127.0.0.1:7007 -h /etc");
    let id = runtime.started(&sandbox, &pod, config).await;
    common::eventually("the server listens", async || {
        let listens =
            runtime.exec(&id, &["/bin/sh", "-c", "netstat -ltn | grep -q :7007"], 10).await.unwrap();
        if listens.exit_code == 0 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![7007] };
    let url = runtime.client.port_forward(request).await.unwrap().into_inner().url;
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head =
        format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    let headers = |kind, port, number| [("streamtype", kind), ("port", port), ("requestid", number)];
    stream.write_all(&syn_stream(1, &headers("error", "7007", "0"), true)).await.unwrap();
    stream.write_all(&syn_stream(3, &headers("data", "7007", "0"), false)).await.unwrap();
    let asked = b"GET /passwd HTTP/1.0\r\n\r\n";
    let length = u8::try_from(asked.len()).unwrap();
    stream.write_all(&[&[0, 0, 0, 3, 0, 0, 0, length][..], asked].concat()).await.unwrap();
    let seen = spdy_data(&mut stream, &[1, 3]).await;
    assert!(String::from_utf8_lossy(&seen[&3]).contains("root:x:0:0"), "{seen:?}");
    assert!(seen[&1].is_empty(), "{seen:?}");
    stream.write_all(&syn_stream(5, &headers("error", "9", "1"), false)).await.unwrap();
    stream.write_all(&syn_stream(7, &headers("data", "9", "1"), false)).await.unwrap();
    let seen = spdy_data(&mut stream, &[5, 7]).await;
    let words = String::from_utf8_lossy(&seen[&5]);
    assert!(
        words.contains("failed to connect to localhost:9") && words.contains("Connection refused"),
        "{words}"
    );
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}
