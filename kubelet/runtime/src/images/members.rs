//! The members of an archive, one by one, without believing how long their names are.
//!
//! What stands in front of a member (its header, long names, attributes) is read into memory, so that it has a limit of its
//! own; the member's bytes are streamed.

use std::cell::Cell;
use std::io::{self, Read};
use tar::{Archive, Entry, EntryType};

/// The most that may stand in front of a member.
const MOST_HEAD_BYTES: u64 = 1 << 20;
/// The largest sparse file: its holes are written out, and cost nothing in the archive.
const MOST_SPARSE_BYTES: u64 = 1 << 30;

/// A reader that gives no more than is left.
pub(super) struct Rationed<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(invalid("the head of a member is too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// A reader that fails where its bytes are more than allowed: packed bytes say nothing of what they hold.
pub(super) struct Limited<R> {
    inner: R,
    most: u64,
    left: u64,
}

impl<R> Limited<R> {
    pub(super) fn new(inner: R, most: u64) -> Limited<R> {
        Limited { inner, most, left: most }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(left) = self.left.checked_sub(count as u64) else {
            return Err(invalid(format!("the archive has more than {} bytes", self.most)));
        };
        self.left = left;
        Ok(count)
    }
}

/// Hands each member of an archive to `take`, which need not read it.
///
/// # Errors
/// What `take` says, and a malformed archive.
pub(super) fn each<R: Read>(
    archive: R,
    mut take: impl FnMut(&mut Entry<'_, Rationed<'_, R>>) -> io::Result<()>,
) -> io::Result<()> {
    let left = Cell::new(MOST_HEAD_BYTES);
    let mut archive = Archive::new(Rationed { inner: archive, left: &left });
    let mut entries = archive.entries()?;
    loop {
        left.set(MOST_HEAD_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry?;
        left.set(u64::MAX);
        if entry.header().entry_type() == EntryType::GNUSparse && entry.size() > MOST_SPARSE_BYTES {
            return Err(invalid("a sparse file is too large"));
        }
        take(&mut entry)?;
        io::copy(&mut entry, &mut io::sink())?;
    }
}

/// A malformed archive.
pub(super) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn a_long_name_is_not_read_to_its_end() {
        let read = |name_bytes: u64| {
            let name = io::repeat(b'a').take(name_bytes.next_multiple_of(512));
            let archive = io::Cursor::new(header(EntryType::GNULongName, name_bytes))
                .chain(name)
                .chain(io::Cursor::new(header(EntryType::Regular, 0)))
                .chain(io::repeat(0).take(1024));
            let mut lengths = Vec::new();
            each(archive, |entry| {
                lengths.push(entry.path_bytes().len());
                Ok(())
            })
            .map(|()| lengths)
        };
        assert_eq!(read(5000).unwrap(), [5000]);
        assert_eq!(read(8 << 30).unwrap_err().to_string(), "the head of a member is too long");
    }

    #[test]
    fn members_are_passed_over_and_holes_have_a_limit() {
        let two = [
            header(EntryType::Regular, 3 << 20),
            vec![7; 3 << 20],
            header(EntryType::Directory, 0),
            vec![0; 1024],
        ];
        let mut seen = 0;
        each(&two.concat()[..], |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 2);
        let mut sparse = tar::Header::new_gnu();
        sparse.set_entry_type(EntryType::GNUSparse);
        sparse.set_size(0);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 40);
        gnu.sparse[0].set_offset(1 << 40);
        gnu.sparse[0].set_length(0);
        sparse.set_cksum();
        let archive = [sparse.as_bytes().to_vec(), vec![0; 1024]].concat();
        assert!(each(&archive[..], |_| Ok(())).is_err());
    }
}
