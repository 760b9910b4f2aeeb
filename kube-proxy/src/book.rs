//! What the kernel is to know: the sum of all Services' entries, and what a change of one Service changes.

use crate::rules::{Endpoint, Entry, Frontend, List, Value};
use minik_client::ObjectKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An entry that is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub entry: Entry,
    /// As it was; none if it was not there.
    pub old: Option<Value>,
    /// As it is to be; none if it is to go.
    pub new: Option<Value>,
}

/// Who says what about an entry. Mostly one; where several do (an external address of two Services, an endpoint of two),
/// the first by namespace and name has its way.
#[derive(Debug)]
enum Claim {
    One(Arc<ObjectKey>, Value),
    Many(BTreeMap<Arc<ObjectKey>, Value>),
}

impl Claim {
    fn value(&self) -> Option<Value> {
        match self {
            Claim::One(_, value) => Some(*value),
            Claim::Many(all) => all.values().next().copied(),
        }
    }

    fn owned_by(&self, owner: &ObjectKey) -> bool {
        match self {
            Claim::One(one, _) => **one == *owner,
            Claim::Many(all) => all.keys().next().is_some_and(|first| **first == *owner),
        }
    }
}

/// All entries, by who wants them.
#[derive(Debug, Default)]
pub struct Book {
    owned: HashMap<Arc<ObjectKey>, Vec<Entry>>,
    claims: HashMap<Entry, Claim>,
}

impl Book {
    /// Sets what `owner` wants: all of it, sorted and without doubles. Returns what that changes.
    pub fn set(&mut self, owner: &ObjectKey, wanted: Vec<(Entry, Value)>) -> Vec<Change> {
        let (owner, before) = match self.owned.remove_entry(owner) {
            Some(known) => known,
            None => (Arc::new(owner.clone()), Vec::new()),
        };
        let mut changes = Vec::new();
        let kept: Vec<Entry> = wanted.iter().map(|(entry, _)| *entry).collect();
        for entry in before {
            if kept.binary_search(&entry).is_err() {
                self.one(&mut changes, entry, &owner, None);
            }
        }
        for (entry, value) in wanted {
            self.one(&mut changes, entry, &owner, Some(value));
        }
        if !kept.is_empty() {
            self.owned.insert(owner, kept);
        }
        changes
    }

    fn one(&mut self, changes: &mut Vec<Change>, entry: Entry, owner: &Arc<ObjectKey>, value: Option<Value>) {
        let claim = self.claims.remove(&entry);
        let old = claim.as_ref().and_then(Claim::value);
        let claim = match (claim, value) {
            (None, None) => None,
            (Some(Claim::One(one, _)), None) if one == *owner => None,
            (None, Some(value)) => Some(Claim::One(owner.clone(), value)),
            (Some(Claim::One(one, _)), Some(value)) if one == *owner => Some(Claim::One(one, value)),
            (Some(other @ Claim::One(..)), None) => Some(other),
            (Some(Claim::One(one, theirs)), Some(value)) => {
                Some(Claim::Many(BTreeMap::from([(one, theirs), (owner.clone(), value)])))
            }
            (Some(Claim::Many(mut all)), value) => {
                match value {
                    Some(value) => all.insert(owner.clone(), value),
                    None => all.remove(owner),
                };
                Some(match all.len() {
                    1 => all.pop_first().map_or(Claim::Many(all), |(one, value)| Claim::One(one, value)),
                    _ => Claim::Many(all),
                })
            }
        };
        let new = claim.as_ref().and_then(Claim::value);
        if let Some(claim) = claim {
            self.claims.insert(entry, claim);
        }
        if old != new {
            changes.push(Change { entry, old, new });
        }
    }

    /// What is said about an entry.
    pub fn get(&self, entry: &Entry) -> Option<Value> {
        self.claims.get(entry).and_then(Claim::value)
    }

    /// The endpoint in a place of one of `owner`'s frontends.
    pub fn slot(&self, owner: &ObjectKey, frontend: Frontend, list: List, slot: u16) -> Option<Endpoint> {
        let claim = self.claims.get(&Entry::Slot(frontend, list, slot))?;
        match claim.value()? {
            Value::Endpoint(endpoint) if claim.owned_by(owner) => Some(endpoint),
            _ => None,
        }
    }

    /// Whether a frontend sends to an endpoint.
    pub fn sends_to(&self, frontend: Frontend, endpoint: Endpoint) -> bool {
        [List::Own, List::Everywhere].into_iter().any(|list| {
            let slots = (0..).map_while(|slot| self.get(&Entry::Slot(frontend, list, slot)));
            slots.into_iter().any(|value| value == Value::Endpoint(endpoint))
        })
    }

    /// Everyone that wants something.
    pub fn owners(&self) -> Vec<ObjectKey> {
        self.owned.keys().map(|owner| (**owner).clone()).collect()
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, Value)> {
        self.claims.iter().filter_map(|(entry, claim)| Some((*entry, claim.value()?)))
    }

    /// What makes `there` this.
    pub fn difference(&self, there: &HashMap<Entry, Value>) -> Vec<Change> {
        let wanted = self.entries().filter_map(|(entry, value)| {
            let old = there.get(&entry).copied();
            (old != Some(value)).then_some(Change { entry, old, new: Some(value) })
        });
        let gone = there.iter().filter(|(entry, _)| !self.claims.contains_key(entry));
        let gone = gone.map(|(entry, old)| Change { entry: *entry, old: Some(*old), new: None });
        wanted.chain(gone).collect()
    }
}
