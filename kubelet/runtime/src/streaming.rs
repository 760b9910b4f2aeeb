//! Streams for commands, attaching and ports: a server on loopback to which the kubelet hands connections through.
//!
//! CRI's `Exec` and `Attach` answer with an address that holds a token: random, used once, forgotten after a minute. At
//! that address WebSocket is spoken, with the subprotocols that `kubectl` uses: each message begins with a channel's
//! number. Ports are forwarded over SPDY, plain or inside a WebSocket; commands are not: who asks for that is told so.
//!
//! <https://kubernetes.io/docs/tasks/debug/debug-application/get-shell-running-container/>

use crate::runtime::{Runtime, RuntimeError};
use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use minik_component::{Clock, Shutdown};
use minik_cri::v1;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

mod dictionary;
mod forward;
mod pump;
mod session;
mod spdy;
mod tunnel;

#[doc(hidden)]
pub use session::to_stdin;

/// How long an address may wait to be used.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Addresses that wait at once; more are refused, so that nobody fills the memory with them.
const MOST_TOKENS: usize = 1000;
/// The largest message of a client, as upstream has it.
const MOST_MESSAGE_BYTES: usize = 32 << 20;
/// The subprotocols, the best first; the last two know no end of stdin.
const PROTOCOLS: [&str; 4] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];

/// What an address stands for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A command.
    Exec(v1::ExecRequest),
    /// The container's own process.
    Attach(v1::AttachRequest),
    /// Ports of a sandbox.
    PortForward(v1::PortForwardRequest),
}

/// Hands out addresses.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    runtime: Runtime,
    clock: Arc<dyn Clock>,
    waiting: Mutex<HashMap<String, (Duration, Asked)>>,
}

impl Streams {
    /// Listens on loopback and serves until `shutdown`; the returned future is the server.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve(
        runtime: Runtime,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> std::io::Result<(Streams, impl Future<Output = std::io::Result<()>>)> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let streams = Streams(Arc::new(Inner { address, runtime, clock, waiting: Mutex::default() }));
        let router = Router::new().route("/{kind}/{token}", any(answer)).with_state(streams.clone());
        let server = async move {
            let served = axum::serve(listener, router);
            // Cancel-safe: open streams break off with the process.
            tokio::select! {
                served = served.into_future() => served,
                () = shutdown.requested() => Ok(()),
            }
        };
        Ok((streams, server))
    }

    /// An address for what is asked.
    ///
    /// # Errors
    /// When the container does not run, or too many addresses wait.
    pub fn address(&self, asked: Asked) -> Result<String, RuntimeError> {
        let running = |container: &str| {
            let record = self.0.runtime.container(container)?;
            match record.phase {
                crate::record::Phase::Running => Ok(()),
                _ => Err(RuntimeError::State(format!("container {:?} is not running", record.id))),
            }
        };
        let kind = match &asked {
            Asked::Exec(request) => running(&request.container_id).map(|()| "exec")?,
            Asked::Attach(request) => running(&request.container_id).map(|()| "attach")?,
            Asked::PortForward(request) => {
                let record = self.0.runtime.sandbox(&request.pod_sandbox_id)?;
                if !record.ready {
                    return Err(RuntimeError::State(format!("sandbox {:?} is not running", record.id)));
                }
                "portforward"
            }
        };
        let (now, token) = (self.0.clock.elapsed(), self.0.runtime.new_id());
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| now - *since < TOKEN_LIFE);
        if waiting.len() >= MOST_TOKENS {
            return Err(RuntimeError::State("too many streams wait to be opened".to_owned()));
        }
        waiting.insert(token.clone(), (now, asked));
        Ok(format!("http://{}/{kind}/{token}", self.0.address))
    }

    fn take(&self, token: &str) -> Option<Asked> {
        let now = self.0.clock.elapsed();
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, asked) = waiting.remove(token)?;
        (now - since < TOKEN_LIFE).then_some(asked)
    }
}

/// Serves what a client of forwarded ports sends, for the fuzz targets; what comes over its streams is read and forgotten.
///
/// # Errors
/// When it sends something else.
#[doc(hidden)]
pub async fn serve_spdy(sent: &[u8]) -> Result<(), spdy::SpdyError> {
    let (sender, mut streams) = spdy::channel();
    let mut open = Vec::new();
    let io = tokio::io::join(sent, tokio::io::sink());
    let served = spdy::serve(io, sender);
    tokio::pin!(served);
    loop {
        // Cancel-safe: the served connection is pinned, and a stream that was not taken stays.
        tokio::select! {
            ended = &mut served => return ended,
            Some(stream) = streams.recv() => {
                let spdy::Stream { mut data, sender, .. } = stream;
                open.push(sender);
                tokio::spawn(async move { while data.recv().await.is_some() {} });
            }
        }
    }
}

async fn answer(
    State(streams): State<Streams>,
    Path((_, token)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let refused = |code: StatusCode, words: &str| (code, format!("{words}\n")).into_response();
    let Some(asked) = streams.take(&token) else {
        return refused(StatusCode::NOT_FOUND, "no stream waits at this address");
    };
    let runtime = streams.0.runtime.clone();
    if let (Asked::PortForward(ports), true) = (&asked, tunnel::is_spdy(request.headers())) {
        return tunnel::upgrade(runtime, ports.pod_sandbox_id.clone(), &mut request);
    }
    let upgrade = match WebSocketUpgrade::from_request(request, &streams).await {
        Ok(upgrade) => upgrade.max_message_size(MOST_MESSAGE_BYTES).max_frame_size(MOST_MESSAGE_BYTES),
        Err(_) => return refused(StatusCode::BAD_REQUEST, "only WebSocket is spoken here"),
    };
    if let Asked::PortForward(ports) = asked {
        let upgrade = upgrade.protocols([tunnel::PROTOCOL]);
        if upgrade.selected_protocol().is_none() {
            return refused(
                StatusCode::BAD_REQUEST,
                "the subprotocol for ports is SPDY/3.1+portforward.k8s.io",
            );
        }
        return upgrade.on_upgrade(move |socket| tunnel::websocket(runtime, ports.pod_sandbox_id, socket));
    }
    let upgrade = upgrade.protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        return refused(StatusCode::BAD_REQUEST, &format!("the subprotocols are {}", PROTOCOLS.join(", ")));
    }
    upgrade.on_upgrade(move |socket: WebSocket| session::run(runtime, asked, socket))
}
