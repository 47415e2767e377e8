//! What is read out of a server's X.509 certificate: the channel binding hash, its validity, and its common name for
//! certificates made before alternative names were usual. Pure; chains and signatures are webpki's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use der::Decode as _;
use der::oid::ObjectIdentifier;
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der;

/// `2.5.4.3`, commonName.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// `2.5.29.17`, subjectAltName.
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// RSASSA-PSS, whose hash stands in its parameters.
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// Signature algorithms and the hash that `tls-server-end-point` takes for them (RFC 5929, section 4.1: the
/// signature's own hash, with SHA-256 in the place of MD5 and SHA-1).
const SIGNATURE_HASHES: &[(&str, Hash)] = &[
    ("1.2.840.113549.1.1.4", Hash::Sha256),  // md5WithRSAEncryption
    ("1.2.840.113549.1.1.5", Hash::Sha256),  // sha1WithRSAEncryption
    ("1.2.840.113549.1.1.11", Hash::Sha256), // sha256WithRSAEncryption
    ("1.2.840.113549.1.1.12", Hash::Sha384), // sha384WithRSAEncryption
    ("1.2.840.113549.1.1.13", Hash::Sha512), // sha512WithRSAEncryption
    ("1.2.840.10045.4.1", Hash::Sha256),     // ecdsa-with-SHA1
    ("1.2.840.10045.4.3.2", Hash::Sha256),   // ecdsa-with-SHA256
    ("1.2.840.10045.4.3.3", Hash::Sha384),   // ecdsa-with-SHA384
    ("1.2.840.10045.4.3.4", Hash::Sha512),   // ecdsa-with-SHA512
];

/// Hashes by their own identifiers, as RSASSA-PSS names them; SHA-1 is its default.
const PSS_HASHES: &[(&str, Hash)] = &[
    ("2.16.840.1.101.3.4.2.1", Hash::Sha256),
    ("2.16.840.1.101.3.4.2.2", Hash::Sha384),
    ("2.16.840.1.101.3.4.2.3", Hash::Sha512),
];

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// What is remembered of the certificate that a server showed last. Clones share it; it is no part of what was configured, so all
/// are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct ShownCertificate(Arc<AtomicI64>);

impl ShownCertificate {
    /// Its validity ends then, in seconds since 1970.
    pub(super) fn expires_at(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    /// `None` until one was shown: certificates of 1970 are not told from none.
    pub(super) fn expiry(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds != 0)
    }
}

impl PartialEq for ShownCertificate {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ShownCertificate {}

/// The `tls-server-end-point` channel binding of a server's certificate; `None` where none is defined (Ed25519).
pub(super) fn tls_server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate.as_ref()).ok()?;
    let algorithm = parsed.signature_algorithm();
    let hash = if algorithm.oid == RSASSA_PSS {
        let parameters = algorithm.parameters.as_ref()?;
        pss_hash(parameters.value())?
    } else {
        lookup(SIGNATURE_HASHES, algorithm.oid)?
    };
    let bytes = certificate.as_ref();
    Some(match hash {
        Hash::Sha256 => Sha256::digest(bytes).to_vec(),
        Hash::Sha384 => Sha384::digest(bytes).to_vec(),
        Hash::Sha512 => Sha512::digest(bytes).to_vec(),
    })
}

fn lookup(table: &[(&str, Hash)], oid: ObjectIdentifier) -> Option<Hash> {
    let text = oid.to_string();
    table.iter().find(|(known, _)| *known == text).map(|(_, hash)| *hash)
}

/// `RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] AlgorithmIdentifier DEFAULT sha1, … }` (RFC 8017, A.2.3);
/// `content` is what the sequence contains.
fn pss_hash(content: &[u8]) -> Option<Hash> {
    use der::{Reader as _, SliceReader};
    let mut reader = SliceReader::new(content).ok()?;
    let identifier = reader
        .context_specific::<x509_cert::spki::AlgorithmIdentifierOwned>(
            der::TagNumber(0),
            der::TagMode::Explicit,
        )
        .ok()?;
    match identifier {
        Some(identifier) => lookup(PSS_HASHES, identifier.oid),
        None => Some(Hash::Sha256),
    }
}

