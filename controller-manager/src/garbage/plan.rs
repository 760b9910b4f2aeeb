//! What becomes of an object, by its owners. Pure.

use super::graph::{FOREGROUND, ORPHAN, Uid, View};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// An object's metadata as the server has it now.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Its identity in time.
    pub uid: String,
    /// Its revision.
    pub resource_version: String,
    /// Whether its deletion was asked for.
    pub leaving: bool,
    /// What must happen before it goes.
    pub finalizers: Vec<String>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
}

/// An owner as the server has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// It is not, or another bears its name.
    Absent,
    /// It is there and waits for its dependents to go.
    Waiting,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing, and why.
    Nothing(&'static str),
    /// Take a finalizer away.
    RemoveFinalizer(&'static str),
    /// Look at these first.
    Attempt(Vec<Uid>),
    /// Keep these owners only.
    KeepOwners(Vec<OwnerReference>),
    /// Delete it by this policy.
    Delete {
        /// `Background`, `Foreground` or `Orphan`.
        policy: &'static str,
        /// These owners first, which it shall hold up no longer: they wait for each other.
        unblock: Option<Vec<OwnerReference>>,
    },
}

/// For an object that waits for its dependents.
pub fn waiting(view: &View, live: &Live) -> Plan {
    let blocking: Vec<_> = view.dependents.iter().filter(|one| one.blocks).collect();
    if blocking.is_empty() {
        return match live.finalizers.iter().any(|one| one == FOREGROUND) {
            true => Plan::RemoveFinalizer(FOREGROUND),
            false => Plan::Nothing("it waits no longer"),
        };
    }
    let attempt: Vec<Uid> =
        blocking.iter().filter(|one| !one.waiting).map(|one| one.identity.uid.clone()).collect();
    match () {
        () if !attempt.is_empty() => Plan::Attempt(attempt),
        // All were asked to go last: none would ever go. This one no longer holds up the next.
        () if view.circle && live.owners.iter().any(blocks) => Plan::KeepOwners(unblocked(live)),
        () => Plan::Nothing("its dependents wait for theirs"),
    }
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

/// The owners of an object that holds up none of them.
fn unblocked(live: &Live) -> Vec<OwnerReference> {
    let open = |owner| OwnerReference { block_owner_deletion: Some(false), ..owner };
    live.owners.iter().cloned().map(open).collect()
}

/// For an object with owners; `owners` are those of `live`, in order.
pub fn owned(view: &View, live: &Live, owners: &[Owner]) -> Plan {
    if live.owners.is_empty() {
        return Plan::Nothing("it has no owner");
    }
    let of = |wanted: Owner| owners.contains(&wanted);
    if of(Owner::Solid) {
        if owners.iter().all(|one| *one == Owner::Solid) {
            return Plan::Nothing("an owner is there");
        }
        let keep = live.owners.iter().zip(owners).filter(|(_, state)| **state == Owner::Solid);
        return Plan::KeepOwners(keep.map(|(owner, _)| owner.clone()).collect());
    }
    if of(Owner::Waiting) && !view.dependents.is_empty() {
        // A dependent that waits too may wait for this one's owner: a circle, which is opened here.
        let circle = view.dependents.iter().any(|one| one.waiting);
        return Plan::Delete { policy: "Foreground", unblock: circle.then(|| unblocked(live)) };
    }
    let has = |finalizer: &str| live.finalizers.iter().any(|one| one == finalizer);
    let policy = match () {
        () if has(ORPHAN) => "Orphan",
        () if has(FOREGROUND) => "Foreground",
        () => "Background",
    };
    Plan::Delete { policy, unblock: None }
}

#[cfg(test)]
mod tests {
    use super::super::graph::{Dependent, Identity};
    use super::*;

    fn view(dependents: &[(&str, bool, bool)]) -> View {
        let identity = |uid: &str| Identity {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: "s".into(),
            name: uid.into(),
            uid: uid.into(),
        };
        let dependents = dependents
            .iter()
            .map(|(uid, blocks, waiting)| Dependent {
                identity: identity(uid),
                blocks: *blocks,
                waiting: *waiting,
            })
            .collect();
        View {
            identity: identity("x"),
            is_virtual: false,
            leaving: false,
            waiting: false,
            circle: false,
            dependents,
        }
    }

    fn live(owners: usize, finalizers: &[&str]) -> Live {
        let owner = |index: usize| OwnerReference {
            uid: format!("o{index}"),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        Live {
            owners: (0..owners).map(owner).collect(),
            finalizers: finalizers.iter().map(|one| (*one).to_owned()).collect(),
            ..Live::default()
        }
    }

    fn check(dependents: &[(&str, bool, bool)], finalizers: &[&str], owners: &[Owner], wanted: &str) {
        let plan = match owned(&view(dependents), &live(owners.len(), finalizers), owners) {
            Plan::Nothing(why) => why.to_owned(),
            Plan::KeepOwners(owners) => {
                owners.iter().map(|one| one.uid.as_str()).collect::<Vec<_>>().join(",")
            }
            Plan::Delete { policy, unblock } => {
                format!("{policy}{}", if unblock.is_some() { " unblocked" } else { "" })
            }
            other => format!("{other:?}"),
        };
        assert_eq!(plan, wanted, "{dependents:?} {finalizers:?} {owners:?}");
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        use Owner::{Absent, Solid, Waiting};
        check(&[], &[], &[], "it has no owner");
        check(&[], &[], &[Solid], "an owner is there");
        check(&[], &[], &[Absent], "Background");
        check(&[], &[], &[Absent, Solid, Waiting], "o1");
        check(&[], &["orphan"], &[Absent], "Orphan");
        check(&[], &["foregroundDeletion"], &[Absent], "Foreground");
        check(&[], &[], &[Waiting], "Background");
        check(&[("d", true, false)], &[], &[Waiting], "Foreground");
        check(&[("d", true, true)], &[], &[Waiting, Absent], "Foreground unblocked");
        check(&[("d", true, true)], &[], &[Absent], "Background");
    }

    #[test]
    fn a_circle_of_objects_that_all_wait_is_opened() {
        let (held, chain) = (live(1, &["foregroundDeletion"]), view(&[("a", true, true)]));
        assert_eq!(waiting(&chain, &held), Plan::Nothing("its dependents wait for theirs"));
        let circle = View { circle: true, ..chain };
        let Plan::KeepOwners(owners) = waiting(&circle, &held) else { panic!("nothing opens it") };
        assert_eq!(owners[0].block_owner_deletion, Some(false));
        let opened = Live { owners, ..held };
        assert_eq!(waiting(&circle, &opened), Plan::Nothing("its dependents wait for theirs"));
    }

    #[test]
    fn an_object_that_waits_goes_when_nothing_blocks_it() {
        let held = live(0, &["foregroundDeletion"]);
        assert_eq!(waiting(&view(&[]), &held), Plan::RemoveFinalizer(FOREGROUND));
        assert_eq!(waiting(&view(&[("a", false, false)]), &held), Plan::RemoveFinalizer(FOREGROUND));
        assert_eq!(
            waiting(&view(&[("a", true, false), ("b", true, true)]), &held),
            Plan::Attempt(vec!["a".into()])
        );
        assert_eq!(
            waiting(&view(&[("b", true, true)]), &held),
            Plan::Nothing("its dependents wait for theirs")
        );
        assert_eq!(waiting(&view(&[]), &live(0, &[])), Plan::Nothing("it waits no longer"));
    }
}
