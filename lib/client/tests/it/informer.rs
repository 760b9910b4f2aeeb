//! Informers against an apiserver in memory.

use crate::fake::{Answer, Fake, status};
use minik_client::{Change, Informer, ObjectKey, PartialObject, Source};
use minik_component::{SeededChance, Shutdown};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn pod(name: &str, revision: u64) -> Value {
    json!({"metadata": {"namespace": "s", "name": name, "uid": format!("uid-{name}"), "resourceVersion": revision.to_string()}})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(revision: u64) -> Value {
    event(
        "BOOKMARK",
        json!({"metadata": {"resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}),
    )
}

/// Runs an informer until it has told `changes` changes; gives what was told and asked.
async fn told(fake: Fake, changes: usize) -> (Vec<String>, Vec<String>) {
    let (log, enough) = (Arc::new(Mutex::new(Vec::new())), Arc::new(tokio::sync::Notify::new()));
    let builder = Informer::<PartialObject>::builder(Source::all("/api/v1/pods")).on_change({
        let (log, enough) = (log.clone(), enough.clone());
        move |change| {
            let text = match change {
                Change::Added(object) => format!("+{}", object.metadata.name),
                Change::Updated { old, new } => {
                    format!(
                        "{}:{}>{}",
                        new.metadata.name, old.metadata.resource_version, new.metadata.resource_version
                    )
                }
                Change::Deleted(object) => format!("-{}", object.metadata.name),
            };
            let mut log = log.lock().unwrap();
            log.push(text);
            if log.len() == changes {
                enough.notify_one();
            }
        }
    });
    let shutdown = Shutdown::new();
    let informer = builder.informer();
    let running = tokio::spawn(builder.run(fake.client(), Arc::new(SeededChance::new(1)), shutdown.clone()));
    informer.synced().await;
    enough.notified().await;
    shutdown.request();
    running.await.unwrap();
    let asked = fake.asked.lock().unwrap().iter().map(|(_, uri, _)| uri.clone()).collect();
    let log = log.lock().unwrap().clone();
    (log, asked)
}

#[tokio::test(start_paused = true)]
async fn initial_events_fill_the_store_in_one_call() {
    let fake = Fake::new(|_, _, _| {
        let events = vec![
            event("ADDED", pod("a", 1)),
            event("ADDED", pod("b", 2)),
            bookmark(5),
            event("MODIFIED", pod("a", 6)),
            event("DELETED", pod("b", 7)),
        ];
        Answer::Watch(events, true)
    });
    let (log, asked) = told(fake, 4).await;
    assert_eq!(log, ["+a", "+b", "a:1>6", "-b"]);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_initial_events_is_listed_in_pages() {
    let fake = Fake::new(|_, uri, _| match uri {
        uri if uri.contains("sendInitialEvents") => status(422, "Invalid"),
        uri if uri.contains("watch=true") => {
            assert!(uri.contains("resourceVersion=9"), "{uri}");
            Answer::Watch(vec![event("DELETED", pod("a", 10))], true)
        }
        uri if uri.contains("continue=more") => {
            Answer::Json(200, json!({"metadata": {"resourceVersion": "9"}, "items": [pod("b", 2)]}))
        }
        _ => Answer::Json(
            200,
            json!({"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [pod("a", 1)]}),
        ),
    });
    let (log, _) = told(fake, 3).await;
    assert_eq!(log, ["+a", "+b", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_gone_is_made_up_by_differences() {
    let round = AtomicUsize::new(0);
    let fake = Fake::new(move |_, uri, _| match round.fetch_add(1, Ordering::SeqCst) {
        0 => {
            Answer::Watch(vec![event("ADDED", pod("a", 1)), event("ADDED", pod("b", 2)), bookmark(5)], false)
        }
        1 => {
            assert!(uri.contains("resourceVersion=5"), "{uri}");
            let gone = json!({"kind": "Status", "code": 410, "message": "too old"});
            Answer::Watch(vec![event("ERROR", gone)], false)
        }
        _ => Answer::Watch(vec![event("ADDED", pod("b", 8)), event("ADDED", pod("c", 9)), bookmark(9)], true),
    });
    let (log, asked) = told(fake, 5).await;
    assert_eq!(log, ["+a", "+b", "-a", "b:2>8", "+c"]);
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_yet_is_asked_again() {
    let round = AtomicUsize::new(0);
    let fake = Fake::new(move |_, _, _| match round.fetch_add(1, Ordering::SeqCst) {
        0..3 => status(503, "ServiceUnavailable"),
        _ => Answer::Watch(vec![event("ADDED", pod("a", 1)), bookmark(5)], true),
    });
    assert_eq!(told(fake, 1).await.0, ["+a"]);
}

#[test]
fn keys_sort_by_namespace_then_name() {
    let mut keys = [ObjectKey::new("b", "a"), ObjectKey::new("a", "z"), ObjectKey::cluster("n")];
    keys.sort();
    assert_eq!(keys.map(|key| key.to_string()), ["n", "a/z", "b/a"]);
}
