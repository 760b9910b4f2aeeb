//! One stream: a command or an attached process on one side, WebSocket channels on the other.

use super::Asked;
use super::pump::{self, Output};
use crate::runtime::{Runtime, RuntimeError};
use crate::shims::Shim;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use minik_cri::v1;
use minik_shim::protocol::{Exit, Request};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use tokio::sync::{mpsc, oneshot};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// In version 5: the channel whose number follows has ended.
const CLOSE: u8 = 255;

/// A terminal's new size, as clients say it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// How it ended, as clients expect it: a Kubernetes `Status`.
#[derive(Debug, Serialize)]
struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

impl Status {
    fn success() -> Status {
        let metadata = Empty {};
        Status {
            metadata,
            status: "Success",
            message: String::new(),
            reason: None,
            details: None,
            code: None,
        }
    }

    fn exited(code: i32) -> Status {
        if code == 0 {
            return Status::success();
        }
        let cause = Cause { reason: Some("ExitCode"), message: code.to_string() };
        Status {
            status: "Failure",
            message: format!("command terminated with non-zero exit code: exit status {code}"),
            reason: Some("NonZeroExitCode"),
            details: Some(Details { causes: vec![cause] }),
            ..Status::success()
        }
    }

    fn failed(what: &str, error: &RuntimeError) -> Status {
        let words = format!("error {what} container: {}", minik_component::chain(error));
        Status {
            status: "Failure",
            message: format!("Internal error occurred: {words}"),
            reason: Some("InternalError"),
            details: Some(Details { causes: vec![Cause { reason: None, message: words }] }),
            code: Some(500),
            ..Status::success()
        }
    }
}

/// The process's side of a stream.
struct Ends {
    stdin: Option<mpsc::Sender<Bytes>>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Terminal,
    /// How the process ended; none for what was attached to.
    exit: Option<oneshot::Receiver<Exit>>,
}

/// Who sets the size of the terminal.
enum Terminal {
    None,
    Own(OwnedFd),
    Shim(Shim, String),
}

/// Serves a stream to its end.
pub async fn run(runtime: Runtime, asked: Asked, mut socket: WebSocket) {
    let (what, ends) = match &asked {
        Asked::Exec(request) => ("executing command in", exec(&runtime, request).await),
        Asked::Attach(request) => ("attaching to", attach(&runtime, request).await),
        // Ports have a way of their own.
        Asked::PortForward(_) => return,
    };
    let status = match ends {
        Ok(ends) => match copy(&mut socket, ends).await {
            Some(status) => status,
            // The client has gone: there is nobody to tell.
            None => return,
        },
        Err(error) => Status::failed(what, &error),
    };
    let text = serde_json::to_vec(&status).unwrap_or_default();
    if send(&mut socket, ERROR, &text).await {
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        // It may have gone by now.
        let _ = socket.send(Message::Close(Some(frame))).await;
    }
}

fn failed(source: io::Error) -> RuntimeError {
    RuntimeError::File { attempt: "make pipes", source }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))
}

fn null() -> Result<OwnedFd, RuntimeError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))
}

/// A pipe that a process writes into, when its output is wanted.
fn output(wanted: bool) -> Result<(Option<Output>, OwnedFd), RuntimeError> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (reader, writer) = pipe()?;
    Ok((Some(Output::new(reader).map_err(failed)?), writer))
}

async fn exec(runtime: &Runtime, request: &v1::ExecRequest) -> Result<Ends, RuntimeError> {
    if request.tty {
        let running = runtime.start_exec(&request.container_id, request.cmd.clone(), None).await?;
        let Some(master) = running.terminal else {
            return Err(RuntimeError::State("the shim gives no terminal".to_owned()));
        };
        let copy = || master.try_clone().map_err(failed);
        let stdin =
            request.stdin.then(|| pump::stdin(copy()?, &runtime.tasks).map_err(failed)).transpose()?;
        return Ok(Ends {
            stdin,
            stdout: Some(Output::new(copy()?).map_err(failed)?),
            stderr: None,
            terminal: Terminal::Own(master),
            exit: Some(running.exit),
        });
    }
    let (input, stdin) = match request.stdin {
        true => {
            let (reader, writer) = pipe()?;
            (reader, Some(pump::stdin(writer, &runtime.tasks).map_err(failed)?))
        }
        false => (null()?, None),
    };
    let (stdout, out) = output(request.stdout)?;
    let (stderr, err) = output(request.stderr)?;
    let running =
        runtime.start_exec(&request.container_id, request.cmd.clone(), Some([input, out, err])).await?;
    Ok(Ends { stdin, stdout, stderr, terminal: Terminal::None, exit: Some(running.exit) })
}

