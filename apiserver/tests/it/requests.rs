//! Certificate signing requests, from the asking to the certificate.

use crate::client::Client;
use base64::Engine;
use serde_json::{Value, json};

const PLACE: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const JSON: &str = "application/json";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A request, and a certificate that could answer it.
fn signed() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::default();
    let request = parameters.serialize_request(&key).unwrap().pem().unwrap();
    (base64(&request), base64(&parameters.self_signed(&key).unwrap().pem()))
}

fn body(request: &str) -> Value {
    json!({"metadata": {"name": "r"}, "spec": {"request": request, "signerName": "example.com/s",
        "usages": ["client auth"], "username": "somebody else"}})
}

async fn refused(client: &Client, uri: &str, body: &Value) -> Vec<String> {
    let answer = client.send("PUT", uri, JSON, body.to_string()).await;
    assert_eq!(answer.code, 422, "{}", String::from_utf8_lossy(&answer.body));
    let causes = answer.json()["details"]["causes"].as_array().unwrap().clone();
    causes.iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_request_is_approved_then_answered() {
    let client = Client::new().await;
    let (request, certificate) = signed();
    let made = client.must("POST", PLACE, &body(&request)).await;
    assert_eq!(made["spec"]["username"], "admin");
    let (approval, status) = (format!("{PLACE}/r/approval"), format!("{PLACE}/r/status"));
    let approved = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);

    // Neither the status nor the object approves.
    let mut early = made.clone();
    early["status"]["conditions"] = approved.clone();
    assert_eq!(refused(&client, &status, &early).await, ["status.conditions"]);
    let same = client.must("PUT", &format!("{PLACE}/r"), &early).await;
    assert_eq!(same["status"], json!({}));

    let now = client.must("PUT", &approval, &early).await;
    let condition = now["status"]["conditions"][0].clone();
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    let mut both = now.clone();
    let denied = json!({"type": "Denied", "status": "True"});
    both["status"]["conditions"].as_array_mut().unwrap().push(denied);
    assert_eq!(refused(&client, &approval, &both).await, ["status.conditions[1].type"]);
    let mut none = now.clone();
    none["status"]["conditions"] = json!([]);
    assert_eq!(refused(&client, &approval, &none).await, ["status.conditions"]);

    let mut issued = now.clone();
    issued["status"]["certificate"] = base64("no certificate").into();
    assert_eq!(refused(&client, &status, &issued).await, ["status.certificate"]);
    issued["status"]["certificate"] = certificate.into();
    issued["status"]["conditions"][0]["reason"] = "Changed".into();
    let now = client.must("PUT", &status, &issued).await;
    assert_eq!(now["status"]["certificate"], issued["status"]["certificate"]);
    assert_eq!(now["status"]["conditions"][0], condition, "approval is kept");
    let mut again = now.clone();
    again["status"]["certificate"] = signed().1.into();
    assert_eq!(refused(&client, &status, &again).await, ["status.certificate"]);

    let listed = client
        .must("GET", &format!("{PLACE}?fieldSelector=spec.signerName%3Dexample.com/s"), &Value::Null)
        .await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    client.end().await;
}

/// Keys of every kind that certificates are made for.
#[tokio::test]
async fn any_usual_key_signs_a_request() {
    let client = Client::new().await;
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        client.must("POST", &format!("{PLACE}?dryRun=All"), &body(&base64(&request))).await;
    }
    client.end().await;
}

#[tokio::test]
async fn a_request_must_be_one() {
    let client = Client::new().await;
    let (request, certificate) = signed();
    let forged = {
        let pem =
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(&request).unwrap()).unwrap();
        let end = pem.find("\n-----END").unwrap();
        // The last letters are the signature's.
        let other = if &pem[end - 12..end - 11] == "A" { "B" } else { "A" };
        base64(&format!("{}{other}{}", &pem[..end - 12], &pem[end - 11..]))
    };
    for wrong in ["", &base64("x"), &certificate, &forged] {
        let answer = client.send("POST", PLACE, JSON, body(wrong).to_string()).await;
        assert_eq!(answer.code, 422, "{wrong}");
        assert_eq!(answer.json()["details"]["causes"][0]["field"], "spec.request");
    }
    for (signer, faults) in [
        ("a.example.com/x.y", 0),
        ("example.com", 1),
        ("example.com/a/b", 1),
        ("com/a", 1),
        ("-.-/a", 1),
        ("example.com/-.-", 1),
        ("kubernetes.io/legacy-unknown", 1),
    ] {
        let mut body = body(&request);
        body["spec"]["signerName"] = signer.into();
        let answer = client.send("POST", &format!("{PLACE}?dryRun=All"), JSON, body.to_string()).await;
        let causes = answer.json()["details"]["causes"].as_array().map_or(0, Vec::len);
        assert_eq!(causes, faults, "{signer}");
    }
    client.end().await;
}
