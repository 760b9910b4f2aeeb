//! The cluster's signing authority.

use super::CsrSpec;
use super::request::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{ExtendedKeyUsagePurpose as Extended, IsCa, Issuer, KeyPair, KeyUsagePurpose as Usage};
use std::sync::Arc;
use std::time::Duration;

/// A certificate is good from a while ago on, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// One that is asked for for less than this is not shortened by that.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// The least that is given.
const LEAST: Duration = Duration::from_secs(10 * 60);

/// What signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// When its own certificate ends.
    ends: i64,
    longest: Duration,
}

/// Why nothing can be signed. Final.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate or the key is unusable.
    #[error("the certificate or the key of the signing authority cannot be used")]
    Unusable(#[source] rcgen::Error),
    /// The certificate cannot be read.
    #[error("the certificate of the signing authority cannot be read")]
    Certificate,
    /// A usage that is not known.
    #[error("{0:?} is no usage of a certificate")]
    Usage(Arc<str>),
    /// The request cannot be signed.
    #[error("the request cannot be signed")]
    Sign(#[source] rcgen::Error),
}

impl Authority {
    /// From PEM; what it signs lasts for at most `longest`.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub fn new(certificate: &str, key: &str, longest: Duration) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Unusable)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(AuthorityError::Unusable)?;
        let pem = x509_parser::pem::parse_x509_pem(certificate.as_bytes());
        let (_, pem) = pem.map_err(|_| AuthorityError::Certificate)?;
        let parsed = pem.parse_x509().map_err(|_| AuthorityError::Certificate)?;
        let ends = parsed.validity().not_after.timestamp();
        Ok(Authority { issuer, ends, longest })
    }

    /// The certificate that is asked for: PEM in base64.
    pub fn sign(
        &self,
        request: Request,
        spec: &CsrSpec,
        serial: [u64; 2],
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let mut signed = request.params;
        let asked = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let life = asked.map_or(self.longest, |seconds| {
            Duration::from_secs(seconds).clamp(LEAST.min(self.longest), self.longest)
        });
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let begins = now.as_second() - seconds(BACKDATE);
        let from = if life < SHORT { now.as_second() } else { begins };
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let date = |seconds: i64| epoch + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let params = &mut signed.params;
        params.not_before = date(begins);
        params.not_after = date(from.saturating_add(seconds(life)).min(self.ends));
        params.serial_number = Some(serial.map(u64::to_be_bytes).concat().into());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        (params.key_usages, params.extended_key_usages) = usages(&spec.usages)?;
        let certificate = signed.signed_by(&self.issuer).map_err(AuthorityError::Sign)?;
        Ok(STANDARD.encode(certificate.pem()))
    }
}

fn usages(names: &[Arc<str>]) -> Result<(Vec<Usage>, Vec<Extended>), AuthorityError> {
    let (mut plain, mut extended) = (Vec::new(), Vec::new());
    for name in names {
        match (usage(name), extended_usage(name)) {
            (Some(usage), _) if !plain.contains(&usage) => plain.push(usage),
            (None, Some(usage)) if !extended.contains(&usage) => extended.push(usage),
            (None, None) => return Err(AuthorityError::Usage(name.clone())),
            _ => {}
        }
    }
    Ok((plain, extended))
}

fn usage(name: &str) -> Option<Usage> {
    Some(match name {
        "signing" | "digital signature" => Usage::DigitalSignature,
        "content commitment" => Usage::ContentCommitment,
        "key encipherment" => Usage::KeyEncipherment,
        "key agreement" => Usage::KeyAgreement,
        "data encipherment" => Usage::DataEncipherment,
        "cert sign" => Usage::KeyCertSign,
        "crl sign" => Usage::CrlSign,
        "encipher only" => Usage::EncipherOnly,
        "decipher only" => Usage::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<Extended> {
    let ipsec = |last: u64| Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match name {
        "any" => Extended::Any,
        "server auth" => Extended::ServerAuth,
        "client auth" => Extended::ClientAuth,
        "code signing" => Extended::CodeSigning,
        "email protection" | "s/mime" => Extended::EmailProtection,
        "ipsec end system" => ipsec(5),
        "ipsec tunnel" => ipsec(6),
        "ipsec user" => ipsec(7),
        "timestamping" => Extended::TimeStamping,
        "ocsp signing" => Extended::OcspSigning,
        "microsoft sgc" => Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}
