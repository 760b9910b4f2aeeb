//! Leader election and events against an apiserver in memory, on a paused clock.

use crate::fake::{Answer, Fake, status};
use minik_client::{Elector, ElectorConfig, EventApi, EventRecorder, EventType, Led, ObjectRef, Reporter};
use minik_component::{SeededChance, Shutdown, SystemClock};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A server that keeps one Lease, with a switch that makes it fail.
fn lease_server(lease: Arc<Mutex<Option<Value>>>, broken: Arc<Mutex<bool>>) -> Fake {
    Fake::new(move |method, _, body| {
        if *broken.lock().unwrap() {
            return status(500, "InternalError");
        }
        let mut lease = lease.lock().unwrap();
        match (method, lease.clone()) {
            ("GET", Some(lease)) => Answer::Json(200, lease),
            ("GET", None) => status(404, "NotFound"),
            _ => {
                *lease = Some(body.clone());
                Answer::Json(200, body.clone())
            }
        }
    })
}

fn elector(fake: &Fake, identity: &str) -> Elector {
    let config = ElectorConfig::new("kube-system", "kube-scheduler", identity.to_owned());
    Elector::new(config, fake.client(), Arc::new(SystemClock::default()), Arc::new(SeededChance::new(4)))
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_follows_when_the_lease_is_given_back() {
    let lease = Arc::new(Mutex::new(None));
    let fake = lease_server(lease.clone(), Arc::default());
    let (first, second) = (Shutdown::new(), Shutdown::new());
    let leading =
        tokio::spawn(elector(&fake, "a").lead(first.clone(), |term| async move { term.requested().await }));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"], json!("a"));
    let started = Instant::now();
    let following = tokio::spawn(elector(&fake, "b").lead(second.clone(), |_| async { Instant::now() }));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!following.is_finished(), "the first renews, so the second must wait");
    first.request();
    assert_eq!(leading.await.unwrap(), Led::Done(()));
    let Led::Done(led) = following.await.unwrap() else { panic!("the second must lead") };
    assert!(led - started < Duration::from_secs(66), "a lease that was given back is taken at the next try");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_taken_over() {
    let held = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "kube-scheduler", "resourceVersion": "3"},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 15, "leaseTransitions": 2, "strategy": "kept"}});
    let lease = Arc::new(Mutex::new(Some(held)));
    let fake = lease_server(lease.clone(), Arc::default());
    let started = Instant::now();
    let led = elector(&fake, "b").lead(Shutdown::new(), |_| async { Instant::now() }).await;
    let Led::Done(at) = led else { panic!("it must lead") };
    let waited = (at - started).as_secs();
    assert!((15..22).contains(&waited), "{waited} s");
    let spec = lease.lock().unwrap().clone().unwrap()["spec"].clone();
    assert_eq!((&spec["leaseTransitions"], &spec["strategy"]), (&json!(3), &json!("kept")));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ends_its_work() {
    let broken = Arc::new(Mutex::new(false));
    let fake = lease_server(Arc::default(), broken.clone());
    let started = Instant::now();
    let led = elector(&fake, "a").lead(Shutdown::new(), |term| async move {
        *broken.lock().unwrap() = true;
        term.requested().await;
    });
    assert_eq!(led.await, Led::Lost);
    let waited = started.elapsed().as_secs();
    assert!((10..13).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn events_are_written_in_order_and_repeats_are_patched() {
    let fake = Fake::new(|_, _, body| Answer::Json(201, body.clone()));
    let reporter =
        Reporter { component: "default-scheduler".into(), instance: "x".into(), api: EventApi::Events };
    let (recorder, writer) =
        EventRecorder::new(reporter, Arc::new(SystemClock::default()), Arc::new(SeededChance::new(1)));
    let about = ObjectRef {
        kind: "Pod".into(),
        namespace: "s".into(),
        name: "p".into(),
        uid: "u".into(),
        ..Default::default()
    };
    recorder.event(&about, EventType::Warning, "FailedScheduling", "Scheduling", "0/1 nodes");
    recorder.event(&about, EventType::Warning, "FailedScheduling", "Scheduling", "0/2 nodes");
    recorder.event(&about, EventType::Normal, "Scheduled", "Binding", "done");
    drop(recorder);
    writer.run(fake.client(), Shutdown::new()).await;
    let asked = fake.asked.lock().unwrap();
    let calls: Vec<_> =
        asked.iter().map(|(method, _, body)| (method.as_str(), body["reason"].clone())).collect();
    assert_eq!(
        calls,
        [("POST", json!("FailedScheduling")), ("PATCH", Value::Null), ("POST", json!("Scheduled"))]
    );
    assert_eq!(asked[1].2["series"]["count"], json!(2));
    assert_eq!(asked[0].2["regarding"], json!({"kind": "Pod", "namespace": "s", "name": "p", "uid": "u"}));
    let time = asked[0].2["eventTime"].as_str().unwrap();
    assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{time}");
}
