//! Clients: the host itself, and Pods that are asked what they reach.

use super::Server;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(5);
/// Enough that each of three servers is met but once in a hundred million runs.
pub const TRIES: usize = 48;

/// Who asks.
#[derive(Clone, Copy)]
pub enum From<'a> {
    Host,
    Pod(&'a Server),
}

impl std::fmt::Display for From<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            From::Host => f.write_str("the host"),
            From::Pod(pod) => write!(f, "{} on {}", pod.name, pod.node),
        }
    }
}

/// Who answered, and whom it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    pub server: String,
    pub client: IpAddr,
}

fn met(answer: &str) -> Result<Met> {
    let words: Vec<&str> = answer.split_whitespace().collect();
    match words[..] {
        [server, _, client, ..] => Ok(Met { server: server.to_owned(), client: client.parse()? }),
        _ => bail!("an odd answer: {answer:?}"),
    }
}

/// The body of an answer of code 200; another body is an error.
pub fn get(to: SocketAddr, target: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, WITHIN)?;
    // A Pod that is asked what it reaches may wait as long itself.
    stream.set_read_timeout(Some(2 * WITHIN))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{}", body.trim());
    Ok(body.to_owned())
}

impl From<'_> {
    /// Connects over TCP.
    pub fn tcp(self, to: SocketAddr) -> Result<Met> {
        let answer = match self {
            From::Host => get(to, "/who"),
            From::Pod(pod) => get((pod.ip, 8080).into(), &format!("/connect?to={to}")),
        };
        met(&answer.with_context(|| format!("{self} to {to}"))?)
    }

    /// Sends a datagram and takes what comes back.
    pub fn exchange(self, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
        match self {
            From::Host => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(WITHIN))?;
                socket.send(bytes)?;
                let mut answer = vec![0; 4096];
                let length = socket.recv(&mut answer)?;
                answer.truncate(length);
                Ok(answer)
            }
            From::Pod(pod) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let answer = get((pod.ip, 8080).into(), &format!("/udp?to={to}&hex={hex}"))?;
                let digit = |at| Ok(u8::from_str_radix(&answer[at..at + 2], 16)?);
                (0..answer.len()).step_by(2).map(digit).collect()
            }
        }
    }

    /// Asks over UDP.
    pub fn udp(self, to: SocketAddr) -> Result<Met> {
        let answer = self.exchange(to, b"hello").with_context(|| format!("{self} to {to} over UDP"))?;
        let answer = String::from_utf8(answer)?;
        ensure!(answer.ends_with("hello"), "{answer:?}");
        met(&answer)
    }
}

/// How often each server answered.
pub fn spread(mut ask: impl FnMut() -> Result<Met>) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..TRIES {
        *counts.entry(ask()?.server).or_default() += 1;
    }
    Ok(counts)
}