/// The last second in which a certificate is valid, in seconds since 1970; `None` if it is not understood.
pub(super) fn expires_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    let parsed = Certificate::from_der(certificate.as_ref()).ok()?;
    i64::try_from(parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs()).ok()
}

/// Whether the certificate is valid now.
pub(super) fn check_validity(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let parsed = Certificate::from_der(certificate.as_ref()).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate().validity();
    let seconds = now.as_secs();
    if seconds < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet);
    }
    if seconds > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Whether a certificate without alternative names has the host's name as its common name. A wildcard stands for
/// exactly the first label.
pub(super) fn common_name_matches(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(host) = name else { return false };
    let Ok(parsed) = Certificate::from_der(certificate.as_ref()) else { return false };
    let tbs = parsed.tbs_certificate();
    let has_alternatives = tbs
        .extensions()
        .is_some_and(|extensions| extensions.iter().any(|extension| extension.extn_id == SUBJECT_ALT_NAME));
    if has_alternatives {
        return false;
    }
    let mut names = tbs.subject().iter().filter(|attribute| attribute.oid == COMMON_NAME);
    names.any(|attribute| {
        let Ok(common_name) = std::str::from_utf8(attribute.value.value()) else { return false };
        let host = host.as_ref();
        common_name.eq_ignore_ascii_case(host)
            || common_name.strip_prefix("*.").is_some_and(|domain| {
                host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
            })
    })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn name(text: &'static str) -> ServerName<'static> {
        ServerName::try_from(text).unwrap()
    }

    // Made by `openssl req -x509`; the keys were thrown away.
    const RSA_PSS_SHA384: &str = include_str!("testdata/rsa_pss_sha384.crt");
    const RSA_SHA1_WILDCARD: &str = include_str!("testdata/rsa_sha1.crt");
    const RSA_SHA512_WITH_ALTERNATIVE_NAME: &str = include_str!("testdata/rsa_sha512.crt");

    #[test]
    fn the_signature_algorithm_decides_about_the_channel_bindings_hash() {
        let pss = certificate(RSA_PSS_SHA384);
        assert_eq!(tls_server_end_point(&pss), Some(Sha384::digest(&pss).to_vec()));
        let sha1 = certificate(RSA_SHA1_WILDCARD);
        assert_eq!(tls_server_end_point(&sha1), Some(Sha256::digest(&sha1).to_vec()));
        let sha512 = certificate(RSA_SHA512_WITH_ALTERNATIVE_NAME);
        assert_eq!(tls_server_end_point(&sha512), Some(Sha512::digest(&sha512).to_vec()));
        assert_eq!(tls_server_end_point(&CertificateDer::from_slice(b"not a certificate")), None);
    }

    #[test]
    fn a_common_name_counts_only_where_there_is_no_alternative_name() {
        let plain = certificate(RSA_PSS_SHA384);
        assert!(common_name_matches(&plain, &name("LOCALHOST")));
        assert!(!common_name_matches(&plain, &name("localhost.example")));
        let wildcard = certificate(RSA_SHA1_WILDCARD);
        assert!(common_name_matches(&wildcard, &name("one.db.example")));
        assert!(!common_name_matches(&wildcard, &name("one.two.db.example")));
        assert!(!common_name_matches(&wildcard, &name("db.example")));
        assert!(!common_name_matches(&wildcard, &name("127.0.0.1")));
        let alternative = certificate(RSA_SHA512_WITH_ALTERNATIVE_NAME);
        assert!(!common_name_matches(&alternative, &name("db.example")));
    }

    #[test]
    fn a_certificate_is_valid_only_between_its_dates() {
        let certificate = certificate(RSA_PSS_SHA384);
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert!(check_validity(&certificate, UnixTime::now()).is_ok());
        assert_eq!(check_validity(&certificate, at(0)), Err(CertificateError::NotValidYet));
        assert_eq!(check_validity(&certificate, at(1 << 33)), Err(CertificateError::Expired));
    }
}
