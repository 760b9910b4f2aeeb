use super::*;
use crate::facts;
use serde_json::json;

fn patched(form: PatchType, object: Value, patch: Value) -> Result<Value, PatchError> {
    let ty = facts::kind("v1", "Pod").unwrap();
    let (patch, _) = Patch::parse(form, patch.to_string().as_bytes(), Findings::Wanted)?;
    patch.apply(object, ty)
}

fn check(form: PatchType, object: Value, patch: Value, want: Value) {
    assert_eq!(patched(form, object, patch.clone()), Ok(want), "{patch}");
}

fn refused(form: PatchType, object: Value, patch: Value) -> &'static str {
    match patched(form, object, patch.clone()) {
        Err(PatchError::Malformed(_)) => "malformed",
        Err(PatchError::TooMany(_)) => "too many",
        Err(PatchError::Inapplicable(_)) => "inapplicable",
        Err(PatchError::Unmergeable(_)) => "unmergeable",
        Ok(value) => panic!("{patch} gave {value}"),
    }
}

#[test]
fn json_patch_operations() {
    let check = |object, patch, want| check(PatchType::Json, object, patch, want);
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    check(json!({"a": [1, 3]}), add("/a/1", json!(2)), json!({"a": [1, 2, 3]}));
    check(json!({"a": [1]}), add("/a/-", json!(2)), json!({"a": [1, 2]}));
    check(json!({"a": [1]}), add("/a/-1", json!(2)), json!({"a": [1, 2]}));
    check(json!({}), add("/a~1b~0c", json!(2)), json!({"a/b~c": 2}));
    check(json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), json!({}));
    check(json!({}), json!([{"op": "replace", "path": "/a", "value": 1}]), json!({"a": 1}));
    check(json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1}));
    check(json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1}));
    check(json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), json!({"a": 1}));
    check(json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {"b": 2}}]), json!({"b": 2}));
}

#[test]
fn json_patches_that_do_not_fit_are_told_from_malformed_ones() {
    let refused = |patch| refused(PatchType::Json, json!({"a": [1], "s": "t"}), patch);
    assert_eq!(refused(json!({})), "malformed");
    assert_eq!(refused(json!([1])), "malformed");
    assert_eq!(refused(json!([{"op": 1, "path": "/a"}])), "malformed");
    for patch in [
        json!([{"op": "remove", "path": "/b"}]),
        json!([{"op": "test", "path": "/a", "value": 2}]),
        json!([{"op": "add", "path": "/a/5", "value": 2}]),
        json!([{"op": "add", "path": "/s/t", "value": 2}]),
        json!([{"op": "add", "path": "/x/y", "value": 2}]),
        json!([{"op": "replace", "path": "/a/x", "value": 2}]),
        json!([{"op": "remove", "path": "/a/-2"}]),
        json!([{"op": "jump", "path": "/a"}]),
        json!([{"path": "/a"}]),
        json!([{"op": "add", "value": 1}]),
    ] {
        assert_eq!(refused(patch), "inapplicable");
    }
    let many = vec![json!({"op": "test", "path": "/a/0", "value": 1}); MOST_OPERATIONS + 1];
    assert_eq!(refused(json!(many)), "too many");
}

#[test]
fn copies_are_bounded() {
    let mut doubling = vec![json!({"op": "add", "path": "/a", "value": "x".repeat(1000)})];
    for _ in 0..40 {
        doubling.push(json!({"op": "copy", "from": "/a", "path": "/b/-"}));
        doubling.push(json!({"op": "copy", "from": "/b", "path": "/a"}));
    }
    assert_eq!(refused(PatchType::Json, json!({"b": []}), json!(doubling)), "inapplicable");
}

#[test]
fn copies_of_copies_do_not_nest_without_end() {
    let copy =
        |power: u32| json!({"op": "copy", "from": "/x", "path": format!("/x{}", "/a".repeat(1 << power))});
    let patch = |powers: u32| {
        let mut operations = vec![json!({"op": "add", "path": "/x", "value": {}})];
        operations.extend((0..powers).map(copy));
        Value::Array(operations)
    };
    assert!(patched(PatchType::Json, json!({}), patch(6)).is_ok());
    assert_eq!(refused(PatchType::Json, json!({}), patch(18)), "inapplicable");
    // Not by small steps either.
    let mut steps = vec![json!({"op": "add", "path": "/x", "value": {}})];
    steps.extend(
        (1..200).map(|depth| json!({"op": "add", "path": format!("/x{}", "/a".repeat(depth)), "value": {}})),
    );
    assert_eq!(refused(PatchType::Json, json!({}), json!(steps)), "inapplicable");
    let moves: Vec<Value> = (0..200)
        .flat_map(|_| {
            [
                json!({"op": "add", "path": "/y", "value": {}}),
                json!({"op": "move", "from": "/x", "path": "/y/x"}),
                json!({"op": "move", "from": "/y", "path": "/x"}),
            ]
        })
        .collect();
    assert_eq!(refused(PatchType::Json, json!({"x": {}}), json!(moves)), "inapplicable");
}

