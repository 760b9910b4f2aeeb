//! A small file system of one's own, to be filled and to be made read-only.

// Each test uses a part of it.
#![allow(dead_code)]

use std::path::Path;

/// A small file system of one's own; unmounted with its value.
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None`, which is said, without the right to mount.
    pub fn mount(size: &str) -> Option<Tmpfs> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        match run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", folder.path().to_str().unwrap()]) {
            Ok(()) => Some(Tmpfs(folder)),
            Err(why) => {
                eprintln!("not tried, since a tmpfs cannot be mounted: {why}");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it; gives the file that does.
    pub fn fill(&self) -> std::path::PathBuf {
        let ballast = self.path().join("ballast");
        // Writes until it is full fail in the end.
        let error = std::fs::write(&ballast, vec![1; 16 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        ballast
    }

    /// Nothing can be written any more.
    pub fn read_only(&self) {
        run(&["mount", "-o", "remount,ro", self.path().to_str().unwrap()]).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(&["umount", "--lazy", self.path().to_str().unwrap()]).unwrap();
    }
}

fn run(line: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new(line[0]).args(&line[1..]).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}
