//! The recorded creates, updates and patches of a stock cluster, through decoding, defaults, preparation and validation.
//!
//! Admission and allocation are the apiserver's; `stand_in` does what they did to the samples.

#![allow(clippy::unwrap_used)]

mod stand_in;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minik_apimachinery::patch::{Findings, Patch, PatchError, PatchType};
use minik_apimachinery::{decode, defaults, facts};
use minik_registry::{Context, Part, Strategy, StrategyError, find_kind};
use minik_testkit::cases::{Case, Change, Outcome, Sample};
use serde_json::{Value, json};

/// Files of kinds that are served.
const FILES: &[&str] = &[
    "v1.ConfigMap.",
    "v1.Endpoints.",
    "v1.Event.",
    "v1.Namespace.",
    "v1.Node.",
    "v1.Pod.",
    "v1.Secret.",
    "v1.Service.",
    "v1.ServiceAccount.",
    "apps_v1.ControllerRevision.",
    "apps_v1.Deployment.",
    "apps_v1.ReplicaSet.",
    "certificates.k8s.io_v1.CertificateSigningRequest.",
    "coordination.k8s.io_v1.Lease.",
    "discovery.k8s.io_v1.EndpointSlice.",
    "events.k8s.io_v1.Event.",
    "networking.k8s.io_v1.IPAddress.",
    "networking.k8s.io_v1.ServiceCIDR.",
    "policy_v1.PodDisruptionBudget.",
    "rbac.authorization.k8s.io_v1.",
    "scheduling.k8s.io_v1.PriorityClass.",
];

fn recorded() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.37");
    if beside.exists() {
        beside
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/upstream-1.37")
    }
}

/// Cases that came out the same when this was last raised; it only goes up.
const FLOOR: usize = 7934;

struct Kind {
    strategy: &'static dyn Strategy,
    api_version: String,
    kind: String,
    ty: facts::TypeId,
}

