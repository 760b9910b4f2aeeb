//! Questions and answers as messages, over UDP and TCP.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const WITHIN: Duration = Duration::from_secs(10);

pub fn question(text: &str) -> Message {
    let (name, kind) = text.split_once(' ').unwrap();
    let mut message = Message::query();
    let kind: RecordType = kind.parse().unwrap();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn large(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// The answer over UDP, and how long it was.
pub async fn udp(server: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(WITHIN, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    (answer, length)
}

pub async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = tokio::time::timeout(WITHIN, stream.read_u16()).await.expect("an answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The data of the answer's records, sorted.
pub async fn ask(server: SocketAddr, text: &str) -> Vec<String> {
    let (answer, _) = udp(server, &question(text)).await;
    let mut lines: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    lines.sort();
    if lines.is_empty() {
        lines.push(answer.metadata.response_code.to_string());
    }
    lines
}
