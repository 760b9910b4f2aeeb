//! CertificateSigningRequest: <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::time;
use serde_json::{Value, json};

use super::pem;
use crate::format::{self, invalid};
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{at, carry_over, items, str_at, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const KIND: Kind = Kind { group: "certificates.k8s.io", version: "v1", kind: "CertificateSigningRequest" };

const RESOURCE: Resource = Resource {
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    scope: Scope::Cluster,
    subresources: &[
        Subresource {
            reset_fields: FieldFilter::Exclude(&[&["spec"], &["status", "certificate"]]),
            ..Subresource::other("approval", KIND, Verbs::STATUS)
        },
        Subresource::status(KIND, &[&["spec"], &["status", "conditions"]]),
    ],
    reset_fields: FieldFilter::Exclude(&[&["spec"], &["status"]]),
    ..Resource::grouped(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "CertificateSigningRequestList",
        "certificatesigningrequests",
    )
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::text("SignerName", "Who is to sign."),
    Column::text("Requestor", "Who asked."),
    Column::text("RequestedDuration", "For how long."),
    Column::text("Condition", "Pending, Approved, Denied, and whether a certificate was issued."),
];

/// See the module.
pub(crate) struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::PathSegment).full_on_update()
    }

    fn update_meta_rules(&self, _part: Part) -> MetaRules {
        self.meta_rules()
    }

    fn prepare_create(&self, obj: &mut Value, cx: &Context<'_>) {
        let Some(map) = obj.as_object_mut() else { return };
        map.insert("status".into(), json!({}));
        let Some(spec) = map.entry("spec").or_insert_with(|| json!({})).as_object_mut() else { return };
        let user = cx.user;
        for (field, value, known) in [
            ("username", json!(user.name), !user.name.is_empty()),
            ("uid", json!(user.uid), !user.uid.is_empty()),
            ("groups", json!(user.groups), !user.groups.is_empty()),
            ("extra", json!(user.extra), !user.extra.is_empty()),
        ] {
            spec.remove(field);
            if known {
                spec.insert(field.into(), value);
            }
        }
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        carry_over(obj, old, "spec");
        match part {
            Part::Approval => {
                fill_times(obj, old, cx.now);
                let conditions = at(obj, &["status", "conditions"]).cloned();
                carry_over(obj, old, "status");
                set_conditions(obj, conditions);
            }
            Part::Status => {
                for kind in [APPROVED, DENIED] {
                    keep_conditions(obj, old, kind);
                }
                fill_times(obj, old, cx.now);
            }
            _ => carry_over(obj, old, "status"),
        }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check(obj, Some(old), &mut errors);
        check_change(part, obj, old, &mut errors);
        errors
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        vec![("spec.signerName", Cow::Borrowed(str_at(obj, &["spec", "signerName"])))]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let has = |kind: &str| conditions(obj).any(|one| one["type"] == kind);
        let mut state = String::from(match (has(DENIED), has(APPROVED)) {
            (true, _) => "Denied",
            (false, true) => "Approved",
            (false, false) => "Pending",
        });
        if has(FAILED) {
            state.push_str(",Failed");
        }
        if !str_at(obj, &["status", "certificate"]).is_empty() {
            state.push_str(",Issued");
        }
        let seconds = at(obj, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        vec![
            table::name(obj),
            table::age(obj, now),
            table::none(str_at(obj, &["spec", "signerName"])),
            str_at(obj, &["spec", "username"]).into(),
            seconds.map_or_else(|| "<none>".into(), table::human).into(),
            state.into(),
        ]
    }
}

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// What a key may be used for, sorted as stock sorts it.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_MIN_SECONDS: i32 = 600;
/// A domain, a slash, a namespace's name, a dot, and an object's name.
const SIGNER_MAX_BYTES: usize = format::SUBDOMAIN_MAX + 1 + 63 + 1 + format::SUBDOMAIN_MAX;

