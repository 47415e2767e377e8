//! The certificate and the key by which the HTTP API proves to be itself, read from two PEM files and checked to belong
//! together. It says what is wrong with them in words for an operator; that they are read anew when they change is the
//! listener's business. The key never appears in an error or in `Debug` (INV-10).

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::certificate;

/// No chain of certificates, and no key, is longer.
const BYTES_MAX: u64 = 1024 * 1024;

/// A certificate chain with its key, ready for handshakes.
#[derive(Clone)]
pub struct ServerIdentity {
    certified: Arc<CertifiedKey>,
    expires_at: i64,
    digest: [u8; 32],
}

/// Which of the two files cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate.
    #[error("the certificate in {} cannot be used: {problem}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key.
    #[error("the key in {} cannot be used: {problem}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Each is in order, and they are not a pair.
    #[error("the key in {} is not that of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        certificate: PathBuf,
    },
}

impl ServerIdentity {
    /// Reads both files.
    ///
    /// # Errors
    /// One of them cannot be read or is not what it should be, or they do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let in_certificate =
            |problem: String| IdentityError::Certificate { path: certificate.to_owned(), problem };
        let in_key = |problem: String| IdentityError::Key { path: key.to_owned(), problem };
        let chain_pem = read(certificate).map_err(in_certificate)?;
        let key_pem = read(key).map_err(in_key)?;

        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain_pem).collect();
        let chain = chain.map_err(|error| in_certificate(format!("it is no PEM file ({error})")))?;
        let Some(leaf) = chain.first() else {
            return Err(in_certificate("there is no certificate in it".to_owned()));
        };
        let expires_at = certificate::expires_at(leaf)
            .ok_or_else(|| in_certificate("its first certificate is not understood".to_owned()))?;
        // The library's words could only be about the form; they quote nothing of the key.
        let private = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|error| in_key(format!("there is no private key in PEM format in it ({error})")))?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, private, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::Mismatch { key: key.to_owned(), certificate: certificate.to_owned() }
            }
            rustls::Error::InvalidCertificate(problem) => in_certificate(problem.to_string()),
            other => in_key(other.to_string()),
        })?;
        let digest =
            Sha256::new().chain_update(&chain_pem).chain_update([0]).chain_update(&key_pem).finalize();
        Ok(Self { certified: Arc::new(certified), expires_at, digest: digest.into() })
    }

    /// What rustls shows to clients.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The last second in which the certificate is valid, in seconds since 1970.
    #[must_use]
    pub const fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Whether the other was read from the same content.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read ({error})");
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > BYTES_MAX {
        return Err(format!("it is larger than {BYTES_MAX} bytes"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (parameters.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_and_says_when_it_expires_and_nothing_of_its_key() {
        let folder = tempfile::tempdir().expect("folder");
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let (certificate_pem, key_pem) = pair("localhost");
        std::fs::write(&certificate, &certificate_pem).expect("written");
        std::fs::write(&key, &key_pem).expect("written");
        let identity = ServerIdentity::read(&certificate, &key).expect("a pair");
        // rcgen's certificates are valid until the beginning of 4096.
        assert_eq!(identity.expires_at(), 67_090_118_400);
        assert!(identity.is_same(&ServerIdentity::read(&certificate, &key).expect("a pair")));
        let shown = format!("{identity:?}");
        assert!(!shown.contains("PRIVATE") && shown.len() < 80, "{shown}");
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said_of_the_right_file() {
        let folder = tempfile::tempdir().expect("folder");
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let (certificate_pem, key_pem) = pair("localhost");
        let (_, other_key) = pair("localhost");
        let refused = |certificate_content: &str, key_content: &str| {
            std::fs::write(&certificate, certificate_content).expect("written");
            std::fs::write(&key, key_content).expect("written");
            ServerIdentity::read(&certificate, &key).expect_err("refused")
        };
        let half = &certificate_pem[..certificate_pem.len() / 2];
        assert!(matches!(refused(half, &key_pem), IdentityError::Certificate { .. }));
        assert!(refused("", &key_pem).to_string().contains("there is no certificate in it"));
        assert!(matches!(refused(&certificate_pem, ""), IdentityError::Key { .. }));
        // The two exchanged, as happens.
        assert!(matches!(refused(&key_pem, &certificate_pem), IdentityError::Certificate { .. }));
        assert!(matches!(refused(&certificate_pem, &other_key), IdentityError::Mismatch { .. }));
        std::fs::remove_file(&key).expect("removed");
        let missing = ServerIdentity::read(&certificate, &key).expect_err("refused").to_string();
        assert!(missing.contains("tls.key cannot be used: it cannot be read"), "{missing}");
    }
}
