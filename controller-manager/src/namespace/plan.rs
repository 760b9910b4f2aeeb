//! What a sweep means: conditions, and what comes next. Pure.

use crate::objects::Condition;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The finalizer that is taken away when the namespace is empty.
pub const FINALIZER: &str = "kubernetes";

/// Other apiservers must have seen the deletion, and refuse new objects, before the last look. Timestamps are cut to
/// seconds, so that this is one to two seconds.
const SETTLE: Duration = Duration::from_secs(2);
/// How long whatever owns a finalizer is thought to take.
const FINALIZERS_TAKE: i64 = 15;

/// What a sweep has found.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// `group/version` of what could not be described.
    pub stale: Vec<String>,
    /// What went wrong, a sentence a resource.
    pub failures: Vec<String>,
    /// What is still there.
    pub remaining: Vec<Remaining>,
}

/// What is still there of one resource.
#[derive(Debug, Clone, Default)]
pub struct Remaining {
    /// `pods.`, `deployments.apps`.
    pub resource: String,
    /// How many.
    pub count: usize,
    /// How many bear each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// How long the slowest may take to end.
    pub grace_seconds: i64,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is empty: let it go.
    Finalize,
    /// Look again.
    Again {
        /// Then.
        after: Duration,
        /// What is waited for.
        reason: String,
    },
    /// Something went wrong: try again with growing waits.
    Failed {
        /// What.
        reason: String,
    },
}

impl Next {
    /// In words.
    pub fn reason(&self) -> &str {
        match self {
            Next::Finalize => "it is empty",
            Next::Again { reason, .. } | Next::Failed { reason } => reason,
        }
    }
}

/// Decides by what was found.
pub fn next(survey: &Survey, deleted_at: Timestamp, now: Timestamp) -> Next {
    if let Some(failure) = survey.failures.first() {
        return Next::Failed { reason: failure.clone() };
    }
    if !survey.stale.is_empty() {
        return Next::Failed { reason: format!("not described now: {}", survey.stale.join(", ")) };
    }
    if let Some(first) = survey.remaining.first() {
        let of = |one: &Remaining| match one.finalizers.is_empty() {
            true => one.grace_seconds,
            false => one.grace_seconds.max(FINALIZERS_TAKE),
        };
        let estimate = survey.remaining.iter().map(of).max().unwrap_or(0).clamp(0, 3600);
        let after = Duration::from_secs(estimate.unsigned_abs() / 2 + 1);
        return Next::Again { after, reason: format!("{} of {} remain", first.count, first.resource) };
    }
    let since = Duration::try_from(now.duration_since(deleted_at)).unwrap_or_default();
    match SETTLE.checked_sub(since).filter(|left| !left.is_zero()) {
        Some(after) => Next::Again { after, reason: "objects that were just made may still show".into() },
        None => Next::Finalize,
    }
}

/// The conditions to write, when they differ from those that stand; others that stand there are kept.
pub fn conditions(survey: &Survey, old: &[Condition], now: Timestamp) -> Option<Vec<Condition>> {
    let mut all = old.to_vec();
    for (kind, status, reason, message) in wanted(survey) {
        let at = all.iter().position(|one| &*one.kind == kind);
        let before = at.map(|at| all[at].clone()).unwrap_or_default();
        let same = &*before.status == status;
        let one = Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_transition_time: if same { before.last_transition_time } else { Some(now) },
            ..Condition::default()
        };
        match at {
            Some(at) => all[at] = one,
            None => all.push(one),
        }
    }
    (all != old).then_some(all)
}

