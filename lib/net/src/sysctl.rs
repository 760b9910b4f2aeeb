//! Kernel settings below `/proc/sys`. Keys under `net/` belong to the network namespace of the calling thread: use
//! [`crate::NetNs::run`] for another one.

use std::fs;

use crate::{Error, Result};

/// Reads a setting, without its final newline. The key has slashes: `net/ipv4/ip_forward`.
pub fn read(key: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/sys/{key}"))
        .map(|value| value.trim_end().to_owned())
        .map_err(|source| Error::Sysctl { what: "read", key: key.to_owned(), source })
}

/// Writes a setting.
pub fn write(key: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{key}"), value).map_err(|source| Error::Sysctl {
        what: "write",
        key: key.to_owned(),
        source,
    })
}

/// Writes a setting unless it has the value; returns what it was, so that it can be put back.
pub fn ensure(key: &str, value: &str) -> Result<String> {
    let before = read(key)?;
    if before != value {
        write(key, value)?;
    }
    Ok(before)
}