fn conditions(obj: &Value) -> impl Iterator<Item = &Value> {
    obj.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

fn set_conditions(obj: &mut Value, conditions: Option<Value>) {
    let Some(map) = obj.as_object_mut() else { return };
    let Some(status) = map.entry("status").or_insert_with(|| json!({})).as_object_mut() else { return };
    match conditions {
        Some(conditions) => status.insert("conditions".into(), conditions),
        None => status.remove("conditions"),
    };
}

/// Conditions of a type as they were, unless there are more or fewer now.
fn keep_conditions(obj: &mut Value, old: &Value, kind: &str) {
    let before: Vec<&Value> = conditions(old).filter(|one| one["type"] == kind).collect();
    let list = obj.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    let mut now: Vec<&mut Value> = list.into_iter().flatten().filter(|one| one["type"] == kind).collect();
    if now.len() == before.len() {
        for (one, was) in now.iter_mut().zip(before) {
            **one = was.clone();
        }
    }
}

/// Times of conditions that bear none; a state that lasts keeps the time of its beginning.
fn fill_times(obj: &mut Value, old: &Value, now: Timestamp) {
    let list = obj.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        let unset = |time: Option<&Value>| time.is_none_or(Value::is_null);
        if unset(condition.get("lastUpdateTime")) {
            condition.insert("lastUpdateTime".into(), time::seconds(now).into());
        }
        if unset(condition.get("lastTransitionTime")) {
            let same = |one: &&Value| {
                one.get("type") == condition.get("type")
                    && one.get("status") == condition.get("status")
                    && !unset(one.get("lastTransitionTime"))
            };
            let began = conditions(old).find(same).map(|one| one["lastTransitionTime"].clone());
            let began = began.unwrap_or_else(|| time::seconds(now).into());
            condition.insert("lastTransitionTime".into(), began);
        }
    }
}

/// A request as it stands. What was wrong before may stay so.
fn check(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let Some(new) = view::<api::CertificateSigningRequest>(obj, errors) else { return };
    let was = old.and_then(|old| view::<api::CertificateSigningRequest>(old, errors));
    let (spec, path) = (&new.spec, Path::new("spec"));
    if let Some(fault) = pem::request_fault(&spec.request.0) {
        let request = str_at(obj, &["spec", "request"]);
        errors.push(FieldError::invalid(&path.child("request"), request, fault));
    }
    check_usages(items(&spec.usages), was.as_ref().map(|was| items(&was.spec.usages)), errors);
    let (signer, at) = (spec.signer_name.as_str(), path.child("signerName"));
    let legacy = was.as_ref().is_some_and(|was| was.spec.signer_name == LEGACY_SIGNER);
    if signer == LEGACY_SIGNER && !legacy {
        errors.push(FieldError::invalid(&at, signer, "the legacy signer is not served in this version"));
    } else {
        check_signer_name(signer, &at, errors);
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < EXPIRATION_MIN_SECONDS) {
        let detail = format!("must be at least {EXPIRATION_MIN_SECONDS} seconds");
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    let status = new.status.unwrap_or_default();
    let before = was.map(|was| was.status.unwrap_or_default());
    let old_conditions = before.as_ref().map_or(&[][..], |before| items(&before.conditions));
    check_conditions(items(&status.conditions), old_conditions, errors);
    let chain = |status: &api::CertificateSigningRequestStatus| {
        status.certificate.as_ref().map(|bytes| bytes.0.clone()).unwrap_or_default()
    };
    let untouched = before.is_some_and(|before| {
        chain(&before) == chain(&status) || pem::chain_fault(&chain(&before)).is_some()
    });
    if let Some(fault) = pem::chain_fault(&chain(&status)).filter(|_| !untouched) {
        let at = Path::new("status").child("certificate");
        errors.push(FieldError::invalid(&at, "<certificate data>", fault));
    }
}

fn check_usages(usages: &[String], old: Option<&[String]>, errors: &mut ErrorList) {
    let path = Path::new("spec").child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    let known = |usage: &String| USAGES.contains(&usage.as_str());
    let distinct = |list: &[String]| list.iter().collect::<BTreeSet<_>>().len() == list.len();
    let had_unknown = old.is_some_and(|old| !old.iter().all(known));
    let had_doubled = old.is_some_and(|old| !distinct(old));
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !had_unknown && !known(usage)) {
        errors.push(FieldError::not_supported(&path.index(i), usage.as_str(), &USAGES));
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in usages.iter().enumerate() {
        if !seen.insert(usage) && !had_doubled {
            errors.push(FieldError::duplicate(&path.index(i), usage.as_str()));
        }
    }
}

/// A domain of at least two parts, a slash, and a name.
fn check_signer_name(signer: &str, path: &Path, errors: &mut ErrorList) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, name)) = signer.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        errors.push(FieldError::invalid(path, signer, "must be a domain and a name, as in example.com/name"));
        return;
    };
    if domain.len() > format::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, format::SUBDOMAIN_MAX));
    }
    // The first wrong part is told, all others would be the same.
    let first = |text: &str, rule: fn(&str) -> format::Faults| {
        text.split('.').map(rule).find(|faults| !faults.is_empty()).unwrap_or_default()
    };
    invalid(first(domain, format::dns_label), domain, path, errors);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(path, domain, "must have at least two parts joined by a dot"));
    }
    invalid(first(name, format::dns_subdomain), name, path, errors);
    if signer.len() > SIGNER_MAX_BYTES {
        errors.push(FieldError::too_long(path, SIGNER_MAX_BYTES));
    }
}

