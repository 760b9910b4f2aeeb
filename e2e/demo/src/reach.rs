//! What this program reaches from where it runs: names, TCP and UDP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(2);

/// The addresses of a name, as the system's resolver finds them, one a line.
pub(super) fn lookup(name: &str) -> io::Result<String> {
    let mut addresses: Vec<String> =
        (name, 0).to_socket_addrs()?.map(|found| format!("{}\n", found.ip())).collect();
    addresses.dedup();
    Ok(addresses.concat())
}

/// The body of what an HTTP server answers.
pub(super) fn connect(to: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&first(to)?, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other("no HTTP answer"))
}

/// What comes back for a datagram; both in hexadecimal digits.
pub(super) fn udp(to: &str, hex: &str) -> io::Result<String> {
    let target = first(to)?;
    let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.send(&bytes(hex)?)?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer)?;
    Ok(answer[..length].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn first(to: &str) -> io::Result<SocketAddr> {
    to.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))
}

fn bytes(hex: &str) -> io::Result<Vec<u8>> {
    let digit = |at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..hex.len())
        .step_by(2)
        .map(digit)
        .collect::<Option<_>>()
        .ok_or_else(|| io::Error::other("no hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_go_and_come() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap().to_string();
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            let (length, client) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], client).unwrap();
        });
        assert_eq!(udp(&to, "00ff").unwrap(), "00ff");
        echo.join().unwrap();
        assert!(udp(&to, "0x").is_err());
        assert!(connect(&to, "/").is_err());
        assert_eq!(lookup("127.0.0.1").unwrap(), "127.0.0.1\n");
    }
}
