//! Requests in all their states.

use super::plan::{Plan, Recognized, plan};
use super::request::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Request};
use super::{Authority, CsrObject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::time::Duration;

const NODE: [&str; 3] = ["digital signature", "key encipherment", "client auth"];
const SERVER: [&str; 2] = ["digital signature", "server auth"];

/// A request in PEM and base64.
fn request(name: &str, group: &str, hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    STANDARD.encode(request.pem().unwrap())
}

fn csr(user: &str, signer: &str, usages: &[&str], request: &str, conditions: Value) -> CsrObject {
    serde_json::from_value(json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"request": request, "signerName": signer, "usages": usages, "username": user},
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn at(minute: &str) -> jiff::Timestamp {
    format!("2026-01-01T{minute}:00Z").parse().unwrap()
}

fn condition(kind: &str) -> Value {
    json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T01:00:00Z"}])
}

#[test]
fn nodes_requests_are_recognized_and_nobody_elses() {
    let node = request("system:node:n", "system:nodes", &[]);
    let check = |user: &str, signer: &str, usages: &[&str], request: &str, wanted: &[Recognized]| match (
        plan(&csr(user, signer, usages, request, json!([])), at("00:01")),
        wanted,
    ) {
        (Plan::Approve(_, kinds), wanted) => assert_eq!(kinds, wanted, "{user} {signer} {usages:?}"),
        (Plan::Wait(Some(_)), []) => {}
        (other, wanted) => panic!("{user} {signer} {usages:?}: {other:?} for {wanted:?}"),
    };
    let (own, any) = (Recognized::SelfNodeClient, Recognized::NodeClient);
    check("system:node:n", KUBELET_CLIENT, &NODE, &node, &[own, any]);
    check("system:bootstrap:abcdef", KUBELET_CLIENT, &["digital signature", "client auth"], &node, &[any]);
    check("system:node:n", CLIENT, &NODE, &node, &[]);
    check("system:node:n", KUBELET_CLIENT, &["client auth"], &node, &[]);
    check("system:node:n", KUBELET_CLIENT, &NODE, &request("system:node:n", "system:masters", &[]), &[]);
    check("system:node:n", KUBELET_CLIENT, &NODE, &request("n", "system:nodes", &[]), &[]);
    check("system:node:n", KUBELET_CLIENT, &NODE, &request("system:node:n", "system:nodes", &["n"]), &[]);
    let serving = request("system:node:n", "system:nodes", &["n", "10.0.0.1"]);
    check("system:node:n", KUBELET_SERVING, &SERVER, &serving, &[Recognized::SelfNodeServer]);
    check("system:node:m", KUBELET_SERVING, &SERVER, &serving, &[]);
    check("system:node:n", KUBELET_SERVING, &SERVER, &node, &[]);
    check("system:node:n", KUBELET_CLIENT, &NODE, "bm90IGEgcmVxdWVzdA==", &[]);
}

#[test]
fn what_is_approved_is_signed_or_fails_once() {
    let approved = |signer: &str, usages: &[&str], request: &str| {
        plan(&csr("u", signer, usages, request, condition("Approved")), at("01:01"))
    };
    let user = request("u", "g", &[]);
    assert!(matches!(approved(CLIENT, &["client auth"], &user), Plan::Sign(_)));
    assert!(matches!(approved(LEGACY, &["any"], &user), Plan::Sign(_)));
    assert!(matches!(approved("example.com/own", &["client auth"], &user), Plan::Wait(None)));
    for (signer, usages) in
        [(CLIENT, &["server auth"][..]), (CLIENT, &["digital signature"]), (KUBELET_CLIENT, &NODE)]
    {
        assert!(matches!(approved(signer, usages, &user), Plan::Fail(_)), "{signer} {usages:?}");
    }
}

#[test]
fn what_is_old_is_deleted() {
    let user = request("u", "g", &[]);
    let state = |conditions: Value, certificate: Option<&str>, minute: &str| {
        let mut csr = csr("u", CLIENT, &["client auth"], &user, conditions);
        csr.status.certificate = certificate.map(Into::into);
        plan(&csr, at(minute))
    };
    assert!(matches!(state(json!([]), None, "23:59"), Plan::Wait(Some(left)) if left.as_secs() == 60));
    let mut old = csr("u", CLIENT, &["client auth"], &user, json!([]));
    old.metadata.creation_timestamp = Some("2025-12-31T00:00:00Z".parse().unwrap());
    assert!(matches!(plan(&old, at("00:00")), Plan::Delete(_)));
    for kind in ["Denied", "Failed"] {
        assert!(matches!(state(condition(kind), None, "01:59"), Plan::Wait(Some(_))), "{kind}");
        assert!(matches!(state(condition(kind), None, "02:00"), Plan::Delete(_)), "{kind}");
    }
    assert!(matches!(state(condition("Approved"), Some("c"), "01:30"), Plan::Wait(Some(_))));
    assert!(matches!(state(condition("Approved"), Some("c"), "02:00"), Plan::Delete("issued")));
}

#[test]
fn certificates_hold_what_was_asked_for_and_no_more() {
    let key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca.self_signed(&key).unwrap();
    let authority = Authority::new(&ca.pem(), &key.serialize_pem(), Duration::from_secs(24 * 3600)).unwrap();
    let now = at("12:00");
    let sign = |seconds: Option<i64>, usages: &[&str]| {
        let encoded = request("system:node:n", "system:nodes", &["n", "10.0.0.1"]);
        let mut csr = csr("u", LEGACY, usages, &encoded, json!([]));
        csr.spec.expiration_seconds = seconds;
        authority.sign(Request::read(&encoded).unwrap(), &csr.spec, [1, 2], now)
    };
    let check = |seconds: Option<i64>, wanted: (i64, i64)| {
        let pem = STANDARD.decode(sign(seconds, &["server auth", "digital signature"]).unwrap()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let (_, issuer) = x509_parser::parse_x509_certificate(ca.der()).unwrap();
        certificate.verify_signature(Some(issuer.public_key())).unwrap();
        let validity = certificate.validity();
        let from_now = |time: &x509_parser::time::ASN1Time| time.timestamp() - now.as_second();
        assert_eq!((from_now(&validity.not_before), from_now(&validity.not_after)), wanted, "{seconds:?}");
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n, O=system:nodes");
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 2);
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
    };
    let day = 24 * 3600;
    check(None, (-300, day - 300));
    check(Some(1), (-300, 600));
    check(Some(3600), (-300, 3600));
    check(Some(10 * 3600), (-300, 10 * 3600 - 300));
    check(Some(100 * day), (-300, day - 300));
    assert!(sign(None, &["world domination"]).is_err());
}