type Wanted = (&'static str, &'static str, &'static str, Arc<str>);

fn wanted(survey: &Survey) -> [Wanted; 5] {
    let or = |kind, failed: Option<(&'static str, String)>, reason, fine: &str| match failed {
        Some((reason, message)) => (kind, "True", reason, message.into()),
        None => (kind, "False", reason, fine.into()),
    };
    let stale = (!survey.stale.is_empty()).then(|| {
        let words = survey.stale.iter().map(|one| format!("{one}: stale")).collect::<Vec<_>>().join(", ");
        let message = format!("Discovery failed for some groups, {} failing: {words}", survey.stale.len());
        ("DiscoveryFailed", message)
    });
    let failed = (!survey.failures.is_empty()).then(|| {
        let (count, words) = (survey.failures.len(), survey.failures.join(", "));
        ("ContentDeletionFailed", format!("Failed to delete all resource types, {count} remaining: {words}"))
    });
    let remain = (!survey.remaining.is_empty()).then(|| {
        let mut words: Vec<String> = survey
            .remaining
            .iter()
            .map(|one| format!("{} has {} resource instances", one.resource, one.count))
            .collect();
        words.sort();
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", words.join(", ")))
    });
    let mut finalizers = BTreeMap::<&str, usize>::new();
    for (finalizer, count) in survey.remaining.iter().flat_map(|one| &one.finalizers) {
        *finalizers.entry(finalizer).or_default() += count;
    }
    let held = (!finalizers.is_empty()).then(|| {
        let words: Vec<String> =
            finalizers.iter().map(|(one, count)| format!("{one} in {count} resource instances")).collect();
        let message = format!("Some content in the namespace has finalizers remaining: {}", words.join(", "));
        ("SomeFinalizersRemain", message)
    });
    [
        or(
            "NamespaceDeletionDiscoveryFailure",
            stale,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        or(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        or(
            "NamespaceDeletionContentFailure",
            failed,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        or("NamespaceContentRemaining", remain, "ContentRemoved", "All content successfully removed"),
        or(
            "NamespaceFinalizersRemaining",
            held,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn pods(count: usize, finalizers: &[(&str, usize)], grace_seconds: i64) -> Remaining {
        let finalizers = finalizers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Remaining { resource: "pods.".into(), count, finalizers, grace_seconds }
    }

    fn check(survey: &Survey, after: i64, wanted: &str) {
        let next = match next(survey, at(0), at(after)) {
            Next::Finalize => "finalize".to_owned(),
            Next::Again { after, .. } => format!("again {}", after.as_secs()),
            Next::Failed { reason } => format!("failed {reason}"),
        };
        assert_eq!(next, wanted, "{survey:?}");
    }

    #[test]
    fn a_namespace_goes_when_it_is_empty_and_settled() {
        check(&Survey::default(), 0, "again 2");
        check(&Survey::default(), 2, "finalize");
        check(&Survey { remaining: vec![pods(1, &[], 30)], ..Survey::default() }, 9, "again 16");
        check(&Survey { remaining: vec![pods(1, &[], 0)], ..Survey::default() }, 9, "again 1");
        check(&Survey { remaining: vec![pods(1, &[("x/y", 1)], 0)], ..Survey::default() }, 9, "again 8");
        check(&Survey { failures: vec!["no".into()], ..Survey::default() }, 9, "failed no");
        check(
            &Survey { stale: vec!["a/v1".into()], ..Survey::default() },
            9,
            "failed not described now: a/v1",
        );
    }

    #[test]
    fn conditions_tell_what_remains_and_keep_their_times() {
        let survey = Survey { remaining: vec![pods(2, &[("x/y", 1)], 30)], ..Survey::default() };
        let first = conditions(&survey, &[], at(0)).unwrap();
        let said: Vec<_> = first.iter().map(|one| (&*one.kind, &*one.status, &*one.message)).collect();
        insta::assert_debug_snapshot!(said);
        assert_eq!(conditions(&survey, &first, at(5)), None, "nothing new is not written");
        let survey = Survey { remaining: vec![pods(1, &[("x/y", 1)], 30)], ..Survey::default() };
        let second = conditions(&survey, &first, at(5)).unwrap();
        assert_eq!(second[3].last_transition_time, Some(at(0)), "its status is as before");
        let third = conditions(&Survey::default(), &second, at(9)).unwrap();
        assert_eq!((&*third[3].status, third[3].last_transition_time), ("False", Some(at(9))));
    }
}