fn kind_of(object: &Value) -> Kind {
    let api_version = object["apiVersion"].as_str().unwrap().to_owned();
    let kind = object["kind"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let strategy =
        find_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is not served"));
    let ty = facts::kind(&api_version, kind).unwrap();
    Kind { strategy, kind: kind.to_owned(), api_version, ty }
}

fn refused(code: u64, reason: &str) -> Outcome {
    Outcome { code, reason: reason.into(), ..Outcome::default() }
}

fn invalid(errors: &minik_apimachinery::field::ErrorList) -> Outcome {
    let mut causes: Vec<_> = errors.iter().map(|e| (e.reason().to_owned(), e.path.to_string())).collect();
    causes.sort();
    Outcome { causes, ..refused(422, "Invalid") }
}

fn failed(error: &StrategyError) -> Outcome {
    match error {
        StrategyError::Invalid(errors) => invalid(errors),
        StrategyError::BadRequest(_) => refused(400, "BadRequest"),
        StrategyError::Conflict(_) => refused(409, "Conflict"),
        StrategyError::Exhausted(_) => refused(500, "InternalError"),
    }
}

fn context<'a>() -> Context<'a> {
    Context { now: stand_in::NOW.parse().unwrap(), namespace: "oracle", user: stand_in::admin() }
}

/// Decodes and defaults as the server does with a request's body.
fn read(kind: &Kind, body: &Value, strict: bool) -> Result<Value, Outcome> {
    let mut body = body.clone();
    for (name, expected) in [("apiVersion", &kind.api_version), ("kind", &kind.kind)] {
        // What is not said is taken from the path.
        if body[name] == "" || body[name].is_null() {
            body[name] = expected.as_str().into();
        }
        if body[name] != **expected {
            return Err(refused(400, "BadRequest"));
        }
    }
    let decoded =
        decode::decode(body.to_string().as_bytes(), kind.ty).map_err(|_| refused(400, "BadRequest"))?;
    if strict && !decoded.findings.is_empty() {
        return Err(refused(400, "BadRequest"));
    }
    let mut object = decoded.value;
    defaults::apply(kind.ty, &mut object);
    kind.strategy.served_to_stored(version(kind), &mut object);
    Ok(object)
}

fn version(kind: &Kind) -> &str {
    kind.api_version.rsplit('/').next().unwrap()
}

fn create(kind: &Kind, sample: &Value, created: &Value, case: &Case) -> Outcome {
    let body = case.edit(sample).unwrap();
    let mut object = match read(kind, &body, case.strict()) {
        Ok(object) => object,
        Err(outcome) => return outcome,
    };
    let cx = context();
    if let Err(outcome) = stand_in::before_create(kind.strategy.resource(), &mut object) {
        return outcome;
    }
    if let Err(error) = kind.strategy.allocate(&mut object, None, &mut stand_in::Addresses::default()) {
        return failed(&error);
    }
    kind.strategy.prepare_create(&mut object, &cx);
    let errors = kind.strategy.check_create(&object, &cx);
    if !errors.is_empty() {
        return invalid(&errors);
    }
    let warnings = kind.strategy.warnings_on_create(&object).len() as u64;
    kind.strategy.canonicalize(&mut object);
    stand_in::after_create(kind.strategy.resource(), &mut object, created);
    kind.strategy.stored_to_served(version(kind), &mut object);
    let change = stand_in::named(Change::between(&stand_in::concrete(created), &object));
    Outcome { code: 201, warnings, change, ..Outcome::default() }
}

/// The stored object that was there before, with the metadata that the recording leaves out.
fn stored(created: &Value) -> Value {
    let mut old = created.clone();
    let meta = old["metadata"].as_object_mut().unwrap();
    meta.insert("uid".into(), "u".into());
    meta.insert("resourceVersion".into(), "7".into());
    meta.insert("creationTimestamp".into(), "2026-01-01T00:00:00Z".into());
    old
}

fn update(kind: &Kind, created: &Value, case: &Case) -> Outcome {
    let created = &stand_in::concrete(created);
    let body = case.edit(created).unwrap();
    match read(kind, &body, case.strict()) {
        Ok(object) => change(kind, created, object, 0),
        Err(outcome) => outcome,
    }
}

/// What becomes of a decoded and defaulted change of the stored object.
fn change(kind: &Kind, created: &Value, mut object: Value, findings: u64) -> Outcome {
    let mut old = stored(created);
    kind.strategy.served_to_stored(version(kind), &mut old);
    let resource = kind.strategy.resource();
    if let Err(outcome) = stand_in::before_update(resource, &mut object, &old) {
        return outcome;
    }
    if let Err(error) = kind.strategy.allocate(&mut object, Some(&old), &mut stand_in::Addresses::default()) {
        return failed(&error);
    }
    let cx = context();
    kind.strategy.prepare_update(Part::Main, &mut object, &old, &cx);
    stand_in::carry_system_metadata(&mut object, &old);
    let errors = kind.strategy.check_update(Part::Main, &object, &old, &cx);
    if !errors.is_empty() {
        return Outcome { warnings: findings, ..invalid(&errors) };
    }
    let warnings = findings + kind.strategy.warnings_on_update(Part::Main, &object, &old).len() as u64;
    kind.strategy.canonicalize(&mut object);
    kind.strategy.stored_to_served(version(kind), &mut object);
    let change = stand_in::named(Change::between(created, &object)).without_status();
    Outcome { code: 200, warnings, change, ..Outcome::default() }
}

fn patch(kind: &Kind, created: &Value, case: &Case) -> Outcome {
    let created = &stand_in::concrete(created);
    let form = match case.0["type"].as_str().unwrap() {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        _ => return refused(415, "UnsupportedMediaType"),
    };
    let body = stand_in::concrete(&case.0["body"]).to_string();
    let patched = Patch::parse(form, body.as_bytes(), Findings::Wanted)
        .and_then(|(patch, found)| Ok((patch.apply(stored(created), kind.ty)?, found.len())));
    let (tree, found) = match patched {
        Ok(patched) => patched,
        Err(PatchError::Malformed(_)) => return refused(400, "BadRequest"),
        Err(PatchError::TooMany(_)) => return refused(413, "RequestEntityTooLarge"),
        Err(PatchError::Inapplicable(_)) => return refused(422, "Invalid"),
        Err(PatchError::Unmergeable(_)) => return refused(500, ""),
    };
    let decoded = match decode::normalize(tree, kind.ty) {
        Ok(decoded) => decoded,
        Err(_) => {
            let causes = vec![("FieldValueInvalid".into(), "patch".into())];
            return Outcome { causes, ..refused(422, "Invalid") };
        }
    };
    let found = (found + decoded.findings.len()) as u64;
    let mut object = decoded.value;
    defaults::apply(kind.ty, &mut object);
    kind.strategy.served_to_stored(version(kind), &mut object);
    change(kind, created, object, found)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    total: usize,
    failed: Vec<String>,
}

fn run() -> BTreeMap<String, Tally> {
    let samples: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(recorded().join("samples.json")).unwrap()).unwrap();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(recorded().join("cases")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !FILES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let recorded = Sample::read(&file).unwrap();
        let sample = &samples[recorded.index];
        let kind = kind_of(sample);
        let mut sample = sample.clone();
        if kind.strategy.resource().namespaced() && sample["metadata"].get("namespace").is_none() {
            sample["metadata"]["namespace"] = json!("oracle");
        }
        for case in &recorded.cases {
            let op = case.op();
            let mut expected = case.expected();
            let actual = match op {
                "create" => create(&kind, &sample, &recorded.created, case),
                "update" => {
                    expected.change = expected.change.without_status();
                    update(&kind, &recorded.created, case)
                }
                "patch" => {
                    expected.change = expected.change.without_status();
                    patch(&kind, &recorded.created, case)
                }
                _ => continue,
            };
            let mut actual = actual;
            let told = !kind.strategy.resource().deprecated.is_empty() && actual.code != 415;
            actual.warnings += u64::from(told);
            let tally = tallies.entry(format!("{name} {op}")).or_default();
            tally.total += 1;
            if actual == expected || stand_in::not_here(&expected) {
                tally.passed += 1;
            } else {
                let (at, value) = if op == "patch" {
                    (&case.0["type"], &case.0["body"])
                } else {
                    (&case.0["at"], &case.0["value"])
                };
                let value: String = value.to_string().chars().take(160).collect();
                tally.failed.push(format!("{at} = {value}\n    want {expected:?}\n    got  {actual:?}"));
            }
        }
    }
    tallies
}

#[test]
fn recorded_writes_come_out_the_same() {
    let tallies = run();
    let show: usize = std::env::var("SHOW_FAILURES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let only = std::env::var("ONLY").unwrap_or_default();
    let (mut passed, mut total) = (0, 0);
    for (name, tally) in tallies.iter().filter(|(name, _)| name.contains(&only)) {
        println!("{name}: {} of {}", tally.passed, tally.total);
        for failure in tally.failed.iter().take(show) {
            println!("  {failure}");
        }
        passed += tally.passed;
        total += tally.total;
    }
    println!("all: {passed} of {total}");
    assert!(total > 0, "no recorded cases were found");
    assert!(passed >= FLOOR, "{passed} of {total}: fewer recorded cases come out the same than before");
}
