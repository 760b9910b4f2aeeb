//! Descriptors of processes that do not block, for tokio.

use bytes::Bytes;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

/// Pieces of stdin that may wait for a program that does not read; then the client waits too.
const STDIN_WAITING: usize = 1;

/// Output of a process: a pipe or a terminal.
pub struct Output(Receiver);

impl Output {
    /// Takes a descriptor and makes it non-blocking.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(fd: OwnedFd) -> io::Result<Output> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // A terminal is as good as a pipe for what is done with it here.
        Ok(Output(Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Reads some; nothing at the end. Cancel-safe.
    pub async fn read(&self) -> Vec<u8> {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            if self.0.readable().await.is_err() {
                return Vec::new();
            }
            match self.0.try_read(&mut buffer) {
                Ok(count) => {
                    buffer.truncate(count);
                    return buffer;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A terminal whose last program has gone gives an error in the place of an end.
                Err(_) => return Vec::new(),
            }
        }
    }
}

/// A program's stdin: what is put into the channel is written, and its end closes it.
///
/// # Errors
/// When the kernel refuses.
pub fn stdin(fd: OwnedFd, tasks: &tokio_util::task::TaskTracker) -> io::Result<mpsc::Sender<Bytes>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    let mut pipe = Sender::from_owned_fd_unchecked(fd)?;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(STDIN_WAITING);
    tasks.spawn(async move {
        while let Some(bytes) = receiver.recv().await {
            if pipe.write_all(&bytes).await.is_err() {
                // Nobody reads any more.
                return;
            }
        }
    });
    Ok(sender)
}
