//! Which fields an endpoint ignores, so that nobody can own them through it.

use super::path::{PathElement, Set};

/// Which fields a writer cannot own through an endpoint, because the endpoint ignores what is written to them.
/// A path is a list of field names; `*` matches any step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldFilter {
    /// Nothing is ignored.
    None,
    /// These paths and all below are ignored.
    Exclude(&'static [&'static [&'static str]]),
    /// Everything but these paths, what is below them and what is on the way to them is ignored.
    IncludeOnly(&'static [&'static [&'static str]]),
}

impl FieldFilter {
    /// The part of a set that is not ignored.
    pub(super) fn keep(self, set: Set) -> Set {
        match self {
            FieldFilter::None => set,
            FieldFilter::Exclude(paths) => exclude(&set, paths),
            FieldFilter::IncludeOnly(paths) => include(&set, paths),
        }
    }
}

/// What is left of the paths that begin with this element.
fn rests<'a>(paths: &[&'a [&'static str]], element: &PathElement) -> Vec<&'a [&'static str]> {
    let fits = |step: &str| step == "*" || matches!(element, PathElement::Field(name) if name == step);
    paths
        .iter()
        .filter_map(|path| path.split_first().filter(|(step, _)| fits(step)).map(|(_, rest)| rest))
        .collect()
}

fn exclude(set: &Set, paths: &[&[&'static str]]) -> Set {
    let mut kept = Set::default();
    for (element, member, below) in set.steps() {
        let rests = rests(paths, element);
        if !rests.iter().any(|rest| rest.is_empty()) {
            kept.put(element.clone(), member, exclude(below, &rests));
        }
    }
    kept
}

fn include(set: &Set, paths: &[&[&'static str]]) -> Set {
    let mut kept = Set::default();
    for (element, member, below) in set.steps() {
        let rests = rests(paths, element);
        if rests.iter().any(|rest| rest.is_empty()) {
            kept.put(element.clone(), member, below.clone());
        } else if !rests.is_empty() {
            kept.put(element.clone(), member, include(below, &rests));
        }
    }
    kept
}
