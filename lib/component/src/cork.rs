//! Puts a connection's small writes together.
//!
//! HTTP/2 flushes after each frame, and over TLS each flush is a record and a call of the kernel: for an event that goes to a
//! thousand watchers that is most of what it costs. So while the connection is being polled its flushes wait, and what was
//! written goes out in one piece when the poll ends.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait: what goes out at once is then a few of TLS's largest records.
const MOST: usize = 64 << 10;
/// Room that an idle connection keeps.
const KEPT: usize = 1 << 10;

/// The connection's stream, whose flushes wait while it is polled by [`Cork::around`].
pub struct Corked<S>(Arc<Mutex<State<S>>>);

/// What lets the written bytes go.
pub struct Cork<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    waiting: Vec<u8>,
    /// So much of `waiting` is written.
    written: usize,
    /// Something was written that the stream was not told to flush.
    unflushed: bool,
    /// The connection is being polled.
    held: bool,
    failed: Option<Error>,
}

/// Puts a cork on a stream.
pub fn cork<S>(stream: S) -> (Corked<S>, Cork<S>) {
    let state =
        State { stream, waiting: Vec::new(), written: 0, unflushed: false, held: false, failed: None };
    let state = Arc::new(Mutex::new(state));
    (Corked(state.clone()), Cork(state))
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    // Each change is complete before anything can panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Polls the connection over the stream; what it wrote goes out when that poll ends. Cancel-safe as the connection is.
    pub fn around<'a, C: Future>(&'a self, connection: Pin<&'a mut C>) -> Around<'a, S, C> {
        Around { cork: self, connection }
    }
}

/// See [`Cork::around`].
pub struct Around<'a, S, C> {
    cork: &'a Cork<S>,
    connection: Pin<&'a mut C>,
}

impl<S: AsyncWrite + Unpin, C: Future> Future for Around<'_, S, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        lock(&self.cork.0).held = true;
        let result = self.connection.as_mut().poll(cx);
        let mut state = lock(&self.cork.0);
        state.held = false;
        if let Poll::Ready(Err(error)) = state.push(cx)
            && result.is_pending()
        {
            // The connection hears of it when it reads or writes the next time: now.
            state.failed = Some(error);
            cx.waker().wake_by_ref();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Writes and flushes all that waits.
    fn push(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.write(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.written = 0;
        self.waiting.clear();
        self.waiting.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.waiting.len() >= MOST {
            ready!(self.write(cx))?;
        }
        let before = self.waiting.len();
        pieces.iter().for_each(|piece| self.waiting.extend_from_slice(piece));
        self.unflushed = true;
        Poll::Ready(Ok(self.waiting.len() - before))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let mut state = lock(&self.0);
        match state.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut state.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        lock(&self.0).take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        lock(&self.0).take(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = lock(&self.0);
        // Whoever took the connection over (a WebSocket) is not polled by the cork, and flushes itself.
        if state.held { Poll::Ready(Ok(())) } else { state.push(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.push(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Counts the writes of what is below.
    struct Counted<S>(S, usize);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn flushed_writes_of_one_poll_go_out_together() {
        let (near, mut far) = duplex(1 << 20);
        let (mut stream, cork) = cork(Counted(near, 0));
        let connection = std::pin::pin!(async {
            for _ in 0..100 {
                stream.write_all(b"frame").await?;
                stream.flush().await?;
            }
            Result::Ok(())
        });
        cork.around(connection).await.unwrap();
        let mut read = [0; 500];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, b"frame".repeat(100)[..]);
        assert_eq!(lock(&cork.0).stream.1, 1);
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_gets_all_of_it_in_order() {
        let (near, mut far) = duplex(1000);
        let (mut stream, cork) = cork(near);
        let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
        let connection = std::pin::pin!(async {
            for piece in sent.chunks(777) {
                stream.write_all(piece).await?;
                stream.flush().await?;
            }
            stream.shutdown().await
        });
        let mut read = Vec::new();
        let (wrote, _) = tokio::join!(cork.around(connection), far.read_to_end(&mut read));
        wrote.unwrap();
        assert!(read == sent);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_while_the_peer_does_not_read() {
        let (near, _far) = duplex(1000);
        let (mut stream, cork) = cork(near);
        let connection = std::pin::pin!(async {
            loop {
                if stream.write_all(&[0; 1000]).await.is_err() {
                    return;
                }
            }
        });
        assert!(once(cork.around(connection)).await.is_none());
        assert!(lock(&cork.0).waiting.len() < MOST + 2000);
    }

    /// The result of one poll.
    async fn once<F: Future>(work: F) -> Option<F::Output> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Its peer is gone, which only a write finds out.
    struct Deaf;

    impl AsyncRead for Deaf {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize>> {
            Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_connection_that_only_reads_hears_that_its_peer_is_gone() {
        let (mut stream, cork) = cork(Deaf);
        let connection = std::pin::pin!(async {
            stream.write_all(b"frame").await?;
            stream.flush().await?;
            stream.read_exact(&mut [0]).await.map(drop)
        });
        let error = cork.around(connection).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn who_took_the_stream_over_flushes_it_himself() {
        let (near, mut far) = duplex(1000);
        let (mut stream, cork) = cork(near);
        drop(cork);
        stream.write_all(b"frame").await.unwrap();
        stream.flush().await.unwrap();
        let mut read = [0; 5];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"frame");
    }
}
