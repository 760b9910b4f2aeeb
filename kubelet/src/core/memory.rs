//! What a Pod's worker remembers between two looks; lost with the process and regained from what it sees.

use k8s_openapi::api::core::v1 as api;
use std::collections::BTreeMap;
use std::time::Duration;

/// The first wait after a crash, doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(10);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What is remembered of one Pod.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Waits of containers that crash.
    pub crashes: BTreeMap<String, Crashes>,
    /// Why a container could not be started, by its name; forgotten once it has started.
    pub failures: BTreeMap<String, Failure>,
    /// What failed and is not tried again before this time, in nanoseconds of Unix time; a container by its name, the
    /// sandbox by an empty one.
    pub held: BTreeMap<String, i64>,
    /// What probes found, by instance.
    pub probes: BTreeMap<String, Found>,
    /// Why a wish for other resources is not fulfilled: reason and message.
    pub resize: Option<Failure>,
    /// Why the Pod as a whole has failed.
    pub verdict: Option<Verdict>,
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word, such as `ErrImagePull`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(reason: &str, message: impl Into<String>) -> Failure {
        Failure { reason: reason.to_owned(), message: message.into() }
    }
}

/// Why a Pod has failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// One word, such as `Evicted`.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Whether it was refused before anything was started; such a Pod has neither conditions nor containers.
    pub refused: bool,
    /// How long the end of its containers may take, if not as long as usual.
    pub grace_seconds: Option<i64>,
}

/// What the probes of one instance have found; `None` while they have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Whether it has started.
    pub startup: Option<bool>,
    /// Whether it is ready.
    pub readiness: Option<bool>,
    /// Whether it lives.
    pub liveness: Option<bool>,
}

impl Found {
    /// What was found later counts, where anything was.
    pub fn then(self, later: Found) -> Found {
        Found {
            startup: later.startup.or(self.startup),
            readiness: later.readiness.or(self.readiness),
            liveness: later.liveness.or(self.liveness),
        }
    }

    /// What a status in the API says was found of its containers, by run: so that a restart of the kubelet makes nobody
    /// unready.
    pub fn regained(status: &api::PodStatus) -> BTreeMap<String, Found> {
        let lists = [&status.init_container_statuses, &status.container_statuses];
        lists
            .into_iter()
            .flatten()
            .flatten()
            .filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
            .filter_map(|one| {
                let id = one.container_id.as_ref()?.split_once("://")?.1.to_owned();
                let yes = |is: bool| is.then_some(true);
                let found =
                    Found { startup: one.started.and_then(yes), readiness: yes(one.ready), liveness: None };
                Some((id, found))
            })
            .collect()
    }
}

/// The wait before a crashing container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crashes {
    wait: Duration,
    /// When it grew, in nanoseconds of Unix time.
    since_ns: i64,
}

impl Crashes {
    /// How long a container that ended at `finished_ns` still waits at `now_ns`.
    pub fn waits(self, finished_ns: i64, now_ns: i64) -> Option<(Duration, Duration)> {
        if is_old(self.since_ns, now_ns) {
            return None;
        }
        // An end that is further ahead than the wait was told by a clock that has been set back since.
        let passed =
            if nanos(finished_ns - now_ns) > self.wait { self.wait } else { nanos(now_ns - finished_ns) };
        let left = self.wait.checked_sub(passed).filter(|left| !left.is_zero())?;
        Some((self.wait, left))
    }

    /// The wait after one more start.
    pub fn next(before: Option<Crashes>, finished_ns: i64, now_ns: i64) -> Crashes {
        let wait = match before {
            Some(before) if !is_old(before.since_ns, finished_ns) => (before.wait * 2).min(LONGEST_WAIT),
            _ => FIRST_WAIT,
        };
        Crashes { wait, since_ns: now_ns }
    }
}

/// Whether a container ran so long that its crashes are forgotten.
fn is_old(since_ns: i64, now_ns: i64) -> bool {
    nanos(now_ns - since_ns) > LONGEST_WAIT * 2
}

fn nanos(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.max(0) as u64)
}

/// A duration as upstream writes it: `10s`, `1m20s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn waits_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut crashes = None;
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..7 {
            let next = Crashes::next(crashes, now, now);
            let (whole, left) = next.waits(now, now).unwrap();
            assert_eq!(whole, left);
            waits.push(whole.as_secs());
            now += left.as_nanos() as i64;
            assert_eq!(next.waits(now - left.as_nanos() as i64, now), None);
            crashes = Some(next);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + 700 * SECOND;
        assert_eq!(crashes.unwrap().waits(later, later), None);
        assert_eq!(Crashes::next(crashes, later, later).wait, FIRST_WAIT);
    }

    #[test]
    fn a_clock_that_is_set_makes_nobody_wait_longer() {
        let (noon, hour) = (40_000 * SECOND, 3600 * SECOND);
        let crashes = Crashes::next(None, noon, noon);
        assert!(crashes.waits(noon, noon + SECOND).is_some());
        assert_eq!(crashes.waits(noon, noon + SECOND + hour), None, "an hour ahead");
        assert_eq!(crashes.waits(noon, noon + SECOND - hour), None, "an hour back");
        let (_, left) = crashes.waits(noon, noon - SECOND).unwrap();
        assert_eq!(left, FIRST_WAIT, "a second back costs no more than a wait");
        assert_eq!(Crashes::next(Some(crashes), noon, noon - hour).wait, FIRST_WAIT * 2);
    }

    #[test]
    fn a_restart_of_the_kubelet_makes_nobody_unready() {
        let status = r#"{"containerStatuses": [
            {"name": "a", "containerID": "minik://1", "image": "", "imageID": "", "ready": true, "started": true,
             "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "containerID": "minik://2", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 1}}}]}"#;
        let found = Found::regained(&serde_json::from_str(status).unwrap());
        let ready = Found { startup: Some(true), readiness: Some(true), liveness: None };
        assert_eq!(found, BTreeMap::from([("1".to_owned(), ready)]));
        let later = Found { readiness: Some(false), ..Found::default() };
        assert_eq!(ready.then(later), Found { readiness: Some(false), ..ready });
    }

    #[test]
    fn durations_are_written_as_upstream_does() {
        let text = |seconds| go_duration(Duration::from_secs(seconds));
        assert_eq!([text(10), text(80), text(300), text(3661)], ["10s", "1m20s", "5m0s", "1h1m1s"]);
    }
}