#[test]
fn elements_that_are_moved_aside_are_counted() {
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": vec![0; 100_000]})];
    operations.extend((0..300).map(|_| json!({"op": "add", "path": "/x/0", "value": 1})));
    assert_eq!(refused(PatchType::Json, json!({}), json!(operations)), "inapplicable");
    operations.truncate(100);
    assert!(patched(PatchType::Json, json!({}), json!(operations)).is_ok());
}

#[test]
fn merge_patches() {
    let check = |object, patch, want| check(PatchType::Merge, object, patch, want);
    check(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}}));
    check(json!({"a": [1]}), json!({"a": [null, {"b": null}]}), json!({"a": [null, {}]}));
    check(json!({"a": 1}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}}));
    assert_eq!(refused(PatchType::Merge, json!({}), json!([])), "malformed");
    assert_eq!(refused(PatchType::Merge, json!({}), json!(null)), "malformed");
}

fn pod(containers: Value) -> Value {
    json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x", "y"]}, "spec": {"containers": containers}})
}

#[test]
fn strategic_merge_by_key() {
    let check = |object, patch, want| check(PatchType::Strategic, object, patch, want);
    let two = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]);
    let spec = |containers: Value| json!({"spec": {"containers": containers}});
    check(
        pod(two.clone()),
        spec(json!([{"name": "b", "image": "3", "env": [{"name": "E", "value": null}]}])),
        pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3", "env": [{"name": "E"}]}])),
    );
    check(
        pod(two.clone()),
        spec(json!([{"name": "a", "$patch": "delete"}])),
        pod(json!([{"name": "b", "image": "2"}])),
    );
    check(pod(two.clone()), spec(json!([{"$patch": "replace"}, {"name": "c"}])), pod(json!([{"name": "c"}])));
    check(
        pod(two.clone()),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "9"}]}}),
        pod(json!([{"name": "c", "image": "9"}, {"name": "b", "image": "2"}, {"name": "a", "image": "1"}])),
    );
    check(
        pod(two.clone()),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "labels": {"$patch": "replace", "c": "d"}}}),
        json!({"metadata": {"labels": {"c": "d"}, "finalizers": ["y"]}, "spec": {"containers": two}}),
    );
    check(
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
    );
}

#[test]
fn strategic_merges_without_meaning_are_refused() {
    let refused = |patch| refused(PatchType::Strategic, pod(json!([{"name": "a"}])), patch);
    assert_eq!(refused(json!({"spec": {"containers": [{"image": "x"}]}})), "unmergeable");
    assert_eq!(refused(json!({"spec": {"containers": ["x"]}})), "unmergeable");
    assert_eq!(refused(json!({"spec": {"$patch": "x"}})), "unmergeable");
    assert_eq!(refused(json!({"spec": {"$retainKeys": 1}})), "malformed");
    assert_eq!(refused(json!({"spec": {"$retainKeys": ["x"], "containers": []}})), "malformed");
    assert_eq!(refused(json!({"spec": {"$deleteFromPrimitiveList": ["x"]}})), "malformed");
    assert_eq!(
        refused(json!({"metadata": {"$setElementOrder/finalizers": ["x"], "finalizers": ["z"]}})),
        "unmergeable"
    );
    assert_eq!(refused(json!([1])), "malformed");
}

#[test]
fn duplicate_and_unknown_fields_of_a_patch_are_found() {
    let (_, found) = Patch::parse(
        PatchType::Merge,
        br#"{"spec": {"a": 1, "a": 2}, "x": [{"b": 1, "b": 1}]}"#,
        Findings::Wanted,
    )
    .unwrap();
    assert_eq!(found, [r#"duplicate field "spec.a""#, r#"duplicate field "x[0].b""#]);
    let (_, found) =
        Patch::parse(PatchType::Json, br#"[{"op": "add", "path": "/a", "z": 1}]"#, Findings::Wanted).unwrap();
    assert_eq!(found, [r#"json patch unknown field "[0].z""#]);
}

fn tree() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf =
        prop_oneof![Just(json!(null)), any::<i8>().prop_map(|n| json!(n)), "[a-c]".prop_map(|s| json!(s))];
    let key = prop_oneof![
        Just("metadata"),
        Just("labels"),
        Just("spec"),
        Just("containers"),
        Just("name"),
        Just("finalizers"),
        Just("$patch"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("$retainKeys"),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn no_patch_panics(object in tree(), patch in tree()) {
        for form in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = patched(form, object.clone(), patch.clone());
        }
    }

    /// From the second time on: nulls within a list that replaces an object stay, and go when a list replaces it.
    #[test]
    fn a_merge_patch_is_idempotent(object in tree(), patch in tree()) {
        if let Ok(once) = patched(PatchType::Merge, object, patch.clone()) {
            let twice = patched(PatchType::Merge, once, patch.clone()).unwrap();
            proptest::prop_assert_eq!(patched(PatchType::Merge, twice.clone(), patch), Ok(twice));
        }
    }
}
