//! The way to a running instance: its address, whom it is trusted by, and one request with its answer. The token goes with each
//! request, to this instance only; nothing is redirected to another one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url, header};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ClientError;
use crate::connection::{Secret, https_client_config};
use crate::control::ProblemRecord;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);

/// A request without body.
pub(super) const NO_BODY: Option<&()> = None;

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    token: Option<Secret>,
}

impl Http {
    /// At an https address, only what is in the file `authority` is trusted, if one is named.
    pub(super) fn new(
        authority: Option<&Path>,
        address: &str,
        token: Option<Secret>,
    ) -> Result<Self, ClientError> {
        let base = parse_address(address)?;
        if authority.is_some() && base.scheme() == "http" {
            let reason =
                "it is plain HTTP, and an authority for HTTPS is given (--ca-file, PGSLUICE_CA_FILE)"
                    .to_owned();
            return Err(ClientError::Address { given: base.to_string(), reason });
        }
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&base, authority)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(REQUEST_TIME_MAX)
            .build()
            .map_err(|error| ClientError::Tls(innermost(&error)))?;
        Ok(Self { client, base, token })
    }

    /// Its URL.
    pub(super) fn address(&self) -> String {
        self.base.to_string()
    }

    /// One request.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync + ?Sized)>,
    ) -> Result<T, ClientError> {
        let url = self.base.join(path).map_err(|error| self.bad_address(&error.to_string()))?;
        let mut request = self.client.request(method.clone(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.current());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.silent(&method, &error))?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
            let to = to.unwrap_or("an unknown place").to_owned();
            return Err(ClientError::Redirected { address: self.address(), to });
        }
        let bytes = response.bytes().await.map_err(|error| self.silent(&method, &error))?;
        // A proxy's refusal (4xx) has not reached the instance; its time-out may have.
        let may_be_done = method != Method::GET && (status.is_success() || status.is_server_error());
        let unexpected = |error: serde_json::Error| ClientError::Unexpected {
            address: self.address(),
            status,
            reason: error.to_string(),
            may_be_done,
        };
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(unexpected);
        }
        let problem: ProblemRecord = serde_json::from_slice(&bytes).map_err(unexpected)?;
        Err(ClientError::Refused(Box::new(problem)))
    }

    /// What was never sent has changed nothing; what was sent may have.
    fn silent(&self, method: &Method, error: &reqwest::Error) -> ClientError {
        let (address, reason) = (self.address(), innermost(error));
        if let Some(reason) = refused_certificate(error) {
            return ClientError::Untrusted { address, reason };
        }
        if error.is_connect() || method == Method::GET {
            ClientError::Unreachable { address, reason }
        } else {
            ClientError::NoAnswer { address, reason }
        }
    }

    fn bad_address(&self, reason: &str) -> ClientError {
        ClientError::Address { given: self.address(), reason: reason.to_owned() }
    }
}

/// A URL, or `host:port`; always ending in a slash, so that routes are joined below its path.
fn parse_address(given: &str) -> Result<Url, ClientError> {
    let with_scheme = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    // What may hold a password is not repeated.
    let shown = given.rsplit_once('@').map_or_else(|| given.to_owned(), |(_, place)| format!("…@{place}"));
    let wrong = |reason: String| ClientError::Address { given: shown.clone(), reason };
    let url = Url::parse(&format!("{}/", with_scheme.trim_end_matches('/')))
        .map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("{} is not http or https", url.scheme())));
    }
    if url.password().is_some() || !url.username().is_empty() {
        return Err(wrong("it contains a user name; give the token with --token-file".to_owned()));
    }
    Ok(url)
}

/// Root certificates are read only where they are needed: most instances are on the same machine.
fn tls(base: &Url, authority: Option<&Path>) -> Result<ClientConfig, ClientError> {
    if let Some(authority) = authority.filter(|_| base.scheme() == "https") {
        return Ok(https_client_config(authority)?);
    }
    let mut roots = RootCertStore::empty();
    if base.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What is wrong with the server's certificate, if that is why nothing was sent.
fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return Some(problem.to_string());
        }
        // An IO error passes over what it wraps when it is asked for its cause.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The innermost cause says what happened (`Connection refused`); the outer ones that sending failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
