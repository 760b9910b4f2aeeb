//! One running process: started by us or found running, watched by its pidfd.

use crate::config::write_file;
use crate::error::{Error, Result, file, system};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its id.
    pub pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

/// Who a process is, beyond its number, which is used again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    boot: String,
    pid: i32,
    started: u64,
}

impl Process {
    /// Watches a process.
    pub fn watch(pid: Pid, pidfd: OwnedFd) -> Result<Process> {
        // SAFETY: the descriptor is owned by what it is put into, and never replaced.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd =
            pidfd.map_err(|error| system("watch a process")(std::io::Error::other(error.to_string())))?;
        Ok(Process { pid, pidfd })
    }

    /// Writes down who it is.
    pub fn remember(&self, path: &Path) -> Result<()> {
        let memory = Memory::of(self.pid).map_err(system("look at a process"))?;
        let text =
            serde_json::to_vec(&memory).map_err(|source| Error::Format { path: path.to_owned(), source })?;
        write_file(path, &text, 0o644)
    }

    /// The process that was written down, when it still runs.
    pub fn recall(path: &Path) -> Option<Process> {
        let memory: Memory = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let pid = Pid::from_raw(memory.pid)?;
        // The descriptor first: after it, the number cannot come to mean another.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (Memory::of(pid).ok()? == memory).then(|| Process::watch(pid, pidfd).ok())?
    }

    /// Returns when it has ended, with how.
    pub async fn ended(&self) -> String {
        // An error would mean that the descriptor is no pidfd; the process counts as ended.
        let _ = self.pidfd.readable().await;
        self.how()
    }

    fn how(&self) -> String {
        match waitid(
            WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "ended".to_owned(),
            },
            // Adopted: its exit code went to whoever started it.
            Ok(None) | Err(_) => "ended".to_owned(),
        }
    }

    /// Sends a signal; one that has ended is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(system("signal a process")(error)),
        }
    }
}

impl Memory {
    fn of(pid: Pid) -> std::io::Result<Memory> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
        // The name may hold anything, parentheses too; the fields after it are numbers. A zombie has ended.
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let started = fields.get(19).and_then(|field| field.parse().ok());
        match (fields.first(), started) {
            (Some(state), Some(started)) if *state != "Z" => {
                Ok(Memory { boot: boot_id()?, pid: pid.as_raw_nonzero().get(), started })
            }
            _ => Err(std::io::Error::other("it has ended")),
        }
    }
}

/// The id of the machine's present life.
pub(crate) fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Forgets a process.
pub(crate) fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, arg: &str) -> (std::process::Child, Process) {
        let child = std::process::Command::new(program).arg(arg).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        (child, Process::watch(pid, pidfd_open(pid, PidfdFlags::empty()).unwrap()).unwrap())
    }

    #[tokio::test]
    async fn a_remembered_process_is_found_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let (_child, process) = start("sleep", "60");
        process.remember(&path).unwrap();
        let found = Process::recall(&path).unwrap();
        assert_eq!(found.pid, process.pid);
        found.signal(Signal::KILL).unwrap();
        assert_eq!(process.ended().await, "signal 9");
        assert!(Process::recall(&path).is_none());
    }

    #[tokio::test]
    async fn another_process_of_the_same_number_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let (_child, process) = start("sleep", "60");
        process.remember(&path).unwrap();
        let mut memory: Memory = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        memory.started += 1;
        std::fs::write(&path, serde_json::to_vec(&memory).unwrap()).unwrap();
        assert!(Process::recall(&path).is_none());
        process.signal(Signal::KILL).unwrap();
        process.ended().await;
    }
}
