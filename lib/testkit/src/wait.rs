//! Bounded waits: a predicate is asked again until it holds, and when it never does the last state is shown.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(5);

/// Asks until `probe` gives `Ok`, and returns what it gave.
///
/// # Panics
/// When it has not by `limit`, with the last state that it saw.
#[track_caller]
pub fn eventually<T, S: Debug>(limit: Duration, mut probe: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(state) => {
                assert!(Instant::now() < deadline, "not within {limit:?}; last seen: {state:?}");
                thread::sleep(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_it_holds() {
        let mut left = 3;
        let value = eventually(Duration::from_secs(5), || {
            left -= 1;
            if left == 0 { Ok("done") } else { Err(left) }
        });
        assert_eq!(value, "done");
    }

    #[test]
    #[should_panic(expected = "last seen: \"never\"")]
    fn shows_the_last_state() {
        eventually(Duration::from_millis(10), || Err::<(), _>("never"));
    }
}
