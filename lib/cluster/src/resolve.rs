//! Whether the cluster's DNS answers a client on a node, by the address of its Service: then the DNS serves, and the
//! kernel has the Services' rules. The kernel tells nobody when it has them, so the question is asked again.

use crate::error::{Error, Result, system};
use crate::units::DOMAIN;
use minik_net::NetNs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::net::UdpSocket;

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// The least pause between two questions: a refusal comes at once.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
const ID: [u8; 2] = *b"mk";
/// Where a message's answers are counted, and how long its head is.
const ANSWERS: std::ops::Range<usize> = 6..8;

/// Returns when the server has answered a client in the network namespace of this pin. Each question has a socket of its
/// own: the kernel remembers where it sent the packets of one before.
///
/// # Errors
/// When no socket can be opened there.
pub(crate) async fn until_answered(pin: &Path, server: IpAddr) -> Result<()> {
    let question = question(&format!("kubernetes.default.svc.{DOMAIN}"));
    loop {
        let deadline = tokio::time::Instant::now() + AGAIN_AFTER;
        let socket = open(pin).await?;
        let asked = async {
            // Connected: a refusal is told at once.
            socket.connect(SocketAddr::new(server, 53)).await?;
            socket.send(&question).await?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).await?;
            Ok::<_, std::io::Error>(is_answer(&answer[..length]))
        };
        // What was refused, lost or is late is asked again.
        if let Ok(Ok(true)) = tokio::time::timeout(ANSWER_WITHIN, asked).await {
            return Ok(());
        }
        tokio::time::sleep_until(deadline).await;
    }
}

async fn open(pin: &Path) -> Result<UdpSocket> {
    let open = || -> std::io::Result<std::net::UdpSocket> {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let pin = pin.to_owned();
    let opened = tokio::task::spawn_blocking(move || Ok::<_, Error>(NetNs::open(pin)?.run(open)?));
    let opened = opened.await.map_err(std::io::Error::other).map_err(system("open a socket"))??;
    opened.and_then(UdpSocket::from_std).map_err(system("open a socket on a node"))
}

/// A message that asks for the IPv4 address of a name.
fn question(name: &str) -> Vec<u8> {
    // Recursion desired; one question.
    let mut message = [&ID[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    // The root; type A, class IN.
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn is_answer(message: &[u8]) -> bool {
    message.starts_with(&ID) && message.get(ANSWERS).is_some_and(|count| count != [0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;

    #[test]
    fn a_question_is_what_a_server_understands() {
        let message = Message::from_vec(&question("a.b.c")).unwrap();
        let query = message.queries.first().unwrap();
        assert_eq!(query.to_string(), "a.b.c. IN A");
        assert!(!is_answer(&question("a.b.c")));
    }
}
