//! Where a command's words go: its result to one side, remarks to the other.

use crate::Failure;
use std::io::{self, Write};

/// Both sides.
pub struct Terminal<'a> {
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
}

impl<'a> Terminal<'a> {
    /// Over these.
    pub fn new(out: &'a mut (dyn Write + Send), err: &'a mut (dyn Write + Send)) -> Terminal<'a> {
        Terminal { out, err }
    }

    /// A line of the result.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// A part of the result, as it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            // Whoever reads has seen enough; that is no failure, and nobody wants to hear of it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => Ok(other?),
        }
    }

    /// A part of what a command said beside its result, as it is. What cannot be written is lost, and nothing else.
    pub fn error_bytes(&mut self, bytes: &[u8]) {
        let _ = self.err.write_all(bytes).and_then(|()| self.err.flush());
    }

    /// A remark. One that cannot be written is lost, and nothing else.
    pub fn remark(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}
