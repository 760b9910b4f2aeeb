//! The zygote: one process of a single thread that forks a shim for each Pod, without an exec.
//!
//! The runtime starts it with a socket in the place of stdin and sends it, for each sandbox, the socket that the shim is
//! to listen on. It ends when the runtime does; the shims stay.

use crate::frame::{self, FrameError, Inbox};
use crate::server;
use crate::sys::{self, Fork};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// Asks for a shim. The listening socket comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spawn {
    /// The sandbox's id.
    pub sandbox: String,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spawned {
    /// The shim's pid, or why there is none.
    pub result: Result<i32, String>,
}

/// Serves the socket in the place of stdin until it is closed. In a forked shim it runs that until it ends.
///
/// # Errors
/// When the socket cannot be used.
pub fn run() -> Result<(), FrameError> {
    let socket = sys::take_stdin();
    sys::ignore_children();
    let mut inbox = Inbox::default();
    loop {
        let (spawn, mut fds) = match frame::receive::<Spawn>(&socket, &mut inbox) {
            Ok(received) => received,
            Err(FrameError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(listener) = fds.pop() else { return Err(FrameError::Malformed(None)) };
        let result = match sys::fork(0, None) {
            Ok(Fork::Parent(pid)) => {
                minik_fault::point("zygote.forked");
                Ok(pid)
            }
            Ok(Fork::Child) => {
                drop((socket, fds, inbox));
                become_shim(listener, spawn);
            }
            Err(error) => Err(format!("cannot fork: {error}")),
        };
        drop(listener);
        frame::send(&socket, &Spawned { result }, &[])?;
        minik_fault::point("zygote.told");
    }
}

fn become_shim(listener: OwnedFd, spawn: Spawn) -> ! {
    let code = match server::run(UnixListener::from(listener), spawn.sandbox) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    sys::exit(code)
}
