//! Targets of the pure machinery: decoding, protobuf, patches, apply, selectors, quantities.

use crate::seeds::{kinds, samples};
use crate::{choose, part};
use jiff::Timestamp;
use minik_apimachinery::apply::{ApplyError, FieldFilter, OneVersion, Writer};
use minik_apimachinery::facts::TypeId;
use minik_apimachinery::patch::{Findings, Patch, PatchType};
use minik_apimachinery::proto::Envelope;
use minik_apimachinery::quantity::Quantity;
use minik_apimachinery::selector::{FieldSelector, FieldTerm, LabelSelector};
use minik_apimachinery::{decode, defaults, facts, proto, time};
use serde_json::{Map, Value};

/// KIND JSON: what is read is canonical, the same as from a tree, and can be completed and shown.
pub(crate) fn decode(mut input: &[u8]) {
    let Some(kind) = choose(&mut input, kinds().len()) else { return };
    let ty = kinds()[kind].2;
    let Ok(decoded) = decode::decode(input, ty) else { return };
    let text = decoded.value.to_string();
    let again = decode::decode(text.as_bytes(), ty).expect("what was written can be read");
    assert_eq!(again.value, decoded.value);
    assert_eq!(again.findings, Vec::<String>::new());
    if let Ok(tree) = serde_json::from_slice::<Value>(input)
        && !decoded.findings.iter().any(|finding| finding.starts_with("duplicate"))
    {
        let mut same = decode::normalize(tree, ty).expect("the tree is read as the text is");
        // They are told in the order of the text, or of the tree.
        let mut findings = decoded.findings.clone();
        [&mut same.findings, &mut findings].into_iter().for_each(|findings| findings.sort());
        assert_eq!((same.value, same.findings), (decoded.value.clone(), findings));
    }
    let mut full = decoded.value;
    defaults::apply(ty, &mut full);
    let mut fuller = full.clone();
    defaults::apply(ty, &mut fuller);
    assert_eq!(fuller, full, "defaults are given once");
    strategy(kind, full);
}

/// What the registry makes of a new object: refused or not, its row and its fields can be told.
fn strategy(kind: usize, mut object: Value) {
    let (api_version, name, _) = kinds()[kind];
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = minik_registry::all().iter().find(|strategy| {
        let resource = strategy.resource();
        resource.kind == name && resource.group == group
    });
    let Some(strategy) = found else { return };
    // The server has seen to it that the object is of the kind that it says.
    object["apiVersion"] = api_version.into();
    object["kind"] = name.into();
    let extra = std::collections::BTreeMap::new();
    let user = minik_registry::User { name: "u", uid: "", groups: &[], extra: &extra };
    let context = minik_registry::Context { now: Timestamp::UNIX_EPOCH, namespace: "n", user };
    strategy.served_to_stored(version, &mut object);
    strategy.prepare_create(&mut object, &context);
    let errors = strategy.check_create(&object, &context);
    assert_eq!(errors.is_empty(), errors.aggregate().is_empty());
    if errors.is_empty() {
        strategy.warnings_on_create(&object);
        strategy.canonicalize(&mut object);
        let errors = strategy.check_update(minik_registry::Part::Main, &object, &object, &context);
        drop(errors);
    }
    // An IPAddress has a cell too many, as stock has it.
    let (cells, columns) = (strategy.cells(&object, context.now).len(), strategy.columns().len());
    assert!(cells >= columns, "{api_version} {name}: {cells} cells in {columns} columns");
    strategy.selectable_fields(&object);
    strategy.row_conditions(&object);
    strategy.stored_to_served(version, &mut object);
}

