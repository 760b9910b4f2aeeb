//! Images that tests load into nodes.

use anyhow::Result;

/// Static busybox with all applets; its entry point sleeps.
pub const BUSYBOX: &str = "minik.local/busybox:1";

/// The archive of [`BUSYBOX`].
///
/// # Errors
/// When the machine has no static busybox.
pub fn busybox() -> Result<Vec<u8>> {
    Ok(minik_testkit::image::busybox(BUSYBOX)?.docker_archive())
}
