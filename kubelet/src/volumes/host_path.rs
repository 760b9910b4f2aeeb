//! Paths of the host.

use super::VolumeError;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks that a path is what it must be, or makes it so.
///
/// # Errors
/// When it is something else.
pub fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let shown = path.display();
    let failed = |what: &str| Err(VolumeError::HostPath(format!("{shown} is not {what}")));
    let found = fs::metadata(path).ok().map(|meta| meta.file_type());
    let made = |error| VolumeError::io(format!("cannot make {shown}"), error);
    match (kind, found) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(made)
        }
        ("FileOrCreate", None) => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            file.map(drop).map_err(made)
        }
        ("Directory" | "DirectoryOrCreate", found) => match found {
            Some(found) if found.is_dir() => Ok(()),
            _ => failed("a directory"),
        },
        ("File" | "FileOrCreate", found) => match found {
            Some(found) if found.is_file() => Ok(()),
            _ => failed("a file"),
        },
        ("Socket", found) => match found {
            Some(found) if found.is_socket() => Ok(()),
            _ => failed("a socket file"),
        },
        ("CharDevice", found) => match found {
            Some(found) if found.is_char_device() => Ok(()),
            _ => failed("a character device"),
        },
        ("BlockDevice", found) => match found {
            Some(found) if found.is_block_device() => Ok(()),
            _ => failed("a block device"),
        },
        (other, _) => Err(VolumeError::HostPath(format!("{other:?} is no type of a host path"))),
    }
}
