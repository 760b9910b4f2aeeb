//! Digests name bytes: `sha256:` or `sha512:` and hexadecimal digits. A [`Hashing`] reader computes one while bytes pass.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

/// The name of bytes by their hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is no digest of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid checksum digest format: {0:?}")]
pub struct DigestError(String);

impl Digest {
    /// The SHA-256 digest of bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let hash = aws_lc_rs::digest::digest(&SHA256, bytes);
        Digest(format!("sha256:{}", hex::encode(hash.as_ref())))
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    fn context(&self) -> Context {
        Context::new(if self.0.starts_with("sha512:") { &SHA512 } else { &SHA256 })
    }

    fn matches(&self, context: Context) -> Result<(), String> {
        let actual = hex::encode(context.finish().as_ref());
        if actual == self.hex() { Ok(()) } else { Err(actual) }
    }

    /// Whether these bytes bear this digest.
    pub fn names(&self, bytes: &[u8]) -> bool {
        let mut context = self.context();
        context.update(bytes);
        self.matches(context).is_ok()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let length = match text.split_once(':') {
            Some(("sha256", hex)) if hex.len() == 64 => hex.len(),
            Some(("sha512", hex)) if hex.len() == 128 => hex.len(),
            _ => return Err(DigestError(text.to_owned())),
        };
        let digits = &text.as_bytes()[text.len() - length..];
        if digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) {
            Ok(Digest(text.to_owned()))
        } else {
            Err(DigestError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// A reader that hashes what passes and, when asked, compares it with the digest that was promised.
pub struct Hashing<R> {
    inner: R,
    context: Context,
    expected: Digest,
    length: u64,
}

impl<R: Read> Hashing<R> {
    /// Reads from `inner`, expecting that all its bytes bear `expected`.
    pub fn new(inner: R, expected: Digest) -> Hashing<R> {
        Hashing { inner, context: expected.context(), expected, length: 0 }
    }

    /// Reads what is left and compares; returns how many bytes there were.
    ///
    /// # Errors
    /// When reading fails or the digest differs (`InvalidData`).
    pub fn verify(mut self) -> io::Result<u64> {
        io::copy(&mut self, &mut io::sink())?;
        match self.expected.matches(self.context) {
            Ok(()) => Ok(self.length),
            Err(actual) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("digest mismatch: expected {}, got {actual}", self.expected),
            )),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.as_str(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(digest.names(b"abc") && !digest.names(b"abd"));
        assert_eq!(Hashing::new(&b"abc"[..], digest.clone()).verify().unwrap(), 3);
        let error = Hashing::new(&b"abd"[..], digest).verify().unwrap_err();
        assert!(error.to_string().starts_with("digest mismatch: expected sha256:ba78"), "{error}");
        for bad in ["", "sha256:", "sha256:AB", "md5:00", &format!("sha256:{}", "G".repeat(64))] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
