//! Objects that Go's own codec (k8s.io/apimachinery v0.37.0) encoded as protobuf: decoding them must give what decoding
//! their JSON gives, and encoding must lead back to the same. `GO_ENCODED` names another file of that form.

#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minik_apimachinery::proto::{self, Envelope};
use minik_apimachinery::{decode, facts};
use serde_json::Value;

#[test]
fn what_go_encoded_is_read_and_written_alike() {
    let file = std::env::var("GO_ENCODED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go_encoded.jsonl").to_owned());
    let text = std::fs::read_to_string(file).unwrap();
    let (mut total, mut failures) = (0, Vec::new());
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let object = &row["object"];
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let ty = facts::kind(api_version, kind).unwrap();
        let wanted = decode::normalize(object.clone(), ty).unwrap().value;
        let bytes = STANDARD.decode(row["proto"].as_str().unwrap()).unwrap();
        total += 1;
        let read = match proto::decode(&Envelope::open(&bytes).unwrap(), ty) {
            Ok(read) => read,
            Err(error) => {
                failures.push(format!("{kind}: {error}"));
                continue;
            }
        };
        if read != wanted {
            failures.push(format!("{kind}:\n  json  {wanted}\n  proto {read}"));
        }
        let again = proto::encode(&wanted, ty);
        if proto::decode(&Envelope::open(&again).unwrap(), ty).unwrap() != wanted {
            failures.push(format!("{kind}: encoding it does not lead back"));
        }
        if let Ok(file) = std::env::var("ENCODED_OUT") {
            use std::io::Write;
            let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
            writeln!(out, "{}", hex(&again)).unwrap();
        }
    }
    assert!(total > 20, "{total}");
    assert!(failures.is_empty(), "{} of {total}:\n{}", failures.len(), failures.join("\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
