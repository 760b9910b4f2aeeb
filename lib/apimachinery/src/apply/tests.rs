use super::*;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        ty: crate::facts::kind("v1", "ConfigMap").unwrap(),
        api_version: "v1",
        subresource: "",
        manager,
        now: NOW.parse().unwrap(),
        filter: FieldFilter::None,
        versions: &OneVersion,
    }
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": data})
}

fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| format!("{} {}", entry["manager"].as_str().unwrap(), entry["fieldsV1"]))
        .collect()
}

#[test]
fn a_plain_writer_owns_what_it_changes() {
    let mut created = config(json!({"a": "1", "b": "1"}));
    writer("one").update(None, &mut created);
    assert_eq!(owners(&created), [r#"one {"f:data":{".":{},"f:a":{},"f:b":{}}}"#]);
    let mut changed = config(json!({"a": "2", "c": "1"}));
    writer("two").update(Some(&created), &mut changed);
    assert_eq!(owners(&changed), [r#"one {"f:data":{}}"#, r#"two {"f:data":{"f:a":{},"f:c":{}}}"#]);
    for forgotten in [json!([{}]), json!([])] {
        let mut reset = changed.clone();
        reset["metadata"]["managedFields"] = forgotten;
        writer("three").update(Some(&changed), &mut reset);
        assert_eq!(reset["metadata"].get("managedFields"), None);
    }
}

#[test]
fn an_applier_meets_plain_writers() {
    let mut created = config(json!({"a": "1"}));
    writer("one").update(None, &mut created);
    let wanted = config(json!({"a": "2"}));
    let error = writer("two").apply(Some(&created), &wanted, false).unwrap_err();
    let message = r#"Apply failed with 1 conflict: conflict with "one" using v1: .data.a"#;
    let causes = vec![Cause { message: r#"conflict with "one" using v1"#.into(), field: ".data.a".into() }];
    assert_eq!(error, ApplyError::Conflict { message: message.into(), causes });
    let forced = writer("two").apply(Some(&created), &wanted, true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2"}));
    assert_eq!(owners(&forced), [r#"two {"f:data":{"f:a":{}}}"#, r#"one {"f:data":{}}"#]);
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let live = config(json!({"a": "1"}));
    let applied = writer("two").apply(Some(&live), &config(json!({"b": "1"})), false).unwrap();
    assert_eq!(
        owners(&applied),
        [r#"two {"f:data":{"f:b":{}}}"#, r#"before-first-apply {"f:data":{".":{},"f:a":{}}}"#]
    );
}

#[test]
fn kubectl_moves_on_from_client_side_apply() {
    let mut live = config(json!({"a": "1", "b": "1"}));
    let last = config(json!({"a": "1"})).to_string();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    writer("kubectl-client-side-apply").update(None, &mut live);
    let wanted = config(json!({"a": "2"}));
    assert!(matches!(writer("other").apply(Some(&live), &wanted, false), Err(ApplyError::Conflict { .. })));
    let applied = writer("kubectl").apply(Some(&live), &wanted, false).unwrap();
    assert_eq!(applied["data"]["a"], "2");
    assert_eq!(applied["metadata"]["annotations"][LAST_APPLIED], format!("{wanted}\n"));
    assert!(writer("kubectl").apply(Some(&live), &config(json!({"b": "2"})), false).is_err());
}

#[test]
fn too_many_plain_writers_are_put_together() {
    let mut live = config(json!({}));
    for at in 0..14 {
        let name = format!("w{at:02}");
        let mut new = live.clone();
        new["data"][format!("k{at}")] = "v".into();
        let now = format!("2026-01-01T00:00:{at:02}Z").parse().unwrap();
        let before = (at > 0).then_some(&live);
        Writer { now, ..writer(&name) }.update(before, &mut new);
        live = new;
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), 10);
    assert_eq!(
        owners[0],
        r#"ancient-changes {"f:data":{".":{},"f:k0":{},"f:k1":{},"f:k2":{},"f:k3":{},"f:k4":{}}}"#
    );
}

#[test]
fn times_stay_when_nothing_changes() {
    let wanted = config(json!({"a": "1"}));
    let first = writer("one").apply(None, &wanted, false).unwrap();
    let later = Writer { now: "2026-01-02T00:00:00Z".parse().unwrap(), ..writer("one") };
    let mut again = later.apply(Some(&first), &wanted, false).unwrap();
    assert_ne!(again, first);
    keep_times_if_unchanged(&mut again, &first);
    assert_eq!(again, first);
    let mut more = later.apply(Some(&first), &config(json!({"a": "2"})), false).unwrap();
    keep_times_if_unchanged(&mut more, &first);
    assert_eq!(more["metadata"]["managedFields"][0]["time"], "2026-01-02T00:00:00Z");
}

#[test]
fn what_is_no_object_of_the_type_is_refused() {
    let live = config(json!({}));
    let check = |config: Value, want: &str| {
        let error = writer("one").apply(Some(&live), &config, false).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check(json!({"apiVersion": "v2", "kind": "ConfigMap"}), "incorrect version");
    check(json!({"apiVersion": "v1", "metadata": {"managedFields": []}}), "managedFields must be nil");
    check(json!({"apiVersion": "v1", "zz": 1}), ".zz: field not declared in schema");
    check(json!({"apiVersion": "v1", "data": {"a": 1}}), ".data.a: expected a string");
    check(json!({"apiVersion": "v1", "data": []}), ".data: expected a map");
}

fn gates(manager: &str, live: Option<&Value>, names: Option<Value>) -> Value {
    let mut config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"},
        "spec": {"containers": [{"name": "c"}]}});
    if let Some(names) = names {
        config["spec"]["schedulingGates"] = names;
    }
    let ty = crate::facts::kind("v1", "Pod").unwrap();
    Writer { ty, ..writer(manager) }.apply(live, &config, true).unwrap()
}

#[test]
fn what_others_own_of_a_list_stays() {
    let one = gates("a", None, Some(json!([{}])));
    let two = gates("b", Some(&one), Some(json!([{"name": "x/y"}])));
    assert_eq!(two["spec"]["schedulingGates"], json!([{"name": ""}, {"name": "x/y"}]));
    let three = gates("b", Some(&two), None);
    assert_eq!(three["spec"]["schedulingGates"], json!([{"name": ""}]));
}
