//! Rule sets as text through the `nft` command: right for whole tables at a start or an end, too slow (16 to 24 ms) for
//! single changes. Everything acts on the network namespace of the calling thread: use [`crate::NetNs::run`] for another.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::{Error, Result};

/// Applies a script as one transaction: all of it or nothing.
pub fn load(script: &str) -> Result<()> {
    run(&["-f", "-"], script).map(drop)
}

/// The whole rule set, or that of one table (`["inet", "name"]`), without counters.
pub fn list(table: &[&str]) -> Result<String> {
    let mut arguments = vec!["-s", "list", if table.is_empty() { "ruleset" } else { "table" }];
    arguments.extend_from_slice(table);
    run(&arguments, "")
}

/// Deletes a table if it exists.
pub fn delete_table(family: &str, name: &str) -> Result<()> {
    // Adding first makes deleting what is not there no error; `destroy` needs a newer nft.
    load(&format!("add table {family} {name}\ndelete table {family} {name}\n"))
}

fn run(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::NftMissing)?;
    // nft reads its whole input before it prints, so writing first cannot block on a full output pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(Error::NftMissing)?;
    if !status.success() {
        let text = String::from_utf8_lossy(&stderr);
        return Err(Error::Nft(if text.trim().is_empty() {
            status.to_string()
        } else {
            text.trim().to_owned()
        }));
    }
    written.map_err(Error::NftMissing)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