/// KIND MESSAGE: what is read can be written and is read again as the same.
pub(crate) fn proto(mut input: &[u8]) {
    let Some(kind) = choose(&mut input, kinds().len()) else { return };
    let (_, _, ty) = kinds()[kind];
    let Ok(envelope) = Envelope::open(input) else { return };
    let Ok(first) = proto::decode(&envelope, ty) else { return };
    let bytes = proto::encode(&first, ty);
    // A schema's unions have messages of their own.
    if ty.facts().go.starts_with("apiextensions-apiserver/") {
        return;
    }
    let envelope = Envelope::open(&bytes).expect("what was written has an envelope");
    let second = proto::decode(&envelope, ty).expect("what was written can be read");
    let third = proto::encode(&second, ty);
    assert_eq!(third, bytes, "{first}\n{second}");
}

/// FORM SAMPLE PATCH: a patched sample can be read or is refused, and a difference leads from one object to another.
pub(crate) fn patch(mut input: &[u8]) {
    let (Some(form), Some(sample)) = (choose(&mut input, 3), choose(&mut input, samples().len())) else {
        return;
    };
    let (object, ty) = sampled(sample);
    let form = [PatchType::Json, PatchType::Merge, PatchType::Strategic][form];
    for findings in [Findings::Wanted, Findings::Ignored] {
        let Ok((patch, _)) = Patch::parse(form, input, findings) else { continue };
        let Ok(patched) = patch.apply(object.clone(), ty) else { continue };
        if form == PatchType::Merge && patched.is_object() {
            assert_eq!(patch.apply(patched.clone(), ty).as_ref(), Ok(&patched), "a merge done twice");
            leads_from_to(&object, &patched, ty);
        }
        if let Ok(read) = decode::normalize(patched, ty) {
            let text = read.value.to_string();
            assert_eq!(decode::decode(text.as_bytes(), ty).expect("it can be stored").value, read.value);
        }
    }
}

fn leads_from_to(from: &Value, to: &Value, ty: TypeId) {
    let Some(difference) = difference(from, to) else { return };
    let text = difference.to_string();
    let (patch, _) =
        Patch::parse(PatchType::Merge, text.as_bytes(), Findings::Ignored).expect("a merge patch");
    let there = patch.apply(from.clone(), ty).expect("it fits");
    assert_eq!(&there, to, "{difference}");
}

/// The merge patch from one object to another; `None` where a null would have to be set.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return (!has_null(to)).then(|| to.clone());
    };
    let mut fields = Map::new();
    for (name, value) in to {
        match from.get(name) {
            Some(old) if old == value => {}
            // Between an object and something else there is no merging, but of an empty one into it.
            Some(old) if old.is_object() || !value.is_object() => {
                drop(fields.insert(name.clone(), difference(old, value)?));
            }
            _ if has_null(value) => return None,
            _ => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        fields.insert(name.clone(), Value::Null);
    }
    Some(Value::Object(fields))
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        // A patch takes away nulls within lists of what was not there.
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

/// A sample as it is stored, and its type.
fn sampled(at: usize) -> (Value, TypeId) {
    let sample = &samples()[at];
    let text = |name: &str| sample[name].as_str().unwrap_or_default();
    let ty = facts::kind(text("apiVersion"), text("kind")).expect("samples are of known kinds");
    let mut object = decode::normalize(sample.clone(), ty).expect("samples can be read").value;
    defaults::apply(ty, &mut object);
    (object, ty)
}

/// SAMPLE CONFIG: applying twice changes nothing, another's fields stay, and everything that is owned can be read.
pub(crate) fn apply(mut input: &[u8]) {
    let Some(sample) = choose(&mut input, samples().len()) else { return };
    let (object, ty) = sampled(sample);
    let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let Ok(config) = decode::parse(input) else { return };
    let writer = |manager: &'static str, at: i64| Writer {
        ty,
        api_version: &api_version,
        subresource: "",
        manager,
        now: Timestamp::from_second(at).unwrap(),
        filter: FieldFilter::None,
        versions: &OneVersion,
    };
    let mut live = object;
    writer("creator", 1).update(None, &mut live);
    for live in [None, Some(&live)] {
        let Ok(first) = writer("one", 2).apply(live, &config.value, true) else { continue };
        stored(&first, ty);
        // Where nobody owns anything, what is there is found to be without an owner next time.
        if first.pointer("/metadata/managedFields").is_none() {
            continue;
        }
        let second = writer("one", 3).apply(Some(&first), &config.value, false);
        match second {
            Ok(second) => assert_eq!(timeless(&second), timeless(&first), "applied twice"),
            // An object without its keys can be made, and not be merged with.
            Err(ApplyError::Failed(_)) => {}
            Err(error) => panic!("applied again: {error}"),
        }
        let mut changed = first.clone();
        if let Some(labels) = changed.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            labels.insert("labels".into(), serde_json::json!({"other": "value"}));
        }
        writer("two", 4).update(Some(&first), &mut changed);
    }
}

