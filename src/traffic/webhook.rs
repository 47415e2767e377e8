//! `webhook`: posts a JSON document for each step; any 2xx answer says that the step is done. Redirects are not
//! followed: a token is sent to the configured address and to nobody else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::{Endpoint, Notes, Step, TrafficAdapter, TrafficContext, TrafficError, too_late};

/// The adapter.
pub(super) struct Webhook {
    url: String,
    token: Option<String>,
    bound: Duration,
    client: reqwest::Client,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("url", &self.shown_url()).finish_non_exhaustive()
    }
}

/// What is posted.
#[derive(Serialize)]
struct Document<'a> {
    step: Step,
    epoch: i64,
    mode: &'static str,
    nonce: &'a str,
    source: &'a Endpoint,
    target: &'a Endpoint,
}

impl Webhook {
    pub(super) fn new(url: String, token: Option<String>, bound: Duration) -> Result<Self, TrafficError> {
        let client = client().and_then(|client| client.build().map_err(|error| error.to_string()));
        let client = client.map_err(|problem| TrafficError {
            adapter: "webhook".into(),
            step: Step::Prepare,
            problem,
            remedy: "Check the certificates that are installed in the container or on the machine.".into(),
        })?;
        Ok(Self { url, token, bound, client })
    }

    /// Without what may be secret in it: user, password, query.
    fn shown_url(&self) -> String {
        match reqwest::Url::parse(&self.url) {
            Ok(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
            }
            Err(_) => "with an address that is no URL".into(),
        }
    }

    async fn post(&self, step: Step, context: &TrafficContext) -> Result<(), TrafficError> {
        let failed = |problem: String, remedy: &str| TrafficError {
            adapter: self.name(),
            step,
            problem,
            remedy: remedy.to_owned(),
        };
        let document = Document {
            step,
            epoch: context.epoch,
            mode: context.mode_name(),
            nonce: &context.nonce,
            source: &context.source,
            target: &context.target,
        };
        let mut request = self.client.post(&self.url).json(&document);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|error| {
            // Without the URL, which may hold a secret; with the cause, which reqwest keeps apart.
            let error = error.without_url();
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            failed(
                format!("{error}{cause}"),
                "Check the address and that its service is up and reachable from here.",
            )
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(failed(format!("it answered {status}"), "Look into the log of the service that answered."))
    }
}

#[async_trait]
impl TrafficAdapter for Webhook {
    fn name(&self) -> String {
        format!("webhook {}", self.shown_url())
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        match tokio::time::timeout(self.bound, self.post(step, context)).await {
            Ok(outcome) => outcome.map(|()| Notes::new()),
            Err(_) => Err(too_late(self.name(), step, self.bound)),
        }
    }
}

/// A client with the system's certificates and the one cryptography this program has, as far as it is the same for everybody.
pub(super) fn client() -> Result<reqwest::ClientBuilder, String> {
    let mut roots = rustls::RootCertStore::empty();
    // Without any certificate plain http still works, and https says what is wrong.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(reqwest::redirect::Policy::none()))
}
