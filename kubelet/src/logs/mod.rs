//! Container logs as CRI writes them: `TIME STREAM P|F TEXT` a line
//! (<https://kubernetes.io/docs/concepts/cluster-administration/logging/>).

mod read;

pub use read::{Alive, Wanted, send};

use std::io::SeekFrom;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// The last bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub async fn end_of_file(path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most as u64))).await?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The text of a log's last lines, no more than these.
///
/// # Errors
/// When it cannot be read.
pub async fn last_words(path: &Path, lines: usize, bytes: usize) -> std::io::Result<Vec<u8>> {
    // Each line has some forty bytes in front of its text.
    let raw = end_of_file(path, bytes + lines * 64 + bytes * 64 / 8).await?;
    let parsed: Vec<Line<'_>> = raw.split_inclusive(|byte| *byte == b'\n').filter_map(Line::parse).collect();
    let last = &parsed[parsed.len().saturating_sub(lines)..];
    let text: Vec<u8> = last.iter().flat_map(Line::text).collect();
    Ok(text[text.len().saturating_sub(bytes)..].to_vec())
}

/// A line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line goes on in the next.
    pub is_partial: bool,
    /// Its text, without its end.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line, its end included or not.
    pub fn parse(raw: &'a [u8]) -> Option<Line<'a>> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?).ok()?;
        let tag = parts.next()?;
        let is_partial = tag.split(|byte| *byte == b':').next() == Some(b"P");
        let content = parts.next().unwrap_or_default();
        matches!(stream, "stdout" | "stderr").then_some(Line { time, stream, is_partial, content })
    }

    /// Its text, with its end if it has one.
    pub fn text(&self) -> Vec<u8> {
        let mut text = self.content.to_vec();
        if !self.is_partial {
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = Line::parse(b"2026-01-02T03:04:05.000000001Z stderr P a b\n").unwrap();
        assert_eq!((line.stream, line.is_partial, line.content), ("stderr", true, &b"a b"[..]));
        assert_eq!(Line::parse(b"2026-01-02T03:04:05Z stdout F \n").unwrap().text(), b"\n");
        assert_eq!(Line::parse(b"garbage"), None);
    }

    #[tokio::test]
    async fn last_words_are_the_end_of_the_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log: String =
            (0..200).map(|n| format!("2026-01-02T03:04:05.000000001Z stdout F line {n}\n")).collect();
        std::fs::write(file.path(), log).unwrap();
        let words = last_words(file.path(), 2, 2048).await.unwrap();
        assert_eq!(String::from_utf8(words).unwrap(), "line 198\nline 199\n");
        let words = last_words(file.path(), 80, 10).await.unwrap();
        assert_eq!(String::from_utf8(words).unwrap(), "\nline 199\n");
    }
}