/// What is stored can be read again as it is.
fn stored(object: &Value, ty: TypeId) {
    let text = object.to_string();
    let read: Value = serde_json::from_str(&text).expect("stored text can be read");
    let mut read = decode::normalize(read, ty).expect("it is of its type").value;
    defaults::apply(ty, &mut read);
    assert_eq!(&read, object);
}

fn timeless(object: &Value) -> Value {
    let mut object = object.clone();
    for entry in
        object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut).into_iter().flatten()
    {
        entry.as_object_mut().map(|entry| entry.remove("time"));
    }
    object
}

/// Text: as a label selector, a field selector, and an object with labels.
pub(crate) fn selector(input: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Value>(input)
        && let Ok(selector) = LabelSelector::from_object(Some(&object))
        && selector != LabelSelector::nothing()
    {
        reads_the_same(&selector);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        reads_the_same(&selector);
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again.to_string(), selector.to_string());
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let printed = selector.to_string();
        let sorted = |selector: &FieldSelector| -> Vec<FieldTerm> {
            let mut terms = selector.terms().to_vec();
            terms.sort();
            terms
        };
        let again = FieldSelector::parse(&printed).expect("what is printed can be read");
        assert_eq!(sorted(&again), sorted(&selector), "{printed}");
    }
}

/// What is printed is read as a selector that matches the same.
fn reads_the_same(selector: &LabelSelector) {
    let printed = selector.to_string();
    let again = LabelSelector::parse(&printed).unwrap_or_else(|error| panic!("{printed:?}: {error}"));
    let mut labels = std::collections::BTreeMap::new();
    assert_eq!(again.matches(&labels), selector.matches(&labels), "{printed}");
    for requirement in selector.requirements() {
        for value in requirement.values().iter().map(String::as_str).chain(["1", ""]) {
            labels.insert(requirement.key().to_owned(), value.to_owned());
            assert_eq!(again.matches(&labels), selector.matches(&labels), "{printed} {labels:?}");
        }
    }
}

/// TEXT TEXT: quantities are canonical and add up; times are canonical.
pub(crate) fn quantity(mut input: &[u8]) {
    let (first, second) = (part(&mut input), part(&mut input));
    let (Ok(first), Ok(second)) = (std::str::from_utf8(first), std::str::from_utf8(second)) else { return };
    let canonical = |text: &str| -> Option<Quantity> {
        let quantity: Quantity = text.parse().ok()?;
        let printed = quantity.to_string();
        let again: Quantity = printed.parse().expect("what is printed can be read");
        assert_eq!((again, again.to_string()), (quantity, printed.clone()), "{text}");
        assert!(quantity.value() >= 0 || quantity.sign().is_lt());
        Some(quantity)
    };
    if let (Some(first), Some(second)) = (canonical(first), canonical(second)) {
        assert_eq!(first.add(&second), second.add(&first));
        assert_eq!(first.cmp(&second), second.cmp(&first).reverse());
        assert!(first.sub(&first).is_zero());
        first.add(&second).to_string();
    }
    for form in [time::canonical_seconds, time::canonical_micros] {
        if let Ok(Some(time)) = form(first) {
            assert_eq!(form(&time).expect("canonical times are times"), Some(time));
        }
    }
}
