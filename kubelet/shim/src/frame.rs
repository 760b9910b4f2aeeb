//! Messages with file descriptors over a stream socket, without blocking where it must not.

use crate::protocol::{HEADER_BYTES, MOST_BYTES, MOST_FDS};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why messages stopped. Final for the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side has gone.
    #[error("the other side has gone")]
    Closed,
    /// The kernel refused.
    #[error("cannot use the socket")]
    Socket(#[source] Errno),
    /// Too long, or not what was expected.
    #[error("malformed message")]
    Malformed(#[source] Option<serde_json::Error>),
}

/// The bytes of a message.
///
/// # Errors
/// When it cannot be written as JSON or is too long.
pub fn encode(message: &impl Serialize, fds: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(|error| FrameError::Malformed(Some(error)))?;
    let length = bytes.len() - HEADER_BYTES;
    if length > MOST_BYTES || fds > MOST_FDS {
        return Err(FrameError::Malformed(None));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4..HEADER_BYTES].copy_from_slice(&(fds as u32).to_le_bytes());
    Ok(bytes)
}

/// Sends some of `bytes`; descriptors go with the first of them. Gives how many bytes went.
///
/// # Errors
/// What the kernel says; `WouldBlock` when nothing can be sent now.
pub fn send_some(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Sends a message on a socket that blocks.
///
/// # Errors
/// When the other side has gone.
pub fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    let bytes = encode(message, fds.len())?;
    let mut sent = 0;
    while sent < bytes.len() {
        match send_some(&socket, &bytes[sent..], if sent == 0 { fds } else { &[] }) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(FrameError::Closed),
            Err(error) => return Err(FrameError::Socket(error)),
        }
    }
    Ok(())
}

/// What has come in on a socket and is not taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Receives once.
    ///
    /// # Errors
    /// When the other side has gone, or the kernel refuses (`WouldBlock` among others).
    pub fn fill(&mut self, socket: impl AsFd) -> Result<(), FrameError> {
        let mut buffer = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
        let count = match received {
            Ok(received) => received.bytes,
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(FrameError::Socket(error)),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if count == 0 {
            return Err(FrameError::Closed);
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        let (length, count) = (number(0), number(4));
        if length > MOST_BYTES || count > MOST_FDS {
            return Err(FrameError::Malformed(None));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(|error| FrameError::Malformed(Some(error)))?;
        if self.fds.len() < count {
            return Err(FrameError::Malformed(None));
        }
        let fds = self.fds.drain(..count).collect();
        self.bytes.drain(..HEADER_BYTES + length);
        Ok(Some((message, fds)))
    }
}

/// Receives a message on a socket that blocks.
///
/// # Errors
/// When the other side has gone or sends something else.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    inbox: &mut Inbox,
) -> Result<(T, Vec<OwnedFd>), FrameError> {
    loop {
        if let Some(message) = inbox.take()? {
            return Ok(message);
        }
        inbox.fill(&socket)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Call, Request};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (one, two) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&one, &Call { id: 1, request: Request::State }, &[]).unwrap();
        let exec = Request::Exec(crate::protocol::ExecSpec { exec: "e".into(), ..Default::default() });
        send(&one, &Call { id: 2, request: exec }, &[writer.as_fd()]).unwrap();
        let mut inbox = Inbox::default();
        let (call, fds) = receive::<Call>(&two, &mut inbox).unwrap();
        assert!(call.id == 1 && fds.is_empty());
        let (call, fds) = receive::<Call>(&two, &mut inbox).unwrap();
        assert_eq!((call.id, fds.len()), (2, 1));
        rustix::io::write(&fds[0], b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0u8; 2]).unwrap(), 1);
        drop(one);
        assert!(matches!(receive::<Call>(&two, &mut inbox), Err(FrameError::Closed)));
    }

    #[test]
    fn a_malformed_message_is_refused() {
        let mut inbox = Inbox { bytes: vec![0xff; 16], fds: VecDeque::new() };
        assert!(matches!(inbox.take::<Call>(), Err(FrameError::Malformed(None))));
        let mut inbox = Inbox { bytes: vec![2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'], fds: VecDeque::new() };
        assert!(matches!(inbox.take::<Call>(), Err(FrameError::Malformed(Some(_)))));
    }
}
