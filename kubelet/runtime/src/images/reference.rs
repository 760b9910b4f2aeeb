//! Names of images, in the grammar and with the defaults that container tools share: no domain means `docker.io`, a single
//! word there means `library/`, no tag means `latest`, and a digest wins over a tag.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A complete name: domain, repository, and a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    repository: String,
    version: Version,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The one that the tag points at now.
    Tag(String),
    /// Exactly this one.
    Digest(Digest),
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not fit the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    HexName(String),
    /// The repository is too long.
    #[error("repository name must not be more than {NAME_LIMIT} characters")]
    TooLong,
}

impl Reference {
    /// The registry's name, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository without the domain.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag or digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The tag, unless it goes by digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The same repository by digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { version: Version::Digest(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.repository),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(ReferenceError::HexName(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| ReferenceError::Format)?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path.to_owned()));
        }
        let repository = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let well_formed =
            is_domain(domain) && repository.split('/').all(is_component) && tag.is_none_or(is_tag);
        if !well_formed {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + repository.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Reference { domain: domain.to_owned(), repository, version })
    }
}

/// The first part is a domain when it could not be a folder of the default one.
fn split_domain(text: &str) -> (&str, &str) {
    let is_domain = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    match text.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if is_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(v6) = text.strip_prefix('[') {
        let Some((v6, rest)) = v6.split_once(']') else { return false };
        if v6.parse::<std::net::Ipv6Addr>().is_err() || !(rest.is_empty() || rest.starts_with(':')) {
            return false;
        }
        ("v6", rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_component(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let edges = bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum);
    edges
        && bytes
            .split(alnum)
            .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_LIMIT
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_get_their_defaults() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:v1.2-rc_3", "localhost:5000/a/b/c:v1.2-rc_3"),
            ("127.0.0.1:5000/a__b---c.d", "127.0.0.1:5000/a__b---c.d:latest"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1"),
            ("Registry/app", "Registry/app:latest"),
            ("minik.local/demo:1", "minik.local/demo:1"),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(full.to_owned()), "{text}");
        }
        let by_digest = format!("busybox:1@sha256:{HEX}");
        let full = format!("docker.io/library/busybox@sha256:{HEX}");
        assert_eq!(by_digest.parse::<Reference>().map(|r| r.to_string()), Ok(full));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let long = format!("a/{}", "b".repeat(260));
        for text in [
            "",
            ":",
            "a:",
            "UPPER/x:::",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a@sha256:12",
            "a b",
            "a:-x",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert_eq!("a/B".parse::<Reference>(), Err(ReferenceError::Uppercase("a/B".into())));
        assert_eq!(HEX.parse::<Reference>(), Err(ReferenceError::HexName(HEX.into())));
    }
}
