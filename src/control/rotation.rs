//! The API's certificate while it runs: both files are looked at every few seconds, because whoever renews certificates
//! (cert-manager, a mounted Secret) tells nobody. A pair that cannot be used, half-written or the key of another certificate,
//! leaves the former one in use; it is said once, not at each look. Handshakes that are under way are not disturbed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::connection::{IdentityError, ServerIdentity};
use crate::telemetry::{CertificateOf, Metrics};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// All that the server behind it speaks.
const ALPN: &[u8] = b"http/1.1";

/// A certificate that is replaced when its files are.
#[derive(Debug)]
pub(super) struct RotatingIdentity {
    files: TlsFiles,
    current: RwLock<ServerIdentity>,
}

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    AsBefore,
    Replaced,
    Unusable(IdentityError),
}

impl RotatingIdentity {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be used.
    pub(super) fn new(files: TlsFiles) -> Result<Arc<Self>, IdentityError> {
        let identity = ServerIdentity::read(&files.certificate, &files.key)?;
        warn_if_expired(&identity, &files);
        Ok(Arc::new(Self { files, current: RwLock::new(identity) }))
    }

    /// What does handshakes with the certificate that is current at their time.
    ///
    /// # Errors
    /// Never with the versions and ciphers that are compiled in.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols.push(ALPN.to_vec());
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files again and again, and keeps the metric of the certificate's end current. Never ends.
    pub(super) async fn watch(self: Arc<Self>, metrics: &Metrics) {
        let mut said = None;
        loop {
            metrics.certificate_expires(CertificateOf::Api, Some(self.current().expires_at()));
            tokio::time::sleep(LOOK_EVERY).await;
            let looking = Arc::clone(&self);
            // On a thread of its own: a volume may hang.
            let Ok(look) = tokio::task::spawn_blocking(move || looking.look()).await else { continue };
            match look {
                Look::AsBefore => said = None,
                Look::Replaced => {
                    said = None;
                    let expires_at = Timestamp::from_second(self.current().expires_at()).ok();
                    let expires_at = expires_at.map(|at| at.to_string()).unwrap_or_default();
                    tracing::info!(%expires_at, "the api's certificate was replaced");
                    warn_if_expired(&self.current(), &self.files);
                }
                Look::Unusable(error) if said.as_ref() == Some(&error) => {}
                Look::Unusable(error) => {
                    tracing::warn!(%error, "the api's new certificate cannot be used; the former one stays in use until it can");
                    said = Some(error);
                }
            }
        }
    }

    fn look(&self) -> Look {
        match ServerIdentity::read(&self.files.certificate, &self.files.key) {
            Ok(identity) if identity.is_same(&self.current()) => Look::AsBefore,
            Ok(identity) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = identity;
                Look::Replaced
            }
            Err(error) => Look::Unusable(error),
        }
    }

    fn current(&self) -> ServerIdentity {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn warn_if_expired(identity: &ServerIdentity, files: &TlsFiles) {
    if identity.expires_at() < Timestamp::now().as_second() {
        tracing::warn!(path = %files.certificate.display(), "the api's certificate has expired: clients that check it will not connect; renew it");
    }
}

impl ResolvesServerCert for RotatingIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tls_fixture::Authority;
    use super::*;

    fn shown(identity: &RotatingIdentity) -> Vec<u8> {
        identity.current().certified().cert[0].to_vec()
    }

    #[test]
    fn a_pair_that_cannot_be_used_leaves_the_former_one_in_use() {
        let authority = Authority::new();
        let first = authority.issue();
        let identity = RotatingIdentity::new(authority.files()).expect("a pair");
        assert_eq!((identity.look(), shown(&identity)), (Look::AsBefore, first.clone()));

        let files = authority.files();
        let (certificate, key) = (std::fs::read(&files.certificate), std::fs::read(&files.key));
        let (certificate, key) = (certificate.expect("read"), key.expect("read"));
        let second = authority.issue();
        let second_key = std::fs::read(&files.key).expect("read");
        for (name, content) in
            [("key", &key), ("half a key", &second_key[..40].to_vec()), ("none", &Vec::new())]
        {
            std::fs::write(&files.key, content).expect("written");
            assert!(matches!(identity.look(), Look::Unusable(_)), "{name}");
            assert_eq!(shown(&identity), first, "{name}");
        }
        std::fs::write(&files.key, &second_key).expect("written");
        assert_eq!((identity.look(), shown(&identity)), (Look::Replaced, second));
        std::fs::remove_file(&files.certificate).expect("removed");
        assert!(matches!(identity.look(), Look::Unusable(_)));
        std::fs::write(&files.certificate, certificate).expect("written");
        std::fs::write(&files.key, key).expect("written");
        assert_eq!((identity.look(), shown(&identity)), (Look::Replaced, first));
    }
}
