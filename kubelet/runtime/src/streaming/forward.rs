//! Ports of a Pod, forwarded: each connection is a pair of streams, one for data and one that tells errors.
//!
//! <https://kubernetes.io/docs/tasks/access-application-cluster/port-forward-access-application-cluster/>

use super::spdy::{self, Sender, Stream};
use crate::runtime::Runtime;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Serves the forwarded ports of one client, until it goes.
pub async fn run<I: AsyncRead + AsyncWrite + Send + 'static>(runtime: Runtime, sandbox: String, io: I) {
    let (sender, mut streams) = spdy::channel();
    // Streams whose other half has not come yet, by the number of their connection.
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut connections = JoinSet::new();
    let served = spdy::serve(io, sender);
    tokio::pin!(served);
    loop {
        // Cancel-safe: the served connection is pinned, and a stream that was not taken stays.
        tokio::select! {
            ended = &mut served => {
                if let Err(error) = ended {
                    tracing::debug!(error = error.to_string(), "a client of forwarded ports has gone");
                }
                return;
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(stream) = streams.recv() => {
                let number = stream.headers.get("requestid").cloned().unwrap_or_default();
                let is_error = |stream: &Stream| stream.headers.get("streamtype").is_some_and(|kind| kind == "error");
                match halves.remove(&number) {
                    Some(other) if is_error(&other) != is_error(&stream) => {
                        let (errors, data) = if is_error(&stream) { (stream, other) } else { (other, stream) };
                        connections.spawn(forward(runtime.clone(), sandbox.clone(), data, errors.sender));
                    }
                    _ => drop(halves.insert(number, stream)),
                }
            }
        }
    }
}

async fn forward(runtime: Runtime, sandbox: String, data: Stream, errors: Sender) {
    let port = data.headers.get("port").and_then(|port| port.parse().ok()).unwrap_or(0);
    let failure = match connect(&runtime, &sandbox, port).await {
        Ok(stream) => copy(stream, data.data, &data.sender).await.err().map(|error| error.to_string()),
        Err(words) => Some(words),
    };
    if let Some(words) = failure {
        let words = format!("error forwarding port {port} to pod {sandbox}: {words}");
        errors.send(words.as_bytes()).await;
    }
    errors.end().await;
    data.sender.end().await;
}

/// Connects to a port on loopback inside the Pod, by either version of IP.
async fn connect(runtime: &Runtime, sandbox: &str, port: u16) -> Result<TcpStream, String> {
    let record = runtime.sandbox(sandbox).map_err(|error| error.to_string())?;
    let pause = record.pause.ok_or_else(|| "the Pod has no network".to_owned())?;
    let dial = move || {
        let namespace =
            minik_net::NetNs::of_pid(pause.pid.unsigned_abs()).map_err(|error| error.to_string())?;
        let dial = || {
            let mut words = format!("failed to connect to localhost:{port} inside the Pod");
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                match std::net::TcpStream::connect(SocketAddr::new(address, port)) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => words.push_str(&format!(", {address}: {error}")),
                }
            }
            Err(words)
        };
        namespace.run(dial).map_err(|error| error.to_string())?
    };
    let stream = tokio::task::spawn_blocking(dial).await.map_err(|error| error.to_string())??;
    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(|error| error.to_string())
}

async fn copy(stream: TcpStream, mut data: mpsc::Receiver<Vec<u8>>, sender: &Sender) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let inward = async {
        while let Some(bytes) = data.recv().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 || !sender.send(&buffer[..count]).await {
                return Ok(());
            }
        }
    };
    tokio::pin!(inward, outward);
    // Cancel-safe: the Pod's end ends it, whatever the client still sends; the client's end only half-closes.
    tokio::select! {
        ended = &mut outward => ended,
        ended = &mut inward => {
            ended?;
            outward.await
        }
    }
}
