//! TLS as libpq's `sslmode` means it, by rustls, and the channel binding of a finished handshake. Both kinds of
//! connections get their TLS here. No global rustls provider is installed or needed.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate;
use super::settings::{
    MinTlsVersion, RootCertificates, ServerNameIndication, SslMode, SslNegotiation, TlsSettings,
};

/// Where libpq looks for root certificates by default, below the home directory.
const DEFAULT_ROOTS: &str = ".postgresql/root.crt";
/// The protocol name that a server of version 17 demands before it speaks TLS without being asked.
const ALPN: &[u8] = b"postgresql";

/// TLS could not be set up, or the server failed it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with certificates or a key.
    #[error("the {content} in {} cannot be used: {problem}", .path.display())]
    File {
        /// `root certificates`, `client certificate`, `client key`.
        content: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// `verify-ca` or `verify-full` without anything to verify against.
    #[error("sslmode={} needs root certificates, and none are configured", .mode.as_str())]
    NoRoots {
        /// The mode that needs them.
        mode: SslMode,
    },
    /// `sslrootcert=system` found nothing.
    #[error("the system's root certificates cannot be read: {problem}")]
    SystemRoots {
        /// What is wrong.
        problem: String,
    },
    /// The certificate did not pass.
    #[error("the server's certificate is not accepted: {problem}")]
    Certificate {
        /// What is wrong with it.
        problem: String,
    },
    /// Versions, ciphers, alerts, a connection that broke.
    #[error("the TLS handshake failed: {problem}")]
    Handshake {
        /// What was wrong.
        problem: String,
    },
}

impl TlsError {
    pub(super) fn of_handshake(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(certificate)) => {
                Self::Certificate { problem: certificate.to_string() }
            }
            _ => Self::Handshake { problem: error.to_string() },
        }
    }

    /// What to do now.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::File { .. } => "Check the path in the connection string, that the file is readable, and that it is in PEM format.",
            Self::NoRoots { .. } => {
                "Add sslrootcert=PATH with the certificate authority that signed the server's certificate (CloudNativePG: `ca.crt` of the secret CLUSTER-ca), or sslrootcert=system."
            }
            Self::SystemRoots { .. } => "Install the system's certificates (package ca-certificates), or give sslrootcert=PATH.",
            Self::Certificate { .. } => {
                "Check that sslrootcert is the authority that signed the server's certificate, that the certificate has not expired, and, for verify-full, that it is made out to the host's name in the connection string."
            }
            Self::Handshake { .. } => {
                "Look into the server's log for the same handshake; check `ssl_min_protocol_version` on both ends, and that a client certificate is given if the server demands one."
            }
        }
        .to_owned()
    }
}

/// How much of a certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    Nothing,
    Chain,
    ChainAndName,
}

/// The rustls configuration for these settings. Reads the files they name.
pub(super) fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = load_roots(settings)?;
    let checks = match (settings.mode, &roots) {
        (SslMode::VerifyFull, Some(_)) => Checks::ChainAndName,
        // As libpq: `require` with root certificates at hand verifies like `verify-ca`.
        (SslMode::VerifyCa | SslMode::Require, Some(_)) => Checks::Chain,
        (mode @ (SslMode::VerifyFull | SslMode::VerifyCa), None) => return Err(TlsError::NoRoots { mode }),
        _ => Checks::Nothing,
    };
    let verifier = Verifier {
        provider: Arc::clone(&provider),
        checks,
        roots: roots.unwrap_or_else(|| Roots::new(Vec::new())),
    };
    let versions: &[&rustls::SupportedProtocolVersion] = match settings.min_version {
        MinTlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinTlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let handshake = |error: rustls::Error| TlsError::Handshake { problem: error.to_string() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(handshake)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = load_certificates("client certificate", certificate)?;
            let content = "client key";
            let failure = |problem: String| TlsError::File { content, path: key.clone(), problem };
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failure(error.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| failure(error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.server_name == ServerNameIndication::Sent;
    if settings.negotiation == SslNegotiation::Direct {
        config.alpn_protocols.push(ALPN.to_vec());
    }
    Ok(config)
}

/// For a client of the HTTP API: everything is checked, and only what is in this file is trusted. That may be the
/// server's own certificate, where no authority has signed it.
///
/// # Errors
/// The file cannot be used.
pub fn https_client_config(authority: &std::path::Path) -> Result<ClientConfig, TlsError> {
    client_config(&TlsSettings {
        mode: SslMode::VerifyFull,
        roots: RootCertificates::File(authority.to_owned()),
        ..TlsSettings::default()
    })
}

/// Trusted certificates: as anchors for chains, and as they are, because a self-signed server certificate that is
/// itself the trusted one is no chain to webpki, while libpq accepts it.
#[derive(Debug)]
struct Roots {
    anchors: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

fn load_roots(settings: &TlsSettings) -> Result<Option<Roots>, TlsError> {
    let path = match &settings.roots {
        RootCertificates::System => {
            let loaded = rustls_native_certs::load_native_certs();
            if loaded.certs.is_empty() {
                let problem = loaded.errors.first().map_or("there are none".to_owned(), ToString::to_string);
                return Err(TlsError::SystemRoots { problem });
            }
            return Ok(Some(Roots::new(loaded.certs)));
        }
        RootCertificates::File(path) => path.clone(),
        RootCertificates::Default => {
            match std::env::home_dir().map(|home| home.join(DEFAULT_ROOTS)).filter(|path| path.exists()) {
                Some(path) => path,
                None => return Ok(None),
            }
        }
    };
    // As libpq: a file that does not exist only matters to modes that verify.
    let verifies = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    if !verifies && !path.exists() {
        return Ok(None);
    }
    load_certificates("root certificates", &path).map(|certificates| Some(Roots::new(certificates)))
}

impl Roots {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(certificates.iter().cloned());
        Self { anchors, certificates }
    }
}

fn load_certificates(
    content: &'static str,
    path: &std::path::Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failure = |problem: String| TlsError::File { content, path: path.to_owned(), problem };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failure(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failure("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    checks: Checks,
    roots: Roots,
}

impl Verifier {
    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.roots.certificates.iter().any(|root| root.as_ref() == certificate.as_ref()) {
            return certificate::check_validity(certificate, now).map_err(rustls::Error::InvalidCertificate);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(parsed, &self.roots.anchors, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.checks == Checks::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        self.verify_chain(certificate, &parsed, intermediates, now)?;
        if self.checks == Checks::ChainAndName {
            // As libpq: the common name counts only where there is no alternative name.
            verify_server_name(&parsed, name).or_else(|error| {
                match certificate::common_name_matches(certificate, name) {
                    true => Ok(()),
                    false => Err(error),
                }
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
