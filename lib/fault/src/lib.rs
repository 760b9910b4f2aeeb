//! Points between two effects on the kernel or the disk, at which a test may end a process as a crash would.
//!
//! ```text
//!  MINIK_FAULT_DIR=DIR ── point(name) ──> DIR/passed: one more line
//!                             └── DIR/fault says "NAME COUNT kill"? ──> renamed to DIR/reached, then SIGKILL
//!                                                     "NAME COUNT hold"? ──> renamed, then it waits for DIR/go
//! ```
//!
//! Without the variable a point costs one load from memory. The folder is opened once, before a process enters other
//! namespaces, and what is in it is reached through that descriptor: containers' first processes pass points too. A fault
//! happens once, whoever reaches it: who renames the file.

use rustix::fs::{CWD, Mode, OFlags, openat, renameat};
use rustix::process::{Signal, getpid, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

/// Names the folder that says where to fail. For tests alone.
pub const VARIABLE: &str = "MINIK_FAULT_DIR";

/// Names of points passed, a line each.
pub const PASSED: &str = "passed";
/// What is to happen where: `NAME COUNT kill` or `NAME COUNT hold`.
pub const FAULT: &str = "fault";
/// The same file once it has happened.
pub const REACHED: &str = "reached";
/// Lets a process that is held go on.
pub const GO: &str = "go";

/// How often a process that is held looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(1);

static FOLDER: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Between two effects: here a test may end this process.
pub fn point(name: &str) {
    let folder = FOLDER.get_or_init(|| {
        let path = std::env::var_os(VARIABLE)?;
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
    });
    if let Some(folder) = folder {
        pass(folder, name);
    }
}

fn pass(folder: &OwnedFd, name: &str) {
    let appending = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let appended = openat(folder, PASSED, appending, Mode::from_raw_mode(0o666));
    // Whoever cannot write there is in no test that counts.
    let Ok(()) = appended.map_err(std::io::Error::from).and_then(|file| line(file, name)) else { return };
    let Some(asked) = read(folder, FAULT) else { return };
    let Some((wanted, count, what)) = parse(&asked) else { return };
    let passed = || read(folder, PASSED).unwrap_or_default().lines().filter(|line| *line == name).count();
    if wanted != name || passed() < count || renameat(folder, FAULT, folder, REACHED).is_err() {
        return;
    }
    match what {
        "hold" => hold(folder),
        _ => die(),
    }
}

fn line(file: OwnedFd, name: &str) -> std::io::Result<()> {
    File::from(file).write_all(format!("{name}\n").as_bytes())
}

fn read(folder: &OwnedFd, name: &str) -> Option<String> {
    let file = openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).ok()?;
    Some(text)
}

fn parse(asked: &str) -> Option<(&str, usize, &str)> {
    let mut words = asked.split_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?, words.next()?))
}

/// Stands still, as a process that gets no time; whatever it owns stands still with it.
fn hold(folder: &OwnedFd) {
    while openat(folder, GO, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_err() {
        std::thread::sleep(LOOK_EVERY);
    }
}

fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    // The first process of a PID namespace cannot kill itself; nothing of it runs any more after this either.
    std::process::exit(137)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_and_a_fault_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = openat(CWD, dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::fs::write(dir.path().join(FAULT), "b 2 hold").unwrap();
        for name in ["a", "b", "a"] {
            pass(&folder, name);
        }
        assert_eq!(read(&folder, PASSED).unwrap(), "a\nb\na\n");
        assert!(dir.path().join(FAULT).exists());
        let held = std::thread::spawn(move || pass(&folder, "b"));
        let began = std::time::Instant::now();
        while !dir.path().join(REACHED).exists() {
            assert!(began.elapsed().as_secs() < 10, "the second time does not count");
            std::thread::yield_now();
        }
        assert!(!held.is_finished() && !dir.path().join(FAULT).exists());
        std::fs::write(dir.path().join(GO), "").unwrap();
        held.join().unwrap();
    }
}
