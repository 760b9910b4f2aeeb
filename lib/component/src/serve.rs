//! One connection of a server, HTTP/1.1 or HTTP/2, within limits: clients that do nothing, are slow, or ask too often cost
//! little, and do not keep others out.
//!
//! ```text
//!  stream ─> head in time? ─> answer ─> body ─┐        nothing under way for `idle` ─> asked to end ─> `drain` ─> closed
//!     └────────<──────────────<───────────────┘
//! ```

use crate::Shutdown;
use crate::cork::{Cork, cork};
use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the head of a request.
    pub head: Duration,
    /// Without any request under way.
    pub idle: Duration,
    /// For what is left to send, once the connection is to end.
    pub drain: Duration,
    /// Requests at once over HTTP/2.
    pub streams: u32,
    /// Bytes of a request's head over HTTP/2.
    pub head_bytes: u32,
}

impl Default for Limits {
    /// Upstream's times and sizes.
    fn default() -> Limits {
        Limits {
            head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            drain: Duration::from_secs(15),
            streams: 250,
            head_bytes: 1 << 20,
        }
    }
}

/// Between two questions over HTTP/2 whether the client is there still, and how long its answer may take.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
const ALIVE_WITHIN: Duration = Duration::from_secs(15);

/// Files that are kept free of clients' connections: for stores, and for what a server asks of others.
const OTHER_FILES: u64 = 1_000;

/// Put into the extensions of an answer: over HTTP/2 it is the connection's last. For who is not known: many requests over
/// one connection are cheap to send and dear to answer.
#[derive(Debug, Clone, Copy)]
pub struct LastAnswer;

/// Any error of a connection.
pub type ConnectionError = Box<dyn Error + Send + Sync>;

/// How many of so many connections the process has files for, once it may open as many as it can be allowed.
pub fn most_connections(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the number of files that may be open");
            limit = getrlimit(Resource::Nofile);
        }
    }
    let files = limit.current.unwrap_or(u64::MAX);
    // Where files are few, half of them are for clients.
    let free = files.saturating_sub(OTHER_FILES).max(files / 2);
    wanted.min(usize::try_from(free).unwrap_or(wanted))
}

/// Open connections by where they come from: nobody may take all of a server's.
#[derive(Debug, Clone)]
pub struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>, usize);

/// A place among the connections of a source.
#[derive(Debug)]
pub struct Place(Sources, IpAddr);

impl Sources {
    /// So many for each source.
    pub fn new(most: usize) -> Sources {
        Sources(Arc::default(), most)
    }

