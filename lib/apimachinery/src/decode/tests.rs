//! What a text may cost; what objects become is in the crate's tests.

use super::*;
use crate::facts;
use crate::proto::{self, Envelope};
use serde_json::json;

fn pod() -> TypeId {
    facts::kind("v1", "Pod").unwrap()
}

#[test]
fn short_texts_do_not_become_large_trees() {
    let containers =
        |count: usize| format!(r#"{{"spec":{{"containers":[{}]}}}}"#, vec!["{}"; count].join(","));
    assert!(decode(containers(1000).as_bytes(), pod()).is_ok());
    let error = decode(containers(1_000_000).as_bytes(), pod()).unwrap_err();
    assert_eq!(error.to_string().split(" at line").next(), Some(TOO_MUCH));
    // In protobuf each is two bytes: field 2 of the spec, empty.
    let spec = [0x12, 0x00].repeat(1_000_000);
    let head =
        [0x12, 0x80 | (spec.len() & 0x7f) as u8, 0x80 | (spec.len() >> 7) as u8, (spec.len() >> 14) as u8];
    let envelope = Envelope { raw: &[&head, &spec[..]].concat(), ..Envelope::default() };
    assert!(proto::decode(&envelope, pod()).unwrap_err().to_string().contains(TOO_MUCH));
    for list in ["[],", "{},", "0,", "\"\",", "{\"a\":0},"] {
        let list = format!("[{}0]", list.repeat(1_000_000));
        assert!(parse(list.as_bytes()).is_err(), "{}", &list[..10]);
    }
    assert!(decode(format!(r#"{{"data":"{}"}}"#, "x".repeat(3 << 20)).as_bytes(), pod()).is_ok());
}

#[test]
fn what_is_kept_can_be_read_again() {
    let ty = facts::kind("apps/v1", "ControllerRevision").unwrap();
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let revision = |depth: usize| json!({"data": nested(depth)});
    assert!(normalize(revision(DEEPEST_KEPT + 1), ty).is_err());
    let kept = normalize(revision(DEEPEST_KEPT - 1), ty).unwrap().value.to_string();
    assert!(serde_json::from_str::<Value>(&kept).is_ok());
    assert!(decode(kept.as_bytes(), ty).is_ok());
}

#[test]
fn long_names_are_told_by_their_beginning() {
    let name = "ü".repeat(10_000);
    let text = json!({"metadata": {&name: 1}}).to_string();
    let findings = decode(text.as_bytes(), pod()).unwrap().findings;
    assert!(
        findings[0].starts_with("unknown field \"metadata.üü") && findings[0].len() < 2 * MOST_TOLD_BYTES
    );
}
