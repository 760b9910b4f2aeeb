//! All other names: asked of the servers that a resolv.conf names, and kept for a while.

use crate::metrics::Metrics;
use futures::StreamExt;
use hickory_proto::op::{DnsRequestOptions, Message, OpCode, Query, ResponseCode};
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use hickory_server::net::{DnsError, DnsHandle, NetError, RetryDnsHandle};
use hickory_server::resolver::config::{NameServerConfig, ResolverOpts};
use hickory_server::resolver::system_conf::parse_resolv_conf;
use hickory_server::resolver::{NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig};
use minik_net::NetNs;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// As kubeadm asks of CoreDNS: nothing is kept for longer than this.
const LONGEST_KEPT: Duration = Duration::from_secs(30);
/// Answers that are kept, of some hundred bytes each.
const MOST_KEPT: u64 = 4096;
/// Questions under way to other servers; beyond it clients are told to come again.
const MOST_AT_ONCE: usize = 1000;
/// How long a server may take; clients ask again after five seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often the file of servers is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

type Pool = RetryDnsHandle<NameServerPool<Sockets>>;

/// Where other names are asked for.
pub struct Upstream {
    /// The file that names the servers.
    pub resolv_conf: PathBuf,
    /// Their port.
    pub port: u16,
    /// The network namespace to ask from.
    pub netns: Option<PathBuf>,
    /// This server's own address: what it does not know it must not ask itself.
    pub own: SocketAddr,
}

/// Asks other servers.
pub struct Forwarder {
    upstream: Upstream,
    cache: ResponseCache,
    servers: Mutex<Servers>,
    slots: Semaphore,
    metrics: Metrics,
}

/// The servers, as the file named them.
struct Servers {
    pool: Option<Pool>,
    looked: Instant,
    modified: Option<SystemTime>,
}

impl Forwarder {
    /// One that asks there.
    pub fn new(upstream: Upstream, metrics: Metrics) -> Forwarder {
        let mut options = ResolverOpts::default();
        options.positive_max_ttl = Some(LONGEST_KEPT);
        options.negative_max_ttl = Some(LONGEST_KEPT);
        let modified = modified(&upstream);
        let servers = Servers { pool: pool(&upstream), looked: Instant::now(), modified };
        Forwarder {
            upstream,
            cache: ResponseCache::new(MOST_KEPT, TtlConfig::from_opts(&options)),
            servers: Mutex::new(servers),
            slots: Semaphore::new(MOST_AT_ONCE),
            metrics,
        }
    }

    /// What others answer, or SERVFAIL. Its id and its question mean nothing.
    pub async fn ask(&self, query: Query) -> Message {
        let now = Instant::now();
        if let Some(kept) = self.cache.get(&query, now) {
            self.metrics.cached(Some(kept.is_ok()));
            return message(kept);
        }
        self.metrics.cached(None);
        let (Some(pool), Ok(_slot)) = (self.pool(now), self.slots.try_acquire()) else {
            return failure(ResponseCode::ServFail);
        };
        let mut options = DnsRequestOptions::default();
        options.recursion_desired = true;
        let asked = pool.lookup(query.clone(), options).next().await;
        let answer = asked.unwrap_or(Err(NetError::NoConnections)).map(|answer| answer.into_message());
        if let Err(error) = &answer
            && !is_answer(error)
        {
            tracing::debug!(%query, %error, "no other server answers");
        }
        if keeps(&answer) {
            self.cache.insert(query, answer.clone(), now);
        }
        message(answer)
    }

    fn pool(&self, now: Instant) -> Option<Pool> {
        // The servers are replaced in one step; a panic elsewhere leaves them whole.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(servers.looked) > LOOK_EVERY {
            let modified = modified(&self.upstream);
            if modified != servers.modified {
                tracing::info!(file = %self.upstream.resolv_conf.display(), "the servers for other names changed");
                *servers = Servers { pool: pool(&self.upstream), looked: now, modified };
            }
            servers.looked = now;
        }
        servers.pool.clone()
    }
}

fn modified(upstream: &Upstream) -> Option<SystemTime> {
    std::fs::metadata(&upstream.resolv_conf).and_then(|metadata| metadata.modified()).ok()
}

/// The servers of the file; none when it cannot be read or names none.
fn pool(upstream: &Upstream) -> Option<Pool> {
    let file = upstream.resolv_conf.display();
    let parsed = std::fs::read(&upstream.resolv_conf).map_err(NetError::from).and_then(parse_resolv_conf);
    let (config, mut options) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(%file, %error, "only the cluster's own names can be answered");
            return None;
        }
    };
    let foreign = |server: &NameServerConfig| SocketAddr::new(server.ip, upstream.port) != upstream.own;
    let mut servers: Vec<NameServerConfig> = config.into_parts().2.into_iter().filter(foreign).collect();
    servers.iter_mut().flat_map(|server| &mut server.connections).for_each(|way| way.port = upstream.port);
    if servers.is_empty() {
        tracing::warn!(%file, "it names only this server itself; only the cluster's own names can be answered");
        return None;
    }
    options.timeout = ANSWER_WITHIN;
    options.num_concurrent_reqs = 1;
    // Without it, kernels may choose ports that are easier to guess; with it, one in use is tried and fails.
    options.os_port_selection = false;
    let tls = TlsConfig::new().ok()?;
    let context = Arc::new(PoolContext::new(options, tls));
    let sockets = Sockets { netns: upstream.netns.clone(), tokio: TokioRuntimeProvider::new() };
    Some(RetryDnsHandle::new(NameServerPool::from_config(servers, context, sockets), 1))
}

fn failure(code: ResponseCode) -> Message {
    Message::error_msg(0, OpCode::Query, code)
}

/// Whether an error is what a server answered: that there is nothing.
fn is_answer(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none))
        if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain))
}

/// Whether an answer may be kept: not what may be better the next time.
fn keeps(answer: &Result<Message, NetError>) -> bool {
    answer.as_ref().map_or_else(is_answer, |message| !message.metadata.truncation)
}

/// An answer as a message again.
fn message(answer: Result<Message, NetError>) -> Message {
    match answer {
        Ok(message) => message,
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let mut message = failure(none.response_code);
            match (none.authorities, none.soa) {
                (Some(authorities), _) => message.authorities = authorities.to_vec(),
                (None, Some(soa)) => message.authorities = vec![soa.into_record_of_rdata()],
                (None, None) => {}
            }
            message
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => failure(code),
        Err(_) => failure(ResponseCode::ServFail),
    }
}

/// Opens sockets in a network namespace.
#[derive(Clone)]
struct Sockets {
    netns: Option<PathBuf>,
    tokio: TokioRuntimeProvider,
}

impl Sockets {
    /// Runs `open` in the namespace. It blocks for as long as a thread takes to start.
    fn open<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.netns {
            None => open(),
            Some(path) => NetNs::open(path).and_then(|netns| netns.run(open)).map_err(io::Error::other)?,
        }
    }
}

type Opening<T> = Pin<Box<dyn Send + Future<Output = Result<T, io::Error>>>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _bind: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let socket = self.open(|| tcp_socket(server));
        Box::pin(async move {
            let connect = TcpSocket::from_std_stream(socket?).connect(server);
            let stream = tokio::time::timeout(within.unwrap_or(ANSWER_WITHIN), connect).await??;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Opening<UdpSocket> {
        let socket = self.open(|| {
            let socket = StdUdpSocket::bind(local)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Box::pin(async move { UdpSocket::from_std(socket?) })
    }
}

/// A TCP socket that is not connected yet.
fn tcp_socket(server: SocketAddr) -> io::Result<StdTcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?.into())
}
