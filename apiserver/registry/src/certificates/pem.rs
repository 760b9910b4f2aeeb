//! PEM: texts that hold certificates and requests for them.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

const REQUEST: &str = "CERTIFICATE REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// One block of a text.
struct Block<'a> {
    label: &'a str,
    has_headers: bool,
    der: Vec<u8>,
}

/// What is wrong with a signing request: the first block must be one, signed with the key that it is for.
pub(super) fn request_fault(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let Some((block, _)) = next(&text).filter(|(block, _)| block.label == REQUEST) else {
        return Some("the type of the PEM block must be CERTIFICATE REQUEST".into());
    };
    match X509CertificationRequest::from_der(&block.der) {
        Err(error) => Some(format!("the request cannot be read: {error}")),
        Ok((rest, _)) if !rest.is_empty() => Some("there is more than the request".into()),
        Ok((_, request)) => (!is_signed(&request)).then(|| "the request's signature is wrong".to_owned()),
    }
}

/// How requests are signed: the algorithm's object identifier, and what verifies it, a line a size of key.
static VERIFIERS: [(&str, &dyn VerificationAlgorithm); 17] = [
    ("1.2.840.113549.1.1.5", &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
    ("1.2.840.113549.1.1.11", &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
    ("1.2.840.113549.1.1.12", &signature::RSA_PKCS1_2048_8192_SHA384),
    ("1.2.840.113549.1.1.13", &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
    ("1.2.840.113549.1.1.10", &signature::RSA_PSS_2048_8192_SHA256),
    ("1.2.840.113549.1.1.10", &signature::RSA_PSS_2048_8192_SHA384),
    ("1.2.840.113549.1.1.10", &signature::RSA_PSS_2048_8192_SHA512),
    ("1.2.840.10045.4.3.2", &signature::ECDSA_P256_SHA256_ASN1),
    ("1.2.840.10045.4.3.2", &signature::ECDSA_P384_SHA256_ASN1),
    ("1.2.840.10045.4.3.2", &signature::ECDSA_P521_SHA256_ASN1),
    ("1.2.840.10045.4.3.3", &signature::ECDSA_P256_SHA384_ASN1),
    ("1.2.840.10045.4.3.3", &signature::ECDSA_P384_SHA384_ASN1),
    ("1.2.840.10045.4.3.3", &signature::ECDSA_P521_SHA384_ASN1),
    ("1.2.840.10045.4.3.4", &signature::ECDSA_P256_SHA512_ASN1),
    ("1.2.840.10045.4.3.4", &signature::ECDSA_P384_SHA512_ASN1),
    ("1.2.840.10045.4.3.4", &signature::ECDSA_P521_SHA512_ASN1),
    ("1.3.101.112", &signature::ED25519),
];

/// Whether a request is signed with the key that it is for.
fn is_signed(request: &X509CertificationRequest<'_>) -> bool {
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let key = &request.certification_request_info.subject_pki.subject_public_key.data;
    let (signed, signature) = (request.certification_request_info.raw, &request.signature_value.data);
    VERIFIERS
        .iter()
        .filter(|(known, _)| *known == algorithm)
        .any(|(_, verifier)| UnparsedPublicKey::new(*verifier, key).verify(signed, signature).is_ok())
}

/// What is wrong with a chain of certificates; nothing is wrong with none.
pub(super) fn chain_fault(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(text);
    let (mut rest, mut blocks) = (text.as_ref(), 0);
    while let Some((block, after)) = next(rest) {
        if block.label != CERTIFICATE {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Some("PEM blocks must have no headers".into());
        }
        let mut der = block.der.as_slice();
        loop {
            match X509Certificate::from_der(der) {
                Ok(([], _)) => break,
                Ok((more, _)) => der = more,
                Err(error) => return Some(format!("a certificate cannot be read: {error}")),
            }
        }
        (rest, blocks) = (after, blocks + 1);
    }
    (blocks == 0).then(|| "there must be a CERTIFICATE PEM block".into())
}

/// The first whole block of a text and what comes after it; what is no block is passed over.
fn next(text: &str) -> Option<(Block<'_>, &str)> {
    let mut rest = text;
    loop {
        let at = if rest.starts_with("-----BEGIN ") { 0 } else { rest.find("\n-----BEGIN ")? + 1 };
        let begin = &rest[at + "-----BEGIN ".len()..];
        rest = begin;
        let (line, body) = begin.split_once('\n').unwrap_or((begin, ""));
        let Some(label) = line.trim_end().strip_suffix("-----") else { continue };
        let end = format!("-----END {label}-----");
        let Some(stop) = body.find(&end) else { continue };
        if stop > 0 && !body[..stop].ends_with('\n') {
            continue;
        }
        let content = &body[..stop];
        let headers = content.lines().take_while(|line| line.contains(':')).count();
        let letters: String =
            content.lines().skip(headers).flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
        if let Ok(der) = STANDARD.decode(letters) {
            return Some((Block { label, has_headers: headers > 0, der }, &body[stop + end.len()..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_text() {
        let text = "notes\n-----BEGIN A-----\n!!\n-----END A-----\n-----BEGIN B-----\nX: y\n\nAAEC\n-----END B-----\nmore";
        let (block, rest) = next(text).unwrap();
        assert_eq!((block.label, block.has_headers, block.der.as_slice()), ("B", true, &[0, 1, 2][..]));
        assert_eq!(rest, "\nmore");
        assert!(next(rest).is_none());
        assert!(request_fault(text.as_bytes()).is_some());
        assert!(chain_fault(text.as_bytes()).unwrap().contains("found \"B\""));
        assert_eq!(chain_fault(b""), None);
        assert!(chain_fault(b"none").is_some());
    }
}
