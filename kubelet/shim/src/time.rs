//! Now, and how processes are recognized.

use crate::protocol::Process;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time in nanoseconds since 1970.
#[allow(clippy::disallowed_methods)] // the one clock of the shim: it stamps what happens, and decides nothing by it
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// When the process started, in clock ticks since boot.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it do not.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The process as it is now, so that it can be recognized later.
pub fn process(pid: i32) -> Process {
    Process { pid, start_ticks: start_ticks(pid).unwrap_or(0), started_at_ns: now_ns() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_is_recognized() {
        let own = std::process::id() as i32;
        assert!(super::start_ticks(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(super::start_ticks(own), super::start_ticks(own));
        assert_eq!(super::start_ticks(i32::MAX), None);
    }
}