fn check_conditions(
    conditions: &[api::CertificateSigningRequestCondition],
    old: &[api::CertificateSigningRequestCondition],
    errors: &mut ErrorList,
) {
    let path = Path::new("status").child("conditions");
    let had = |kind: &str| old.iter().any(|one| one.type_ == kind);
    let kinds: BTreeSet<&str> = old.iter().map(|one| one.type_.as_str()).collect();
    let (had_both, had_empty) = (had(APPROVED) && had(DENIED), had(""));
    let had_doubled = kinds.len() < old.len();
    let mut before = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let (at, kind) = (path.index(i), condition.type_.as_str());
        if kind.is_empty() && !had_empty {
            errors.push(FieldError::required(&at.child("type"), ""));
        }
        let only_true = matches!(kind, APPROVED | DENIED | FAILED);
        let states: &[&str] = if only_true { &["True"] } else { &["False", "True", "Unknown"] };
        let status = condition.status.as_str();
        if status.is_empty() {
            errors.push(FieldError::required(&at.child("status"), ""));
        } else if !states.contains(&status) {
            errors.push(FieldError::not_supported(&at.child("status"), status, states));
        }
        let opposite = match kind {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => "\0",
        };
        if !had_both && before.contains(opposite) {
            errors.push(FieldError::invalid(
                &at.child("type"),
                kind,
                "Approved and Denied exclude each other",
            ));
        }
        if !before.insert(kind) && !had_doubled {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
    }
}

/// Approval is for `approval`, the certificate for `status`, and neither is taken back.
fn check_change(part: Part, obj: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("conditions");
    let of =
        |o, kind: &str| -> Vec<Value> { conditions(o).filter(|one| one["type"] == kind).cloned().collect() };
    for kind in [APPROVED, DENIED, FAILED] {
        if of(obj, kind).len() < of(old, kind).len() {
            let detail = format!("a condition of type {kind:?} cannot be removed");
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    for kind in [APPROVED, DENIED].into_iter().filter(|_| part != Part::Approval) {
        let (is, was) = (of(obj, kind), of(old, kind));
        if is.len() > was.len() || (is.len() == was.len() && is != was) {
            let detail = format!("a condition of type {kind:?} is added or changed by approval only");
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    let (is, was) = (str_at(obj, &["status", "certificate"]), str_at(old, &["status", "certificate"]));
    let at = Path::new("status").child("certificate");
    if is != was && part != Part::Status {
        errors.push(FieldError::forbidden(&at, "the certificate is written by status only"));
    } else if is != was && !was.is_empty() {
        errors.push(FieldError::forbidden(&at, "a certificate that was issued cannot be changed"));
    }
}
