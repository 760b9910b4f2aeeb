//! Just enough HTTP/1.1: one request a connection, a thread each. And an echo over UDP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Options, image, reach};

/// Headers longer than this are no request.
const HEAD_LIMIT_BYTES: u64 = 16 * 1024;
/// A client that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(10);

static TERMINATING: AtomicBool = AtomicBool::new(false);
static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// Connections that are not answered yet.
static OPEN: AtomicU64 = AtomicU64::new(0);

struct Answer {
    status: &'static str,
    body: String,
    /// End the program with this code, once the answer is out.
    exit: Option<u8>,
}

impl Answer {
    fn ok(body: impl Into<String>) -> Answer {
        Answer { status: "200 OK", body: body.into(), exit: None }
    }

    /// What was reached, or why it was not.
    fn reached(result: io::Result<String>) -> Answer {
        result.map_or_else(|error| Answer::no("502 Bad Gateway", format!("{error}\n")), Answer::ok)
    }

    fn no(status: &'static str, body: impl Into<String>) -> Answer {
        Answer { status, body: body.into(), exit: None }
    }
}

pub(super) fn serve(options: Arc<Options>) -> io::Result<u8> {
    let (ends, end) = std::sync::mpsc::sync_channel::<u8>(1);
    signal::on_terminate(&TERMINATING, {
        let (options, ends) = (options.clone(), ends.clone());
        move || {
            println!("terminating in {:?}", options.drain);
            std::thread::sleep(options.drain);
            ends.try_send(options.exit_code).ok(); // the first end counts
        }
    })?;
    if let Some(after) = options.exit_after {
        let (options, ends) = (options.clone(), ends.clone());
        std::thread::spawn(move || {
            std::thread::sleep(after);
            ends.try_send(options.exit_code).ok(); // the first end counts
        });
    }
    if let Ok(code) = end.recv_timeout(options.listen_delay) {
        return Ok(code);
    }
    let started = Instant::now();
    let (listener, datagrams) = listen(options.port)?;
    println!("{} serves on port {}", host_name(), options.port);
    std::thread::spawn(move || echo(&datagrams));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (options, ends) = (options.clone(), ends.clone());
            OPEN.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let answered = answer(stream, &options, started);
                OPEN.fetch_sub(1, Ordering::Relaxed);
                if let Ok(Some(code)) = answered {
                    ends.try_send(code).ok(); // the first end counts
                }
            });
        }
    });
    // Every sender lives in a thread that ends with the program.
    let code = end.recv().unwrap_or(0);
    let asked = Instant::now();
    while OPEN.load(Ordering::Relaxed) > 0 && asked.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5)); // bounded: by the line above
    }
    Ok(code)
}

/// Listens over TCP and UDP, for both families where there are both.
fn listen(port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let on = |address: &str| Ok((TcpListener::bind((address, port))?, UdpSocket::bind((address, port))?));
    on("::").or_else(|_: io::Error| on("0.0.0.0"))
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // An answer that was refused shows as an error of the next receive.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = who(client.ip()).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        socket.send_to(&answer, client).ok(); // the client may have gone
    }
}

/// Who answers whom: host, version and client.
fn who(client: IpAddr) -> String {
    let version = std::env::var(image::VERSION).unwrap_or_else(|_| "none".into());
    format!("{} {version} {}\n", host_name(), client.to_canonical())
}

fn answer(stream: TcpStream, options: &Options, started: Instant) -> io::Result<Option<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new((&stream).take(HEAD_LIMIT_BYTES));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        headers.push_str(&header);
    }
    let target = line.split_whitespace().nth(1).unwrap_or("/");
    let peer = stream.peer_addr()?.ip();
    let answer = match target {
        "/who" => Answer::ok(who(peer)),
        _ => route(target, &headers, options, started),
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    (&stream).write_all(format!("{head}{}", answer.body).as_bytes())?;
    if !["/healthz", "/readyz", "/who"].iter().any(|quiet| target.starts_with(quiet)) {
        println!("{} {} {}", peer.to_canonical(), line.trim_end(), answer.status);
    }
    Ok(answer.exit)
}

fn route(target: &str, headers: &str, options: &Options, started: Instant) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let warm = started.elapsed() >= options.delay;
    match path {
        "/" => {
            let number = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
            Answer::ok(format!("{}\nrequest {number}\n{}", host_name(), identity()))
        }
        "/healthz" | "/livez" if warm => Answer::ok("ok\n"),
        "/readyz" if warm && !TERMINATING.load(Ordering::Relaxed) => Answer::ok("ok\n"),
        "/healthz" | "/livez" | "/readyz" => Answer::no("503 Service Unavailable", "not yet, or no more\n"),
        "/env" => {
            let mut lines: Vec<String> =
                std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
            lines.sort();
            Answer::ok(lines.concat())
        }
        "/headers" => Answer::ok(headers.to_owned()),
        "/file" => match std::fs::read(parameter("path").unwrap_or("/etc/hostname")) {
            Ok(bytes) => Answer::ok(String::from_utf8_lossy(&bytes)),
            Err(e) => Answer::no("404 Not Found", format!("{e}\n")),
        },
        "/exit" => match parameter("code").unwrap_or("0").parse() {
            Ok(code) => Answer { exit: Some(code), ..Answer::ok(format!("exit {code}\n")) },
            Err(_) => Answer::no("400 Bad Request", "code must be 0 to 255\n"),
        },
        "/drain" => {
            TERMINATING.store(true, Ordering::Relaxed);
            let seconds = parameter("seconds").and_then(|text| text.parse().ok()).unwrap_or(0.0);
            std::thread::sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default());
            Answer::ok("drained\n")
        }
        "/lookup" => Answer::reached(reach::lookup(parameter("name").unwrap_or_default())),
        "/connect" => {
            let path = parameter("path").unwrap_or("/who");
            Answer::reached(reach::connect(parameter("to").unwrap_or_default(), path))
        }
        "/udp" => {
            let (to, hex) = (parameter("to").unwrap_or_default(), parameter("hex").unwrap_or_default());
            Answer::reached(reach::udp(to, hex))
        }
        _ => Answer::no(
            "404 Not Found",
            "try /, /who, /healthz, /readyz, /env, /headers, /file?path=, /exit?code=, /drain?seconds=, /lookup?name=, \
             /connect?to=, /udp?to=&hex=\n",
        ),
    }
}

pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_else(|_| "unknown".into())
}

/// What the downward API may have told about the Pod.
fn identity() -> String {
    ["POD_NAME", "POD_NAMESPACE", "POD_IP", "NODE_NAME"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}\n", std::env::var(name).ok()?)))
        .collect()
}

mod signal {
    //! SIGTERM, without a handler: it is blocked in every thread and waited for in one.

    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) fn on_terminate(
        flag: &'static AtomicBool,
        then: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // SAFETY: the set is a plain value that both calls only read or fill; the mask is set before other threads start.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            set
        };
        std::thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers are to live values of this thread.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                flag.store(true, Ordering::Relaxed);
                then();
            }
        });
        Ok(())
    }
}