    /// A place for another connection from there, unless it has all that it may have.
    pub fn enter(&self, source: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_insert(0);
        if *count >= self.1 {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// What happens on a connection.
struct Activity {
    began: Instant,
    under_way: AtomicUsize,
    /// When the last request ended, in milliseconds since the beginning.
    ended_ms: AtomicU64,
    last: Notify,
}

impl Activity {
    /// Since when nothing is under way.
    fn idle_since(&self) -> Option<Instant> {
        let ended = Duration::from_millis(self.ended_ms.load(Ordering::Acquire));
        (self.under_way.load(Ordering::Acquire) == 0).then(|| self.began + ended)
    }
}

/// A request that is under way until the body of its answer is sent.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn new(activity: &Arc<Activity>) -> UnderWay {
        activity.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let ms = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.ended_ms.fetch_max(ms, Ordering::AcqRel);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that keeps its request under way.
struct Sent<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Answers the requests of a connection until it ends: by the client, for want of requests, or after `shutdown`, when no
/// new one is taken and those under way are finished.
///
/// # Errors
/// When it breaks.
pub async fn converse<S, A, F, B>(
    stream: S,
    answer: A,
    limits: Limits,
    shutdown: &Shutdown,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<ConnectionError>,
{
    let activity = Arc::new(Activity {
        began: Instant::now(),
        under_way: AtomicUsize::new(0),
        ended_ms: AtomicU64::new(0),
        last: Notify::new(),
    });
    let seen = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (under_way, version) = (UnderWay::new(&seen), request.version());
        let answered = answer(request);
        async move {
            let response = answered.await;
            if version == Version::HTTP_2 && response.extensions().get::<LastAnswer>().is_some() {
                under_way.0.last.notify_one();
            }
            Ok::<_, Infallible>(response.map(|body| Sent { body, _under_way: under_way }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head_bytes)
        .keep_alive_interval(Some(ALIVE_EVERY))
        .keep_alive_timeout(ALIVE_WITHIN);
    let (stream, cork) = cork(stream);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watch_over(std::pin::pin!(connection), &cork, &activity, limits, shutdown).await
}

async fn watch_over<C, S>(
    mut connection: Pin<&mut C>,
    cork: &Cork<S>,
    activity: &Activity,
    limits: Limits,
    shutdown: &Shutdown,
) -> Result<(), ConnectionError>
where
    C: GracefulConnection<Error = ConnectionError>,
    S: AsyncWrite + Unpin,
{
    let (mut ending, mut wait) = (false, limits.idle);
    let mut look = Instant::now() + wait;
    loop {
        // Cancel-safe: the connection is polled again where it was, the rest only waits.
        tokio::select! {
            result = cork.around(connection.as_mut()) => return result,
            () = shutdown.requested(), if !ending => {}
            () = activity.last.notified(), if !ending => {}
            () = sleep_until(look) => {
                let now = Instant::now();
                match activity.idle_since() {
                    None => look = now + wait,
                    Some(since) if since + wait > now => look = since + wait,
                    Some(_) if ending => return Ok(()),
                    Some(_) => {
                        (ending, wait, look) = (true, limits.drain, now + limits.drain);
                        connection.as_mut().graceful_shutdown();
                    }
                }
                continue;
            }
        }
        (ending, wait, look) = (true, limits.drain, Instant::now() + limits.drain);
        connection.as_mut().graceful_shutdown();
    }
}

/// Copies bytes both ways until both sides have ended, one breaks, or nothing came from either for `idle`.
pub async fn join(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) {
    let heard = Heard { began: Instant::now(), ms: AtomicU64::new(0) };
    let (mut one, mut other) =
        (Listened { stream: one, heard: &heard }, Listened { stream: other, heard: &heard });
    let copied = tokio::io::copy_bidirectional(&mut one, &mut other);
    tokio::pin!(copied);
    let mut look = heard.began + idle;
    loop {
        // Cancel-safe: the copy is polled again where it was.
        tokio::select! {
            // Whoever breaks off has nothing to be told.
            _ = &mut copied => return,
            () = sleep_until(look) => {
                look = heard.last() + idle;
                if look <= Instant::now() {
                    return;
                }
            }
        }
    }
}

/// When something was last heard.
struct Heard {
    began: Instant,
    ms: AtomicU64,
}

impl Heard {
    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }
}

struct Listened<'a, S> {
    stream: S,
    heard: &'a Heard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            let ms = u64::try_from(self.heard.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.heard.ms.store(ms, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    type Answer = Response<UnsyncBoxBody<Bytes, ConnectionError>>;

    fn whole(text: &'static str) -> Answer {
        Response::new(
            Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync(),
        )
    }

    /// `/slow` sends a piece every minute for ten minutes; `/stranger` answers once.
    async fn answer(request: Request<Incoming>) -> Answer {
        match request.uri().path() {
            "/slow" => {
                let pieces = futures::stream::unfold(0, |minute| async move {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    (minute < 10).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), minute + 1))
                });
                Response::new(StreamBody::new(pieces).boxed_unsync())
            }
            "/stranger" => {
                let mut answer = whole("who");
                answer.extensions_mut().insert(LastAnswer);
                answer
            }
            _ => whole("ok"),
        }
    }

    fn serve() -> DuplexStream {
        let (client, server) = duplex(1 << 16);
        tokio::spawn(async move { converse(server, answer, Limits::default(), &Shutdown::new()).await });
        client
    }

    /// Seconds until the server closes, after this was sent; what it said.
    async fn closed_after(sent: &str) -> (u64, String) {
        let (mut client, began, mut said) = (serve(), Instant::now(), Vec::new());
        client.write_all(sent.as_bytes()).await.unwrap();
        // A client that is cut off may see it as an error.
        let _ = client.read_to_end(&mut said).await;
        (began.elapsed().as_secs(), String::from_utf8_lossy(&said).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_nothing_or_is_slow_is_closed() {
        let (seconds, said) = closed_after("").await;
        assert!((90..=105).contains(&seconds) && said.is_empty(), "{seconds} s: {said}");
        let (seconds, _) = closed_after("GET / HTTP/1.1\r\nhost: x\r\nslow: ").await;
        assert!((32..=33).contains(&seconds), "half a head stays for {seconds} s");
        let (seconds, said) = closed_after("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!((30..=105).contains(&seconds) && said.ends_with("ok"), "{seconds} s: {said}");
        // The beginning of HTTP/2, and nothing after it.
        let (seconds, _) = closed_after("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert!(seconds <= 105, "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_the_time_it_takes() {
        let (seconds, said) = closed_after("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!((660..=780).contains(&seconds) && said.ends_with("0\r\n\r\n"), "{seconds} s: {said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_has_one_answer_over_http2() {
        use hyper::client::conn::http2;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(serve())).await.unwrap();
        let connection = tokio::spawn(connection);
        let get =
            |path: &str| Request::get(format!("http://x{path}")).body(Full::<Bytes>::default()).unwrap();
        for _ in 0..3 {
            assert_eq!(sender.send_request(get("/")).await.unwrap().status(), 200);
        }
        assert_eq!(sender.send_request(get("/stranger")).await.unwrap().status(), 200);
        let ended = tokio::time::timeout(Duration::from_secs(5), connection).await;
        ended.expect("the connection stays open").unwrap().unwrap();
    }

    #[test]
    fn a_source_has_its_share() {
        let sources = Sources::new(2);
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = sources.enter(one);
        let second = sources.enter(one);
        assert!(first.is_some() && second.is_some() && sources.enter(one).is_none());
        assert!(sources.enter(other).is_some());
        drop(first);
        assert!(sources.enter(one).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn joined_streams_end_when_nothing_comes() {
        let ((mut client, one), (other, mut far)) = (duplex(64), duplex(64));
        let began = Instant::now();
        let joined = tokio::spawn(join(one, other, Duration::from_secs(100)));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(80)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), b'x');
        }
        joined.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 340);
    }
}
