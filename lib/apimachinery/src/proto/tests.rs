use super::*;
use crate::facts;
use serde_json::json;

fn round_trip(object: Value) {
    let sample = object.clone();
    let text = |name: &str| sample[name].as_str().unwrap_or_default().to_owned();
    let ty = facts::kind(&text("apiVersion"), &text("kind")).unwrap();
    let object = decode::normalize(object, ty).unwrap().value;
    let bytes = encode(&object, ty);
    let envelope = Envelope::open(&bytes).unwrap();
    assert_eq!(
        (envelope.api_version.as_str(), envelope.kind.as_str()),
        (&*text("apiVersion"), &*text("kind"))
    );
    assert_eq!(super::decode(&envelope, ty).unwrap(), object);
}

#[test]
fn every_form_of_value_survives() {
    round_trip(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2024-01-01T00:00:00Z",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}, "time": "1969-12-31T23:59:59Z"}]},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "100m"}},
                "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": -3}}],
            "volumes": [{"name": "v", "secret": {"secretName": "s", "optional": false}}],
            "terminationGracePeriodSeconds": 0, "securityContext": {"supplementalGroups": [1, -2, 3_000_000_000i64]},
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}]}}));
    round_trip(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": "AAEC", "b": ""}}));
    round_trip(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"renewTime": "2024-01-01T00:00:00.000123Z"}}));
    round_trip(json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
        "data": {"spec": [1, {"a": null}]}, "revision": 3}));
    round_trip(
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
        "status": {"user": {"extra": {"k": ["a", "b"], "none": []}}}}),
    );
    round_trip(json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {}, "spec": {"matchConstraints": {"resourceRules": [
            {"resourceNames": ["n"], "operations": ["CREATE"], "apiGroups": ["apps"], "scope": "*"}]}}}));
}

#[test]
fn a_frame_is_a_length_and_an_event() {
    let frame = frame("ADDED", b"object");
    assert_eq!(frame, b"\0\0\0\x11\x0a\x05ADDED\x12\x08\x0a\x06object");
}

#[test]
fn other_bytes_are_refused() {
    let ty = facts::kind("v1", "Pod").unwrap();
    assert!(matches!(Envelope::open(b"{}"), Err(ProtoError::NoMagic)));
    assert!(Envelope::open(b"k8s\0\x0a\x05x").is_err());
    let refused = |raw: &[u8]| {
        let envelope = Envelope { raw, ..Envelope::default() };
        super::decode(&envelope, ty).is_err()
    };
    // A varint where a message belongs, a text that is no UTF-8, a length past the end, an endless number.
    assert!(refused(b"\x08\x01") && refused(b"\x0a\x04\x0a\x02\xff\xfe") && refused(b"\x0a\x7f"));
    assert!(refused(&[0xff; 12]));
    // What is not known is passed over.
    assert!(!refused(b"\xf8\x7f\x01"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0usize..1225) {
        let ty = TypeId::all().nth(at).unwrap();
        let _ = super::decode(&Envelope { raw: &bytes, ..Envelope::default() }, ty);
        let _ = Envelope::open(&bytes);
    }
}
