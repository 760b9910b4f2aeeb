//! Images that tests load into nodes.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Static busybox with all applets; its entry point sleeps.
pub const BUSYBOX: &str = "minik.local/busybox:1";

/// The demo: a server that says who it is and what it reaches. Its tag is the version that it names.
pub const DEMO: &str = "minik.local/demo:1";

/// The archive of [`BUSYBOX`].
///
/// # Errors
/// When the machine has no static busybox.
pub fn busybox() -> Result<Vec<u8>> {
    Ok(minik_testkit::image::busybox(BUSYBOX)?.docker_archive())
}

/// The archive of the demo under a name.
///
/// # Errors
/// When `minik-demo` is not among the programs, or fails.
pub fn demo(programs: &Path, name: &str) -> Result<Vec<u8>> {
    let program = programs.join("minik-demo");
    let done = Command::new(&program).args(["image", "--image", name]).output();
    let done = done.with_context(|| format!("running {}", program.display()))?;
    ensure!(done.status.success(), "minik-demo image: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}
