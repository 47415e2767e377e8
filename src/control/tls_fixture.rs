//! An authority and certificates that it signs, for tests.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::config::TlsFiles;

/// A folder with an authority's certificate, and room for those that it signs.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("an authority");
        std::fs::write(folder.path().join("ca.crt"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Where the server's pair is.
    pub(crate) fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.folder.path().join("tls.crt"), key: self.folder.path().join("tls.key") }
    }

    /// Makes a pair for this machine, in the place of the one that is there; the certificate's DER.
    pub(crate) fn issue(&self) -> Vec<u8> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(names).expect("parameters");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let files = self.files();
        std::fs::write(files.certificate, certificate.pem()).expect("written");
        std::fs::write(files.key, key.serialize_pem()).expect("written");
        certificate.der().to_vec()
    }
}
