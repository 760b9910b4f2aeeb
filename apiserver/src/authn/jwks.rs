//! The public keys of ServiceAccount tokens as others read them, so that they can believe tokens themselves
//! (<https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery>).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A public key's JSON form; `None` for a file that holds no public key, or one of another kind than tokens have.
pub fn of_pem(pem: &[u8]) -> Option<Value> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    if pem.label != "PUBLIC KEY" {
        return None;
    }
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents).ok()?;
    let mut key = match info.parsed().ok()? {
        PublicKey::RSA(rsa) => {
            let plain = |number: &[u8]| text(&number[number.iter().take_while(|byte| **byte == 0).count()..]);
            json!({"kty": "RSA", "alg": "RS256", "n": plain(rsa.modulus), "e": plain(rsa.exponent)})
        }
        // An uncompressed point of P-256.
        PublicKey::EC(point) if point.data().len() == 65 && point.data()[0] == 4 => {
            let (x, y) = point.data()[1..].split_at(32);
            json!({"kty": "EC", "alg": "ES256", "crv": "P-256", "x": text(x), "y": text(y)})
        }
        _ => return None,
    };
    key["use"] = "sig".into();
    // Upstream's name of a key: the hash of its standard form.
    key["kid"] = text(&Sha256::digest(&pem.contents)).into();
    Some(key)
}

/// Where an issuer's keys are.
pub fn configuration(issuer: &str, advertised: &str, keys: &[Value]) -> Value {
    let mut algorithms: Vec<&Value> = keys.iter().map(|key| &key["alg"]).collect();
    algorithms.dedup();
    json!({
        "issuer": issuer, "jwks_uri": format!("https://{advertised}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_described_by_its_point() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = of_pem(pair.public_key_pem().as_bytes()).unwrap();
        let raw = pair.public_key_raw();
        assert_eq!(key["x"], URL_SAFE_NO_PAD.encode(&raw[1..33]));
        assert_eq!(key["y"], URL_SAFE_NO_PAD.encode(&raw[33..]));
        assert_eq!(key["kid"].as_str().map(str::len), Some(43));
        assert!(of_pem(pair.serialize_pem().as_bytes()).is_none(), "a private key is shown to nobody");
        let told = configuration("https://i", "10.0.0.1:6443", &[key.clone(), key]);
        assert_eq!(told["id_token_signing_alg_values_supported"], json!(["ES256"]));
        assert_eq!(told["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
    }
}
