//! What a write does to the sets of all managers, and what an apply makes of the live object.

use super::managed::{Managed, Manager, Owned};
use super::path::{PathElement, Set};
use super::schema::{Schema, with_named_fields};
use super::walk::{self, Comparison};
use super::{FieldFilter, Versions};
use crate::facts::TypeId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// An object in a version.
#[derive(Clone, Copy)]
pub(super) struct Versioned<'a> {
    pub object: &'a Value,
    pub api_version: &'a str,
    pub ty: TypeId,
}

/// A field that somebody else owns with another value.
pub(super) type Conflicts = Vec<(Manager, Vec<PathElement>)>;

pub(super) struct Updater<'a> {
    pub filter: FieldFilter,
    pub versions: &'a dyn Versions,
}

impl Updater<'_> {
    /// Gives `writer` what it changed, and takes that from the others.
    pub fn update(
        &self,
        old: Versioned<'_>,
        new: &Value,
        managed: &mut Managed,
        writer: &Manager,
        now: &str,
    ) {
        let compared = self.compare(old, new);
        // Of a plain write's own entry the same is taken and then given back.
        self.take(old, new, &compared, managed, None);
        let mut set = strip(compared.written());
        if set.is_empty() {
            return;
        }
        if let Some(own) = managed.0.get(writer) {
            set.add(&own.set);
        }
        let owned = Owned { api_version: old.api_version.to_owned(), set, time: Some(now.to_owned()) };
        managed.0.insert(writer.clone(), owned);
    }

    /// What `config` makes of the live object; `None` when nothing changes.
    ///
    /// # Errors
    /// The fields that others own, unless `force`.
    pub fn apply(
        &self,
        live: Versioned<'_>,
        config: &Value,
        managed: &mut Managed,
        applier: &Manager,
        force: bool,
    ) -> Result<Option<Value>, Conflicts> {
        let schema = Schema::of_type(live.ty);
        let merged = walk::merge(live.object, config, schema);
        let last = managed.0.remove(applier);
        let set = self.filter.keep(walk::field_set(config, schema));
        let time = last.as_ref().and_then(|last| last.time.clone());
        managed.0.insert(applier.clone(), Owned { api_version: live.api_version.to_owned(), set, time });
        let new = match &last {
            Some(last) if !last.set.is_empty() => {
                self.prune(Versioned { object: &merged, ..live }, managed, last).unwrap_or(merged)
            }
            _ => merged,
        };
        let compared = self.compare(live, &new);
        let conflicts = self.conflicts(live, &new, &compared, managed, applier);
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        self.take(live, &new, &compared, managed, Some(applier));
        if let Some(own) = managed.0.get_mut(applier) {
            own.set = strip(std::mem::take(&mut own.set));
            if own.set.is_empty() {
                managed.0.remove(applier);
            }
        }
        Ok((!walk::equal(live.object, &new)).then_some(new))
    }

    /// What became of the fields that the endpoint does not ignore; who owns them is none of them.
    fn compare(&self, old: Versioned<'_>, new: &Value) -> Comparison {
        let mut compared = walk::compare(old.object, new, Schema::of_type(old.ty));
        compared.removed.cut(&["metadata", "managedFields"]);
        compared.map(|set| self.filter.keep(set))
    }

    /// The comparison in the other versions that managers' sets are in; `None` for those that are not served any more.
    fn compared_in_others(
        &self,
        old: Versioned<'_>,
        new: &Value,
        managed: &Managed,
    ) -> BTreeMap<String, Option<Comparison>> {
        let mut all = BTreeMap::new();
        for version in managed.0.values().map(|owned| &owned.api_version) {
            if version == old.api_version || all.contains_key(version) {
                continue;
            }
            let there = |object: &Value| self.versions.convert(object, old.api_version, version);
            let compared = there(old.object).zip(there(new)).map(|((old, ty), (new, _))| {
                self.compare(Versioned { object: &old, api_version: version, ty }, &new)
            });
            all.insert(version.clone(), compared);
        }
        all
    }

    fn conflicts(
        &self,
        old: Versioned<'_>,
        new: &Value,
        compared: &Comparison,
        managed: &Managed,
        writer: &Manager,
    ) -> Conflicts {
        let others = self.compared_in_others(old, new, managed);
        let mut conflicts = Vec::new();
        for (manager, owned) in managed.0.iter().filter(|(manager, _)| *manager != writer) {
            if let Some(compared) = in_version(&owned.api_version, old, compared, &others) {
                let paths = owned.set.intersection(&compared.clone().written()).paths();
                conflicts.extend(paths.into_iter().map(|path| (manager.clone(), path)));
            }
        }
        conflicts
    }

    /// Takes what was written or removed from everybody but `writer`.
    fn take(
        &self,
        old: Versioned<'_>,
        new: &Value,
        compared: &Comparison,
        managed: &mut Managed,
        writer: Option<&Manager>,
    ) {
        let others = self.compared_in_others(old, new, managed);
        managed.0.retain(|manager, owned| {
            if Some(manager) == writer {
                return true;
            }
            let Some(compared) = in_version(&owned.api_version, old, compared, &others) else { return false };
            compared.take_from(&mut owned.set);
            !owned.set.is_empty()
        });
    }

    /// Removes what the applier applied the last time and does not apply now, unless somebody else owns it.
    fn prune(&self, merged: Versioned<'_>, managed: &Managed, last: &Owned) -> Option<Value> {
        if last.api_version == merged.api_version {
            return Some(self.prune_in_version(merged, managed, last));
        }
        let (there, ty) = self.versions.convert(merged.object, merged.api_version, &last.api_version)?;
        let there = Versioned { object: &there, api_version: &last.api_version, ty };
        let pruned = self.prune_in_version(there, managed, last);
        let (back, _) = self.versions.convert(&pruned, &last.api_version, merged.api_version)?;
        Some(back)
    }

    fn prune_in_version(&self, merged: Versioned<'_>, managed: &Managed, last: &Owned) -> Value {
        let schema = Schema::of_type(merged.ty);
        let named = |set: &Set| with_named_fields(set, schema);
        let set_of = |object: &Value| named(&walk::field_set(object, schema));
        let pruned = walk::remove(merged.object, &named(&last.set), schema);
        let pruned = self.with_owned_items(merged, pruned, managed);
        let gone = set_of(merged.object).difference(&set_of(&pruned)).intersection(&named(&last.set));
        walk::remove(merged.object, &gone, schema)
    }

    /// Adds back what was pruned but is owned by anybody, the applier's new set included.
    fn with_owned_items(&self, merged: Versioned<'_>, pruned: Value, managed: &Managed) -> Value {
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for owned in managed.0.values() {
            by_version.entry(&owned.api_version).or_default().add(&owned.set);
        }
        let own = by_version.remove(merged.api_version);
        let mut pruned = match own {
            Some(set) => add_back(merged.object, &pruned, &set, merged.ty),
            None => pruned,
        };
        for (version, set) in by_version {
            let there = |object: &Value| self.versions.convert(object, merged.api_version, version);
            if let Some(((full, ty), (less, _))) = there(merged.object).zip(there(&pruned))
                && let Some((back, _)) =
                    self.versions.convert(&add_back(&full, &less, &set, ty), version, merged.api_version)
            {
                pruned = back;
            }
        }
        pruned
    }
}

/// The comparison in a version.
fn in_version<'a>(
    version: &str,
    old: Versioned<'_>,
    compared: &'a Comparison,
    others: &'a BTreeMap<String, Option<Comparison>>,
) -> Option<&'a Comparison> {
    if version == old.api_version { Some(compared) } else { others.get(version)?.as_ref() }
}

fn add_back(merged: &Value, pruned: &Value, owned: &Set, ty: TypeId) -> Value {
    let schema = Schema::of_type(ty);
    let named = |set: &Set| with_named_fields(set, schema);
    let set_of = |object: &Value| named(&walk::field_set(object, schema));
    let kept = set_of(pruned).union(&named(owned));
    walk::remove(merged, &set_of(merged).difference(&kept), schema)
}

/// What nobody owns: identity and the system's own metadata.
const NOBODYS: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

fn strip(mut set: Set) -> Set {
    static NOBODYS_SET: LazyLock<Set> = LazyLock::new(|| {
        let mut nobodys = Set::default();
        for path in NOBODYS {
            let path: Vec<_> = path.iter().map(|step| PathElement::Field((*step).to_owned())).collect();
            nobodys.insert(&path);
        }
        nobodys
    });
    set.subtract(&NOBODYS_SET);
    set
}
