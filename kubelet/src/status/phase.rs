//! A Pod's phase.

use super::containers::Stated;
use crate::pod::{Kind, PodObject};

#[derive(Default)]
struct Counts {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    restarting: usize,
}

/// The phase; `is_terminal` when nothing will be started again whatever the policy says.
pub fn phase(pod: &PodObject, statuses: &[Stated], is_terminal: bool) -> &'static str {
    let (mut pending, mut failed) = (false, false);
    for one in statuses.iter().filter(|one| one.kind == Kind::Init) {
        let state = one.status.state.clone().unwrap_or_default();
        let ended = state.terminated.or_else(|| {
            // A wait after a failure.
            one.status
                .last_state
                .clone()
                .and_then(|last| last.terminated)
                .filter(|ended| ended.exit_code != 0)
        });
        match ended {
            Some(ended) if ended.exit_code == 0 => {}
            Some(_) if !one.restarts => failed = true,
            _ => pending = true,
        }
    }
    // A sidecar that has not started holds up those after it.
    let any_main = statuses.iter().any(|one| one.kind == Kind::Main && has_begun(one));
    pending |=
        statuses.iter().any(|one| one.kind == Kind::Sidecar && !any_main && one.status.started != Some(true));
    if failed {
        return "Failed";
    }
    if pending {
        return if is_terminal { "Failed" } else { "Pending" };
    }
    of_mains(pod, &count(statuses), is_terminal)
}

fn has_begun(one: &Stated) -> bool {
    let state = one.status.state.clone().unwrap_or_default();
    let last = one.status.last_state.clone().unwrap_or_default();
    state.running.is_some() || state.terminated.is_some() || last.terminated.is_some()
}

fn count(statuses: &[Stated]) -> Counts {
    let mut counts = Counts::default();
    for one in statuses.iter().filter(|one| one.kind == Kind::Main) {
        let state = one.status.state.clone().unwrap_or_default();
        let last = one.status.last_state.clone().unwrap_or_default();
        if state.running.is_some() {
            counts.running += 1;
        } else if let Some(ended) = state.terminated {
            counts.stopped += 1;
            counts.succeeded += usize::from(ended.exit_code == 0);
            counts.restarting += usize::from(one.restarts);
        } else if last.terminated.is_some() {
            counts.stopped += 1;
            counts.restarting += 1;
        } else {
            counts.waiting += 1;
        }
    }
    counts
}

fn of_mains(pod: &PodObject, counts: &Counts, is_terminal: bool) -> &'static str {
    if is_terminal && counts.running == 0 {
        let all_succeeded = counts.stopped == counts.succeeded && counts.waiting == 0 && counts.stopped > 0;
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    match counts {
        Counts { waiting: 1.., .. } => "Pending",
        Counts { running: 1.., .. } => "Running",
        Counts { stopped: 1.., restarting: 1.., .. } => "Running",
        Counts { stopped, succeeded, .. } if *stopped > 0 && stopped == succeeded => "Succeeded",
        Counts { stopped: 1.., .. } if pod.restart_policy() == "Always" && counts.restarting > 0 => "Running",
        Counts { stopped: 1.., .. } => "Failed",
        _ => "Pending",
    }
}
