//! Properties that hold for objects of every type, checked on random ones.

#![allow(clippy::unwrap_used)]

mod generate;

use generate::{Chance, object};
use minik_apimachinery::apply::{FieldFilter, OneVersion, Writer};
use minik_apimachinery::facts::{self, TypeId};
use minik_apimachinery::proto::{self, Envelope};
use minik_apimachinery::{decode, defaults};
use proptest::prelude::*;
use serde_json::{Value, json};

const DEPTH: usize = 7;

fn decoded(object: &Value, ty: TypeId) -> Value {
    decode::decode(object.to_string().as_bytes(), ty).unwrap().value
}

/// A random kind that has metadata.
fn kind(at: usize) -> (&'static str, &'static str, TypeId) {
    let all: Vec<_> = facts::kinds().iter().filter(|(_, _, ty)| ty.field("metadata").is_some()).collect();
    *all[at % all.len()]
}

fn named(mut object: Value, api_version: &str, kind: &str) -> Value {
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object["metadata"]["name"] = "a".into();
    object
}

proptest! {
    #[test]
    fn decoding_and_defaults_are_idempotent(at in 0usize..1225, seed in any::<u64>()) {
        let ty = TypeId::all().nth(at).unwrap();
        let once = decoded(&object(ty, &mut Chance::new(seed), DEPTH), ty);
        prop_assert_eq!(&decoded(&once, ty), &once);
        prop_assert_eq!(&decode::normalize(once.clone(), ty).unwrap().value, &once);
        let mut filled = once;
        defaults::apply(ty, &mut filled);
        let mut again = filled.clone();
        defaults::apply(ty, &mut again);
        prop_assert_eq!(again, filled);
    }

    #[test]
    fn protobuf_gives_the_same_objects(at in 0usize..1225, seed in any::<u64>()) {
        let (api_version, name, ty) = kind(at);
        // An embedded object's own type is not in protobuf, and a schema's unions have messages of their own.
        prop_assume!(!ty.facts().go.starts_with("apiextensions-apiserver/"));
        let mut tree = named(object(ty, &mut Chance::new(seed), DEPTH), api_version, name);
        strip_types(&mut tree, false);
        tree["metadata"] = json!({"name": "a"});
        let wanted = decoded(&tree, ty);
        let bytes = proto::encode(&wanted, ty);
        let read = proto::decode(&Envelope::open(&bytes).unwrap(), ty).unwrap();
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn applying_twice_changes_nothing_and_giving_up_removes(at in 0usize..1225, seed in any::<u64>()) {
        let (api_version, name, ty) = kind(at);
        prop_assume!(!name.ends_with("List"));
        let config = named(decoded(&object(ty, &mut Chance::new(seed), DEPTH), ty), api_version, name);
        let writer = |manager: &'static str, at: i64| Writer {
            ty,
            api_version,
            subresource: "",
            manager,
            now: jiff::Timestamp::from_second(at).unwrap(),
            filter: FieldFilter::None,
            versions: &OneVersion,
        };
        // Repeated keys in a list are refused, and so is what cannot be decoded.
        let first = writer("one", 1).apply(None, &config, false);
        // One who applies nothing owns nothing, and the next finds fields without an owner.
        if let Some(first) = first.ok().filter(|first| first["metadata"]["managedFields"].is_array()) {
            let second = writer("one", 2).apply(Some(&first), &config, false).unwrap();
            prop_assert_eq!(timeless(&second), timeless(&first));
            let bare = named(json!({}), api_version, name);
            let third = writer("one", 3).apply(Some(&second), &bare, false).unwrap();
            prop_assert!(third["metadata"].get("annotations").is_none(), "{third}");
            let mut changed = third.clone();
            changed["metadata"]["annotations"] = json!({"k": "v"});
            writer("two", 4).update(Some(&third), &mut changed);
            // An object that nobody owned stays so until it is applied again.
            let owned = third["metadata"]["managedFields"].is_array();
            let entries = changed["metadata"]["managedFields"].to_string();
            prop_assert_eq!(entries.contains("f:annotations"), owned);
        }
    }

    #[test]
    fn no_json_panics(at in 0usize..1225, text in "\\PC{0,40}", seed in any::<u64>()) {
        let ty = TypeId::all().nth(at).unwrap();
        let _ = decode::decode(text.as_bytes(), ty);
        let other = TypeId::all().nth((seed % 1225) as usize).unwrap();
        let _ = decode::normalize(object(other, &mut Chance::new(seed), 4), ty);
    }
}

/// The entries without their times: what defaults change is applied anew each time.
fn timeless(object: &Value) -> Value {
    let mut entries = object["metadata"]["managedFields"].clone();
    for entry in entries.as_array_mut().into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("time");
    }
    entries
}

/// Removes what protobuf does not tell: the types of embedded objects, and that a list or map is empty and not absent.
fn strip_types(tree: &mut Value, embedded: bool) {
    match tree {
        Value::Object(fields) => {
            if embedded {
                fields.remove("apiVersion");
                fields.remove("kind");
            }
            fields.retain(|_, value| *value != json!([]) && *value != json!({}));
            for (name, value) in fields {
                strip_types(
                    value,
                    ["items", "volumeClaimTemplates", "deleteOptions"].contains(&name.as_str()),
                );
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip_types(item, embedded)),
        _ => {}
    }
}

#[test]
fn deep_nesting_is_refused() {
    let ty = facts::kind("apps/v1", "ControllerRevision").unwrap();
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(decode::decode(deep.as_bytes(), ty).is_err());
    assert!(decode::parse(deep.as_bytes()).is_err());
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    assert!(decode::parse(objects.as_bytes()).is_err());
    // An unknown field is passed over, but not if it is nested too deeply.
    let unknown = |depth: usize| format!("{{\"zz\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(decode::decode(unknown(9_000).as_bytes(), ty).is_ok());
    let error = decode::decode(unknown(10_000).as_bytes(), ty).unwrap_err();
    assert_eq!(error.to_string(), "exceeded max depth");
    assert!(decode::decode(br#"{"zz":"[[\"[{"}"#, ty).is_ok());
}
