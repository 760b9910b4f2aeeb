//! Names of images: `[REGISTRY/]PATH[:TAG][@DIGEST]`.

use std::str::FromStr;

/// The longest name.
const NAME_BYTES: usize = 255;

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As it was written.
    pub text: String,
    /// The registry's host, `docker.io` when none is named.
    pub registry: String,
    /// The repository in it.
    pub path: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<String>,
}

/// A name that is none, in the words of the usual parser.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not of that form.
    #[error("invalid reference format")]
    Format,
    /// A repository is in small letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Case(String),
    /// Too long.
    #[error("repository name must not be more than 255 characters")]
    Long,
    /// An image is named, not a bare digest.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Hexadecimal(String),
}

impl Reference {
    /// As it was written, with the tag `latest` if it names neither tag nor digest.
    pub fn with_tag(&self) -> String {
        match (&self.tag, &self.digest) {
            (None, None) => format!("{}:latest", self.text),
            _ => self.text.clone(),
        }
    }

    /// Whether it means whatever is newest.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Hexadecimal(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(ReferenceError::Format),
            None => (text, None),
        };
        let (registry, remote) = match rest.split_once('/') {
            Some((first, remote)) if is_registry(first) => (first.to_owned(), remote.to_owned()),
            Some(_) => ("docker.io".to_owned(), rest.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{rest}")),
        };
        let (path, tag) = match remote.split_once(':') {
            Some((path, tag)) => (path.to_owned(), Some(tag.to_owned())),
            None => (remote, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Case(path));
        }
        if registry.len() + 1 + path.len() > NAME_BYTES {
            return Err(ReferenceError::Long);
        }
        if !path.split('/').all(is_component) || !tag.as_deref().is_none_or(is_tag) || !is_host(&registry) {
            return Err(ReferenceError::Format);
        }
        Ok(Reference { text: text.to_owned(), registry, path, tag, digest })
    }
}

/// Whether the first part of a name is a registry.
fn is_registry(first: &str) -> bool {
    let is_capital = first.bytes().any(|byte| byte.is_ascii_uppercase());
    first.contains(['.', ':']) || first == "localhost" || is_capital
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_name = name.split('.').all(label) || (name.starts_with('[') && name.ends_with(']'));
    is_name && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Small letters and digits, joined by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let run = rest.iter().take_while(|byte| plain(**byte)).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        let join = rest.iter().take_while(|byte| !plain(**byte)).count();
        match &rest[..join] {
            [] => return rest.is_empty(),
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => return false,
        }
        rest = &rest[join..];
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    !algorithm.is_empty()
        && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte))
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<(&str, &str, &str), &str>) {
        let got =
            text.parse::<Reference>().map(|one| (one.registry.clone(), one.path.clone(), one.with_tag()));
        let got = got.as_ref().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()));
        assert_eq!(got.map_err(ToString::to_string), want.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn names_are_read() {
        check("busybox", Ok(("docker.io", "library/busybox", "busybox:latest")));
        check("minik.local/demo:1", Ok(("minik.local", "demo", "minik.local/demo:1")));
        check(
            "localhost:5000/a/b_c--d",
            Ok(("localhost:5000", "a/b_c--d", "localhost:5000/a/b_c--d:latest")),
        );
        let digest = format!("a@sha256:{}", "0".repeat(64));
        check(&digest, Ok(("docker.io", "library/a", &digest)));
    }

    #[test]
    fn other_texts_are_refused() {
        let format = Err("invalid reference format");
        for text in ["", "a b", "a:", "a/", "/a", "a..b", "a:-x", "a@sha256:1", "-a.b/c"] {
            check(text, format);
        }
        check("UPPER/x:::", format);
        check("Upper", Err("invalid reference format: repository name (library/Upper) must be lowercase"));
    }
}
