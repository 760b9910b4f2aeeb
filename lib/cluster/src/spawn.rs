//! Starts a process in namespaces and cgroups, with listening sockets, without passing through a shell or a helper.

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is to run, and where.
pub(crate) struct Spawn<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [String],
    /// Where its output and errors go.
    pub log: &'a File,
    /// `cgroup.procs` files that it writes itself into.
    pub cgroups: &'a [File],
    /// Namespaces that it enters, in this order.
    pub namespaces: &'a [File],
    /// Sockets that it finds from file descriptor 3 on, told by LISTEN_FDS and LISTEN_PID.
    pub sockets: &'a [OwnedFd],
}

/// Where the process gives up, and why.
const STEPS: [&str; 5] =
    ["enter a cgroup", "enter a namespace", "change the folder", "pass descriptors", "execute"];
/// Passed sockets are first moved out of the way of their final places.
const ASIDE: RawFd = 500;

impl Spawn<'_> {
    /// Starts it; gives its id and a descriptor that tells its end.
    ///
    /// # Errors
    /// What the kernel refused, with the step.
    pub fn start(&self) -> std::io::Result<(Pid, OwnedFd)> {
        let text = |text: &[u8]| CString::new(text).map_err(std::io::Error::other);
        let program = text(self.program.as_os_str().as_bytes())?;
        let args =
            std::iter::once(Ok(program.clone())).chain(self.args.iter().map(|arg| text(arg.as_bytes())));
        let args: Vec<CString> = args.collect::<Result<_, _>>()?;
        let mut env: Vec<Vec<u8>> = std::env::vars_os()
            .filter(|(name, _)| name.as_bytes() != b"LISTEN_FDS" && name.as_bytes() != b"LISTEN_PID")
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())
            .collect();
        if !self.sockets.is_empty() {
            env.push(format!("LISTEN_FDS={}\0", self.sockets.len()).into_bytes());
            // The child overwrites the zeros with its id, which nobody knows before it is there.
            env.push(b"LISTEN_PID=0000000000\0".to_vec());
        }
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp): (_, Vec<*const libc::c_char>) =
            (pointers(&args), env.iter().map(|one| one.as_ptr().cast()).chain([std::ptr::null()]).collect());
        let listen_pid =
            (!self.sockets.is_empty()).then(|| env.last_mut().map(|last| last.as_mut_ptr())).flatten();
        let (tell, told) = pipe()?;
        let null = File::open("/dev/null")?;
        // SAFETY: until it executes or exits, the child makes system calls and writes to memory that was allocated
        // before, and nothing else: other threads' locks do not matter to it.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(std::io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: as above; the pointers are into vectors that outlive the call.
            unsafe {
                let step = self.become_it(&program, &argv, &envp, listen_pid, null.as_raw_fd());
                let report = [step, *libc::__errno_location()];
                libc::write(told.as_raw_fd(), report.as_ptr().cast(), size_of_val(&report));
                libc::_exit(127);
            }
        }
        drop(told);
        let pid = Pid::from_raw(pid).ok_or_else(|| std::io::Error::other("fork gave no process"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut report = [0; 8];
        if File::from(tell).read(&mut report)? == report.len() {
            // It has given up; its entry in the process table is taken away.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            let number =
                |at: usize| i32::from_ne_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
            let step = STEPS.get(number(0) as usize).copied().unwrap_or("start");
            let cause = std::io::Error::from_raw_os_error(number(4));
            return Err(std::io::Error::new(cause.kind(), format!("cannot {step}: {cause}")));
        }
        Ok((pid, pidfd))
    }

    /// Returns only when a step fails, with its number.
    ///
    /// # Safety
    /// For the child of a fork alone. All pointers are valid, the arrays end with null.
    unsafe fn become_it(
        &self,
        program: &CString,
        argv: &[*const libc::c_char],
        envp: &[*const libc::c_char],
        listen_pid: Option<*mut u8>,
        null: RawFd,
    ) -> i32 {
        // SAFETY: system calls with valid arguments; memory is written within its bounds.
        unsafe {
            libc::setsid();
            for cgroup in self.cgroups {
                if libc::write(cgroup.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1 {
                    return 0;
                }
            }
            for namespace in self.namespaces {
                if libc::setns(namespace.as_raw_fd(), 0) != 0 {
                    return 1;
                }
            }
            if libc::chdir(c"/".as_ptr()) != 0 {
                return 2;
            }
            if let Some(place) = listen_pid {
                write_decimal(place.add(b"LISTEN_PID=".len()), 10, libc::getpid() as u32);
            }
            let log = self.log.as_raw_fd();
            for (from, to) in [(null, 0), (log, 1), (log, 2)] {
                if libc::dup2(from, to) < 0 {
                    return 3;
                }
            }
            for (index, socket) in self.sockets.iter().enumerate() {
                if libc::dup3(socket.as_raw_fd(), ASIDE + index as RawFd, libc::O_CLOEXEC) < 0 {
                    return 3;
                }
            }
            for index in 0..self.sockets.len() as RawFd {
                if libc::dup2(ASIDE + index, 3 + index) < 0 {
                    return 3;
                }
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
            4
        }
    }
}

/// Writes a number with leading zeros.
///
/// # Safety
/// `place` has room for `digits` bytes.
unsafe fn write_decimal(place: *mut u8, digits: usize, mut number: u32) {
    for at in (0..digits).rev() {
        // SAFETY: `at` is below `digits`.
        unsafe { place.add(at).write(b'0' + (number % 10) as u8) };
        number /= 10;
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Passed sockets must not take its place.
    Ok((read, rustix::io::fcntl_dupfd_cloexec(&write, ASIDE + 100)?))
}

/// Sockets that were passed to this process by the same convention, and are not looked for a second time.
pub(crate) fn inherited() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(64) as RawFd;
    // SAFETY: whoever set LISTEN_PID to this process opened these for it.
    let sockets: Vec<OwnedFd> = (3..3 + count).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    for socket in &sockets {
        // Our children must not hold them open. One that is not open is noticed when it is used.
        let _ = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC);
    }
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    fn run(program: &str, script: &str, sockets: &[OwnedFd]) -> std::io::Result<String> {
        let dir = tempfile::tempdir()?;
        let log = File::create(dir.path().join("log"))?;
        let args = ["-c".to_owned(), script.to_owned()];
        let spawn = Spawn {
            program: Path::new(program),
            args: &args,
            log: &log,
            cgroups: &[],
            namespaces: &[],
            sockets,
        };
        let (pid, _pidfd) = spawn.start()?;
        waitpid(Some(pid), WaitOptions::empty())?;
        std::fs::read_to_string(dir.path().join("log"))
    }

    #[test]
    fn sockets_arrive_at_their_places_with_the_right_pid() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let script =
            r#"[ "$((10#$LISTEN_PID))" = $$ ] && echo pid; echo $LISTEN_FDS; readlink /proc/$$/fd/3"#;
        let text = run("/bin/bash", script, &[listener.into()]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["pid", "1"]);
        assert!(lines[2].starts_with("socket:"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let error = run("/does/not/exist", "", &[]).unwrap_err().to_string();
        assert_eq!(error, "cannot execute: No such file or directory (os error 2)");
    }
}
