//! What is deleted with its owners, and what is not.

use crate::{Running, Server};
use proptest::prelude::*;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/configmaps";
const SECRETS: &str = "/api/v1/secrets";

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": true, "controller": true})
}

fn object(name: &str, owners: &[Value]) -> Value {
    json!({"metadata": {"name": name, "namespace": "s", "ownerReferences": owners}})
}

fn map(name: &str) -> String {
    format!("/api/v1/namespaces/s/configmaps/{name}")
}

fn secret(name: &str) -> String {
    format!("/api/v1/namespaces/s/secrets/{name}")
}

/// An owner, what it owns, and what that owns; gives the owner's uid.
fn family(server: &Server) -> String {
    let uid = server.put(MAPS, object("owner", &[]));
    let child = server.put(SECRETS, object("child", &[owner("ConfigMap", "owner", &uid)]));
    server.put(MAPS, object("grandchild", &[owner("Secret", "child", &child)]));
    uid
}

#[tokio::test(start_paused = true)]
async fn in_the_background_an_owner_goes_first() {
    let running = Running::start(&[]);
    let server = &running.server;
    family(server);
    server.put(SECRETS, object("other", &[]));
    server.delete(&map("owner"), json!({"propagationPolicy": "Background"}));
    assert!(server.get(&map("owner")).is_none() && server.get(&secret("child")).is_some());
    server
        .until("all are gone", |server| {
            server.get(&secret("child")).is_none() && server.get(&map("grandchild")).is_none()
        })
        .await;
    assert!(server.get(&secret("other")).is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_an_owner_goes_last() {
    let running = Running::start(&[]);
    let server = &running.server;
    family(server);
    server.patch(&map("grandchild"), json!({"metadata": {"finalizers": ["x/y"]}}));
    server.delete(&map("owner"), json!({"propagationPolicy": "Foreground"}));
    let leaving =
        |server: &Server| !server.get(&map("grandchild")).unwrap()["metadata"]["deletionTimestamp"].is_null();
    server.until("the last in line is being deleted", leaving).await;
    assert!(server.get(&map("owner")).is_some() && server.get(&secret("child")).is_some(), "they wait");
    server.patch(&map("grandchild"), json!({"metadata": {"finalizers": null}}));
    server.until("the owner is gone", |server| server.get(&map("owner")).is_none()).await;
    assert!(server.get(&secret("child")).is_none());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_and_forget() {
    let running = Running::start(&[]);
    let server = &running.server;
    family(server);
    server.delete(&map("owner"), json!({"propagationPolicy": "Orphan"}));
    server.until("the owner is gone", |server| server.get(&map("owner")).is_none()).await;
    assert_eq!(server.get(&secret("child")).unwrap()["metadata"]["ownerReferences"], json!([]));
    assert!(server.get(&map("grandchild")).is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn owners_that_never_were_are_asked_for_by_uid() {
    let running = Running::start(&[]);
    let server = &running.server;
    let uid = server.put(MAPS, object("owner", &[]));
    server.put(SECRETS, object("lost", &[owner("ConfigMap", "nobody", "uid-none")]));
    server.put(SECRETS, object("another", &[owner("ConfigMap", "owner", "uid-of-before")]));
    server.put(
        SECRETS,
        object("half", &[owner("ConfigMap", "nobody", "uid-none"), owner("ConfigMap", "owner", &uid)]),
    );
    server.put(SECRETS, object("unknown", &[owner("Thing", "x", "uid-thing")]));
    server
        .until("what has no owner is gone", |server| {
            server.get(&secret("lost")).is_none() && server.get(&secret("another")).is_none()
        })
        .await;
    let owners = |server: &Server| {
        server.get(&secret("half")).unwrap()["metadata"]["ownerReferences"].as_array().unwrap().len()
    };
    server.until("an owner that is not there is forgotten", |server| owners(server) == 1).await;
    tokio::time::sleep(std::time::Duration::from_secs(3000)).await;
    assert!(server.get(&secret("unknown")).is_some(), "nobody can say whether its owner is there");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_circle_that_waits_is_opened() {
    let running = Running::start(&[]);
    let server = &running.server;
    server.put(MAPS, json!({"metadata": {"name": "a", "namespace": "s", "uid": "uid-a", "ownerReferences": [owner("Secret", "b", "uid-b")]}}));
    server.put(SECRETS, json!({"metadata": {"name": "b", "namespace": "s", "uid": "uid-b", "ownerReferences": [owner("ConfigMap", "a", "uid-a")]}}));
    server.delete(&map("a"), json!({"propagationPolicy": "Foreground"}));
    server
        .until("both are gone", |server| {
            server.get(&map("a")).is_none() && server.get(&secret("b")).is_none()
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_circle_whose_members_are_all_to_go_last_is_opened() {
    let member = |owners: &[usize], deleted| Member { owners: owners.to_vec(), deleted };
    raise(&[
        member(&[2], Some("Foreground")),
        member(&[0], Some("Foreground")),
        member(&[1], Some("Foreground")),
        member(&[0], None),
        member(&[], None),
        member(&[], None),
        member(&[], None),
    ])
    .await;
}

/// A member of a random family: its owners by number, and how its deletion is asked for, if it is.
#[derive(Debug, Clone)]
struct Member {
    owners: Vec<usize>,
    deleted: Option<&'static str>,
}

fn families() -> impl Strategy<Value = Vec<Member>> {
    let policy = prop_oneof![
        4 => Just(None),
        1 => Just(Some("Background")),
        1 => Just(Some("Foreground")),
        1 => Just(Some("Orphan")),
    ];
    // Owners may be older or younger: circles are allowed.
    let member = (proptest::collection::btree_set(0..7usize, 0..3), policy);
    proptest::collection::vec(member, 7).prop_map(|all| {
        let one = |(at, (owners, deleted)): (usize, (std::collections::BTreeSet<usize>, _))| Member {
            owners: owners.into_iter().filter(|owner| *owner != at).collect(),
            deleted,
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

/// Whether nothing is left to be done: none waits for its end, and each has an owner that is there, or none at all.
fn settled(server: &Server) -> bool {
    let there = |name: &str| server.get(&map(name)).is_some();
    (0..7).map(|at| format!("m{at}")).filter_map(|name| server.get(&map(&name))).all(|object| {
        let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let alive = owners.iter().filter(|owner| there(owner["name"].as_str().unwrap())).count();
        object["metadata"]["deletionTimestamp"].is_null() && (owners.is_empty() || alive == owners.len())
    })
}

async fn raise(family: &[Member]) {
    let running = Running::start(&[]);
    let server = &running.server;
    for (at, member) in family.iter().enumerate() {
        let owners: Vec<Value> = member
            .owners
            .iter()
            .map(|one| owner("ConfigMap", &format!("m{one}"), &format!("uid-m{one}")))
            .collect();
        server.put(MAPS, json!({"metadata": {"name": format!("m{at}"), "namespace": "s", "uid": format!("uid-m{at}"), "ownerReferences": owners}}));
    }
    for (at, member) in family.iter().enumerate() {
        if let Some(policy) = member.deleted {
            let path = map(&format!("m{at}"));
            if server.get(&path).is_some() {
                server.delete(&path, json!({"propagationPolicy": policy}));
            }
        }
    }
    server.until("all is settled", settled).await;
    let gone: Vec<bool> = (0..7).map(|at| server.get(&map(&format!("m{at}"))).is_none()).collect();
    for (at, member) in family.iter().enumerate() {
        if member.deleted.is_some() {
            assert!(gone[at], "m{at} was to be deleted");
        } else if gone[at] {
            let all_gone = !member.owners.is_empty() && member.owners.iter().all(|one| gone[*one]);
            assert!(all_gone, "m{at} is gone though an owner is there, or it has none");
            let orphaned = member.owners.iter().all(|one| family[*one].deleted == Some("Orphan"));
            assert!(!orphaned, "m{at} is gone though all its owners were to leave it");
        }
    }
    running.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whoever owns whom and whatever is deleted how: what was to go goes, and nothing goes that has an owner, or was
    /// to be left behind.
    #[test]
    fn families_end_as_they_should(family in families()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(raise(&family));
    }
}
