//! Requests at a steady rate, a new connection each, none of them tried again.

use anyhow::Result;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests a second, and threads that share them: a slow answer delays only its own thread's next request.
const RATE: u32 = 200;
const THREADS: u32 = 40;
/// An answer that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(5);

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many were sent.
    pub sent: usize,
    /// Why some failed.
    pub failed: Vec<String>,
    /// How often each version answered.
    pub versions: BTreeMap<String, usize>,
}

/// Running requests.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to ask `GET /who`.
    pub fn start(address: SocketAddr) -> Load {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let pace = Duration::from_secs(1) * THREADS / RATE;
        let began = Instant::now();
        let threads = (0..THREADS).map(|thread| {
            let (stop, tally) = (stop.clone(), tally.clone());
            let first = began + pace * thread / THREADS;
            std::thread::spawn(move || {
                for round in 0.. {
                    // The pace of the load itself: nothing is waited for.
                    std::thread::park_timeout(
                        (first + pace * round).saturating_duration_since(Instant::now()),
                    );
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let asked = Instant::now();
                    let answer = ask(address);
                    let mut tally = tally.lock().expect("no other thread panicked");
                    tally.sent += 1;
                    match answer {
                        Ok(version) => *tally.versions.entry(version).or_default() += 1,
                        Err(error) => tally.failed.push(format!(
                            "{:?} after {:?}: {error:#}",
                            began.elapsed(),
                            asked.elapsed()
                        )),
                    }
                }
            })
        });
        let threads = threads.collect();
        Load { stop, tally, threads }
    }

    /// Ends, once every request is answered or has failed.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.thread().unpark();
            thread.join().expect("the load thread ended well");
        }
        std::mem::take(&mut *self.tally.lock().expect("no thread panicked"))
    }
}

/// One request; gives the version that answers.
pub fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"GET /who HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head:?}");
    // Host, version and client.
    Ok(body.split_whitespace().nth(1).unwrap_or_default().to_owned())
}
