//! Container logs in CRI's format: `TIME STREAM TAG LINE`, with tag `F` for a whole line and `P` for a part of one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The longest line that is written as one.
const MOST_LINE_BYTES: usize = 16 * 1024;

/// Where a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything on a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes a container's log.
#[derive(Debug, Default)]
pub struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    /// The beginnings of lines whose ends have not come yet.
    pending: [Vec<u8>; 2],
}

impl Log {
    /// Opens (and creates) the file; without a path output is dropped.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: Option<&Path>) -> std::io::Result<Log> {
        let file = path.map(open).transpose()?;
        Ok(Log { path: path.map(Path::to_owned), file, pending: Default::default() })
    }

    /// Opens the file anew: the old one was moved away.
    ///
    /// # Errors
    /// When it cannot be opened; the old one is kept then.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open(path)?);
        }
        Ok(())
    }

    /// Takes what came out of the container.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now_ns: i64) {
        if self.file.is_none() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        let mut out = Vec::with_capacity(bytes.len() + 128);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while pending.len() + piece.len() - usize::from(piece.ends_with(b"\n")) > MOST_LINE_BYTES {
                let (head, tail) = piece.split_at(MOST_LINE_BYTES - pending.len());
                pending.extend_from_slice(head);
                line(&mut out, now_ns, stream, 'P', &pending);
                pending.clear();
                piece = tail;
            }
            pending.extend_from_slice(piece);
            if pending.last() == Some(&b'\n') {
                pending.pop();
                line(&mut out, now_ns, stream, 'F', &pending);
                pending.clear();
            }
        }
        self.pending[stream as usize] = pending;
        self.put(&out);
    }

    /// Writes what never got its end of line.
    pub fn finish(&mut self, now_ns: i64) {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                line(&mut out, now_ns, stream, 'P', &pending);
            }
        }
        self.put(&out);
    }

    fn put(&mut self, bytes: &[u8]) {
        if let (Some(file), false) = (&mut self.file, bytes.is_empty()) {
            // A full disk costs log lines; the container must not stand still for it.
            let _ = file.write_all(bytes);
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn line(out: &mut Vec<u8>, now_ns: i64, stream: Stream, tag: char, text: &[u8]) {
    out.extend_from_slice(timestamp(now_ns).as_bytes());
    out.extend_from_slice(format!(" {} {tag} ", stream.name()).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// A time in RFC 3339 with nanoseconds, in UTC.
pub fn timestamp(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from a day number, with years that start in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(1_709_210_096_123_456_789), "2024-02-29T12:34:56.123456789Z");
        assert_eq!(timestamp(1_798_761_599_000_000_001), "2026-12-31T23:59:59.000000001Z");
    }

    fn written(pieces: &[(Stream, &[u8])]) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::open(Some(file.path())).unwrap();
        for (stream, bytes) in pieces {
            log.write(*stream, bytes, 0);
        }
        log.finish(0);
        let text = std::fs::read_to_string(file.path()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_put_together_per_stream() {
        let lines = written(&[
            (Stream::Stdout, b"one\ntw"),
            (Stream::Stderr, b"err\n\n"),
            (Stream::Stdout, b"o\nopen"),
        ]);
        assert_eq!(lines, ["stdout F one", "stderr F err", "stderr F ", "stdout F two", "stdout P open"]);
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; 2 * MOST_LINE_BYTES + 5];
        let lines = written(&[(Stream::Stdout, &long), (Stream::Stdout, b"\n")]);
        let shape: Vec<_> = lines.iter().map(|line| (line.as_bytes()[7], line.len() - 9)).collect();
        assert_eq!(shape, [(b'P', MOST_LINE_BYTES), (b'P', MOST_LINE_BYTES), (b'F', 5)]);
        let exact = [vec![b'y'; MOST_LINE_BYTES], vec![b'\n']].concat();
        assert_eq!(written(&[(Stream::Stdout, &exact)]).len(), 1);
    }

    #[test]
    fn a_moved_log_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = Log::open(Some(&path)).unwrap();
        log.write(Stream::Stdout, b"a\n", 0);
        std::fs::rename(&path, folder.path().join("0.log.1")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"b\n", 0);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("stdout F b\n"));
    }
}
