//! `minikctl exec` and `attach`: run a command in a container, or join the one that runs, over a WebSocket.
//!
//! ```text
//!  stdin ──> channel 0 ─┐                    ┌─> channel 1 ──> stdout
//!                       ├── v5.channel.k8s.io ──> channel 2 ──> stderr
//!  window size ──> 4 ───┘                    └─> channel 3: how it ended
//! ```

use crate::session::{CallError, Session, refusal};
use crate::terminal::Terminal;
use crate::{Failure, Globals, logs, query};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use minik_client::{Kubeconfig, ServerAccess, dial, segment};
use serde_json::Value;
use std::io::Read;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Read from standard input at a time.
const PIECE: usize = 16 << 10;
/// Pieces that wait to be sent: more only fill memory while the command is slower.
const WAITING: usize = 4;

/// Arguments of `minikctl exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Pod's name, or pod/NAME
    pod: String,
    /// The container, when the Pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Hand on standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Arguments of `minikctl attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// The Pod's name, or pod/NAME
    pod: String,
    /// The container, when the Pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Hand on standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container has a terminal
    #[arg(short, long)]
    tty: bool,
}

/// Joins what runs in a container.
///
/// # Errors
/// When the server does not answer, or there is no such container.
pub async fn attach(globals: &Globals, args: AttachArgs) -> Result<(), Failure> {
    let AttachArgs { pod, container, stdin, tty } = args;
    run(globals, Args { pod, container, stdin, tty, command: Vec::new() }).await
}

/// Runs the command, or joins what runs if there is none; ends this program as the command ended.
///
/// # Errors
/// When the server does not answer, there is no such container, or the command cannot be started.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    let (access, _) = Kubeconfig::load(&globals.kubeconfig_path())?.access(globals.context.as_deref())?;
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let code = execute(&session, &access, &args, &mut Terminal::new(&mut out, &mut err)).await?;
    match code {
        0 => Ok(()),
        code => std::process::exit(code),
    }
}

async fn execute(
    session: &Session,
    access: &ServerAccess,
    args: &Args,
    terminal: &mut Terminal<'_>,
) -> Result<i32, Failure> {
    let pod = logs::pod(session, &args.pod).await?;
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let container = logs::choose(&pod, args.container.as_deref(), terminal)?.unwrap_or_default();
    let flag = |on: bool| if on { "true" } else { "" };
    let mut parameters = vec![
        ("container", container.as_str()),
        ("stdin", flag(args.stdin)),
        ("stdout", "true"),
        ("stderr", flag(!args.tty)),
        ("tty", flag(args.tty)),
    ];
    parameters.extend(args.command.iter().map(|word| ("command", word.as_str())));
    let what = if args.command.is_empty() { "attach" } else { "exec" };
    let path = format!("/api/v1/namespaces/{}/pods/{}/{what}", segment(&session.namespace), segment(name));
    let socket = open(access, &query::with(&path, &parameters)).await?;
    let raw = if args.tty && args.stdin { Raw::begin() } else { None };
    let ended = converse(socket, args, terminal).await;
    drop(raw);
    match ended? {
        Ended::Code(0) => Ok(0),
        Ended::Code(code) => {
            terminal.remark(&format!("command terminated with exit code {code}"));
            Ok(code)
        }
        Ended::Failed(words) => Err(Failure::new(words)),
    }
}

async fn open(
    access: &ServerAccess,
    path: &str,
) -> Result<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>>, Failure> {
    let (stream, bearer) = dial(access).await?;
    let address = access.server.replacen("https://", "wss://", 1);
    let mut request = format!("{}{path}", address.trim_end_matches('/')).into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", http::HeaderValue::from_static(PROTOCOL));
    if let Some(bearer) = bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            Err(refusal(response.status().as_u16(), &body).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Code(i32),
    /// It did not run, in the server's words.
    Failed(String),
}

/// Reads the Status of channel 3.
fn ended(status: &[u8]) -> Result<Ended, CallError> {
    let status: Value = crate::session::parse(status)?;
    if status["status"] == "Success" {
        return Ok(Ended::Code(0));
    }
    let causes = status.pointer("/details/causes").and_then(Value::as_array).cloned().unwrap_or_default();
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
    let words = status["message"].as_str().unwrap_or("the command failed");
    Ok(match code.filter(|_| status["reason"] == "NonZeroExitCode") {
        Some(code) => Ended::Code(code),
        None => Ended::Failed(words.to_owned()),
    })
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    args: &Args,
    terminal: &mut Terminal<'_>,
) -> Result<Ended, Failure> {
    let (mut to, mut from): (SplitSink<_, _>, SplitStream<_>) = socket.split();
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = args.stdin.then(stdin);
    if args.tty {
        to.send(Message::binary(window())).await?;
    }
    loop {
        // Cancel-safe: a message or bytes that were not taken stay where they are.
        tokio::select! {
            message = from.next() => match message {
                Some(Ok(Message::Binary(data))) => match data.split_first() {
                    Some((&STDOUT, bytes)) => terminal.bytes(bytes)?,
                    Some((&STDERR, bytes)) => terminal.error_bytes(bytes),
                    Some((&ENDED, status)) => return Ok(ended(status)?),
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => {
                    return Ok(Ended::Failed("the connection ended before the command did".into()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
            piece = async { stdin.as_mut()?.recv().await }, if stdin.is_some() => {
                let message = match &piece {
                    Some(bytes) => [&[STDIN], bytes.as_slice()].concat(),
                    None => vec![CLOSE, STDIN],
                };
                if piece.is_none() {
                    stdin = None;
                }
                to.send(Message::binary(message)).await?;
            }
            Some(()) = resized.recv(), if args.tty => to.send(Message::binary(window())).await?,
        }
    }
}

/// Standard input in pieces, until its end. The thread waits in a read that nothing can interrupt; it is left behind
/// when the command has ended.
fn stdin() -> mpsc::Receiver<Vec<u8>> {
    let (pieces, coming) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let (mut input, mut piece) = (std::io::stdin(), vec![0; PIECE]);
        while let Ok(count @ 1..) = input.read(&mut piece) {
            if pieces.blocking_send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    coming
}

/// The size of this terminal, as channel 4 takes it.
fn window() -> Vec<u8> {
    let size = rustix::termios::tcgetwinsize(std::io::stdin());
    let (width, height) = size.map_or((80, 24), |size| (size.ws_col, size.ws_row));
    [&[RESIZE], format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes()].concat()
}

/// This terminal without echo and line editing, until it is dropped.
struct Raw(rustix::termios::Termios);

impl Raw {
    /// None where standard input is no terminal.
    fn begin() -> Option<Raw> {
        let before = rustix::termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let now = rustix::termios::OptionalActions::Now;
        let _ = rustix::termios::tcsetattr(std::io::stdin(), now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_is_read_from_its_status() {
        let check = |status: Value, wanted: Ended| {
            assert_eq!(ended(status.to_string().as_bytes()).unwrap(), wanted, "{status}");
        };
        check(json!({"status": "Success"}), Ended::Code(0));
        check(
            json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}),
            Ended::Code(3),
        );
        check(
            json!({"status": "Failure", "reason": "InternalError", "message": "no such file"}),
            Ended::Failed("no such file".into()),
        );
        assert!(ended(b"no").is_err());
    }
}