async fn attach(runtime: &Runtime, request: &v1::AttachRequest) -> Result<Ends, RuntimeError> {
    let (stdout, out) = output(request.stdout)?;
    let (stderr, err) = output(request.stderr && !request.tty)?;
    let (shim, container, stdin) = runtime.attach(&request.container_id, vec![out, err]).await?;
    let stdin = stdin.filter(|_| request.stdin);
    let stdin = stdin.map(|fd| pump::stdin(fd, &runtime.tasks).map_err(failed)).transpose()?;
    let terminal = if request.tty { Terminal::Shim(shim, container) } else { Terminal::None };
    Ok(Ends { stdin, stdout, stderr, terminal, exit: None })
}

async fn send(socket: &mut WebSocket, channel: u8, bytes: &[u8]) -> bool {
    let message = [&[channel], bytes].concat();
    socket.send(Message::Binary(message.into())).await.is_ok()
}

async fn read(pipe: &Option<Output>) -> Vec<u8> {
    match pipe {
        Some(pipe) => pipe.read().await,
        None => std::future::pending().await,
    }
}

/// Copies until the process has ended and its output is through, or the client goes.
async fn copy(socket: &mut WebSocket, mut ends: Ends) -> Option<Status> {
    // Tells the client that the stream stands.
    let first = if ends.stdout.is_some() { STDOUT } else { STDERR };
    if !send(socket, first, &[]).await {
        return None;
    }
    // A piece of stdin that found no room yet: until it has, nothing more is taken from the client.
    let mut held: Option<Bytes> = None;
    while ends.stdout.is_some() || ends.stderr.is_some() {
        // Cancel-safe: reads and receptions that were not taken are kept, and so is the held piece.
        tokio::select! {
            bytes = read(&ends.stdout) => {
                if bytes.is_empty() { ends.stdout = None } else if !send(socket, STDOUT, &bytes).await { return None }
            }
            bytes = read(&ends.stderr) => {
                if bytes.is_empty() { ends.stderr = None } else if !send(socket, STDERR, &bytes).await { return None }
            }
            room = reserve(ends.stdin.clone()), if held.is_some() => match (room, held.take()) {
                (Some(room), Some(bytes)) => drop(room.send(bytes)),
                _ => ends.stdin = None,
            },
            message = socket.recv(), if held.is_none() => match message {
                Some(Ok(Message::Binary(bytes))) => held = take(&mut ends, &bytes).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            },
        }
    }
    let Some(exit) = ends.exit else { return Some(Status::success()) };
    match exit.await {
        Ok(exit) => Some(Status::exited(exit.code)),
        Err(_) => Some(Status::failed("executing command in", &crate::shims::ShimError::Gone.into())),
    }
}

async fn reserve(stdin: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    stdin?.reserve_owned().await.ok()
}

/// What of a client's messages goes to the stdin of a program with this terminal, for the fuzz targets.
#[doc(hidden)]
pub async fn to_stdin(messages: Vec<Bytes>, terminal: OwnedFd) -> Vec<u8> {
    let (stdin, _kept) = mpsc::channel(1);
    let terminal = Terminal::Own(terminal);
    let mut ends = Ends { stdin: Some(stdin), stdout: None, stderr: None, terminal, exit: None };
    let mut all = Vec::new();
    for message in messages {
        all.extend(take(&mut ends, &message).await.unwrap_or_default());
    }
    all
}

/// Takes a message of the client. Gives what is to go to stdin.
async fn take(ends: &mut Ends, message: &Bytes) -> Option<Bytes> {
    let (channel, bytes) = message.split_first()?;
    match *channel {
        STDIN if ends.stdin.is_some() && !bytes.is_empty() => return Some(message.slice(1..)),
        CLOSE if bytes == [STDIN] => ends.stdin = None,
        RESIZE => {
            if let Ok(size) = serde_json::from_slice::<Size>(bytes) {
                ends.terminal.resize(size).await;
            }
        }
        // Anything else is of no channel that a client writes to.
        _ => {}
    }
    None
}

impl Terminal {
    async fn resize(&self, size: Size) {
        match self {
            Terminal::None => {}
            Terminal::Own(master) => {
                let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
                // Its programs may have gone.
                let _ = rustix::termios::tcsetwinsize(master, size);
            }
            Terminal::Shim(shim, container) => {
                let request =
                    Request::Resize { container: container.clone(), columns: size.width, rows: size.height };
                let _ = shim.call(request).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_clients_expect_them() {
        let text = |status: &Status| serde_json::to_string(status).unwrap();
        assert_eq!(text(&Status::exited(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            text(&Status::exited(3)),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
    }
}
