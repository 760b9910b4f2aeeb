//! Reading a container's log for somebody: the last lines, from a time on, followed as it grows.
//!
//! ```text
//!  file ── from the n-th last line ──> lines ── since, stream, timestamps, limit ──> bytes ──> channel ──> answer
//!            └── at its end: wait for the kernel to tell of more, until the container has ended
//! ```

use super::Line;
use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io::SeekFrom;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// A block that is read at once.
const BLOCK: usize = 64 * 1024;
/// A line that is longer is taken in pieces: runtimes write none longer than 16 KiB and a few words in front.
const MOST_LINE: usize = 4 * BLOCK;
/// A container whose end nobody told is noticed by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a log that was moved away is looked for at its place.
const REOPENS: usize = 10;

/// What is wanted of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Go on as it grows.
    pub follow: bool,
    /// The last so many lines only.
    pub tail: Option<usize>,
    /// What was written from then on only.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// So many bytes at most.
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr` only.
    pub stream: Option<&'static str>,
}

/// Says whether a container still runs.
pub trait Alive: Send + Sync {
    /// Whether it may write more.
    fn is_alive(&self) -> impl Future<Output = bool> + Send;
}

/// Sends a log's text, until it ends, the limit is reached or nobody takes it.
///
/// # Errors
/// When the file cannot be read.
pub async fn send(
    path: &Path,
    wanted: &Wanted,
    alive: &impl Alive,
    to: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut source = Source::open(path, wanted.tail).await?;
    let mut writer = Writer { wanted, left: wanted.limit_bytes, starts_line: true };
    loop {
        while let Some(line) = source.next_line().await? {
            let Some(text) = writer.take(&line) else { continue };
            if !text.is_empty() && to.send(text).await.is_err() {
                return Ok(());
            }
            if writer.left == Some(0) {
                return Ok(());
            }
        }
        if !wanted.follow || to.is_closed() {
            break;
        }
        // Asked before looking again, so that what was written before the end is read.
        let is_alive = alive.is_alive().await;
        if source.has_more().await? || source.reopen().await? {
            continue;
        }
        if !is_alive {
            break;
        }
        source.wait(to).await;
    }
    if let Some(rest) = source.rest()
        && let Some(text) = writer.take(&rest)
    {
        // Nobody may listen any more.
        let _ = to.send(text).await;
    }
    Ok(())
}

/// A log file and what tells of its growth.
struct Source {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    start: usize,
    changes: Option<AsyncFd<OwnedFd>>,
}

impl Source {
    async fn open(path: &Path, tail: Option<usize>) -> std::io::Result<Source> {
        let mut file = File::open(path).await?;
        if let Some(lines) = tail {
            let from = tail_offset(&mut file, lines).await?;
            file.seek(SeekFrom::Start(from)).await?;
        }
        let changes = watch(path).ok();
        Ok(Source { path: path.to_owned(), file, buffer: Vec::new(), start: 0, changes })
    }

    /// The next whole line.
    async fn next_line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            let unread = &self.buffer[self.start..];
            let end = unread.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            if let Some(end) = end.or((unread.len() >= MOST_LINE).then_some(unread.len())) {
                let line = unread[..end].to_vec();
                self.start += end;
                return Ok(Some(line));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> std::io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK, 0);
        let read = self.file.read(&mut self.buffer[before..]).await?;
        self.buffer.truncate(before + read);
        Ok(read > 0)
    }

    async fn has_more(&mut self) -> std::io::Result<bool> {
        self.fill().await
    }

    /// Opens the file anew if another one is at its place: the log was moved away.
    async fn reopen(&mut self) -> std::io::Result<bool> {
        for _ in 0..REOPENS {
            match tokio::fs::metadata(&self.path).await {
                Ok(there) if there.ino() == self.file.metadata().await?.ino() => return Ok(false),
                Ok(_) => {
                    self.file = File::open(&self.path).await?;
                    self.changes = watch(&self.path).ok();
                    return Ok(true);
                }
                // In between the move and the new file.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Waits until the file has changed, nobody listens, or it is time to ask after the container.
    async fn wait(&self, to: &mpsc::Sender<Bytes>) {
        let changed = async {
            match &self.changes {
                Some(changes) => {
                    if let Ok(mut ready) = changes.readable().await {
                        let mut buffer = [MaybeUninit::uninit(); 1024];
                        // What happened does not matter, only that something did.
                        let _ = inotify::Reader::new(changes.get_ref(), &mut buffer).next();
                        ready.clear_ready();
                    }
                }
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: all three only wait.
        tokio::select! {
            () = changed => {}
            () = to.closed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    /// A last line without an end.
    fn rest(&self) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.start..];
        (!rest.is_empty()).then(|| rest.to_vec())
    }
}

fn watch(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&changes, path, WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB)?;
    // SAFETY: an `OwnedFd` stands for the same open file until it is dropped, which the `AsyncFd` alone does.
    unsafe { AsyncFd::register(changes) }.map_err(std::io::Error::from)
}

/// Where the last lines begin.
async fn tail_offset(file: &mut File, lines: usize) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    let (mut end, mut found) = (length, 0);
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let block = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(block).await?;
        for (at, byte) in block.iter().enumerate().rev() {
            // The end of the last line is not the beginning of another.
            if *byte == b'\n' && start + at as u64 + 1 != length {
                found += 1;
                if found == lines {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(if lines == 0 { length } else { 0 })
}

/// Turns lines into text.
struct Writer<'a> {
    wanted: &'a Wanted,
    left: Option<u64>,
    /// Whether the next text begins a line: a time is written in front of whole lines only.
    starts_line: bool,
}

impl Writer<'_> {
    fn take(&mut self, raw: &[u8]) -> Option<Bytes> {
        let line = Line::parse(raw)?;
        if self.wanted.stream.is_some_and(|stream| stream != line.stream) {
            return None;
        }
        if let Some(since) = self.wanted.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return None;
        }
        let mut text = Vec::with_capacity(raw.len());
        if self.wanted.timestamps && self.starts_line {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&line.text());
        self.starts_line = !line.is_partial;
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Flag(Arc<AtomicBool>);

    impl Alive for Flag {
        async fn is_alive(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn log(lines: std::ops::Range<u32>) -> String {
        lines.map(|n| format!("2026-01-02T03:04:{n:02}.000000000Z stdout F line {n}\n")).collect()
    }

    async fn read(wanted: Wanted) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log(0..5)).unwrap();
        let (to, mut from) = mpsc::channel(100);
        send(file.path(), &wanted, &Flag(Arc::default()), &to).await.unwrap();
        drop(to);
        let mut text = Vec::new();
        while let Some(bytes) = from.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn logs_are_cut_as_wanted() {
        assert_eq!(read(Wanted { tail: Some(2), ..Wanted::default() }).await, "line 3\nline 4\n");
        assert_eq!(read(Wanted { tail: Some(0), ..Wanted::default() }).await, "");
        assert_eq!(
            read(Wanted { tail: Some(99), limit_bytes: Some(8), ..Wanted::default() }).await,
            "line 0\nl"
        );
        let since = Some("2026-01-02T03:04:04Z".parse().unwrap());
        let want = "2026-01-02T03:04:04.000000000Z line 4\n";
        assert_eq!(read(Wanted { since, timestamps: true, ..Wanted::default() }).await, want);
        assert_eq!(read(Wanted { stream: Some("stderr"), ..Wanted::default() }).await, "");
    }

    #[tokio::test]
    async fn a_log_is_followed_over_its_rotation_to_the_containers_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(0..1)).unwrap();
        let alive = Arc::new(AtomicBool::new(true));
        let (to, mut from) = mpsc::channel(100);
        let task = tokio::spawn({
            let (path, alive) = (path.clone(), Flag(alive.clone()));
            async move { send(&path, &Wanted { follow: true, ..Wanted::default() }, &alive, &to).await }
        });
        let mut next = async || {
            let got =
                tokio::time::timeout(Duration::from_secs(20), from.recv()).await.expect("a line in time");
            got.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(next().await.as_deref(), Some("line 0\n"));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(log(1..2).as_bytes()).unwrap();
        assert_eq!(next().await.as_deref(), Some("line 1\n"));
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, log(2..3)).unwrap();
        assert_eq!(next().await.as_deref(), Some("line 2\n"));
        alive.store(false, Ordering::SeqCst);
        assert_eq!(next().await, None);
        task.await.unwrap().unwrap();
    }
}
