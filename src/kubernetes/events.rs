//! Events of Kubernetes about an object: what `kubectl describe` and `kubectl events` show beside it. Best effort by nature: the API
//! server forgets them after an hour, and one that cannot be made is said in the log and not tried again.
//!
//! Source: Kubernetes API reference, `Event` of `v1`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Kubernetes, Resource};

/// Who tells it.
const COMPONENT: &str = "pgsluice";
/// The API server takes no longer messages, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// How long making one may take (INV-11).
const BOUND: Duration = Duration::from_secs(10);

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For the record.
    Normal,
    /// Somebody should.
    Warning,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Group and version.
    pub api_version: &'static str,
    /// Kind of the object.
    pub kind: &'static str,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own identifier; empty if it is not known.
    pub uid: String,
}

/// Makes Events.
#[derive(Debug)]
pub struct Recorder {
    api: Kubernetes,
    instance: String,
    has_failed: AtomicBool,
}

impl Recorder {
    /// A recorder that asks `api`.
    #[must_use]
    pub fn new(api: Kubernetes) -> Self {
        // A pod's host name is its name.
        let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| COMPONENT.to_owned());
        Self { api, instance, has_failed: AtomicBool::new(false) }
    }

    /// Tells one thing. `reason` is one word in camel case.
    pub async fn tell(&self, about: &About, kind: Kind, reason: &str, message: &str) {
        let told = async {
            let what = self.api.named(Resource::Event, "").await?;
            let event = event(about, &self.instance, kind, reason, message, Timestamp::now());
            self.api.create(&what, &event).await
        };
        let (problem, remedy) = match tokio::time::timeout(BOUND, told).await {
            Ok(Ok(_)) => return self.has_failed.store(false, Ordering::Relaxed),
            Ok(Err(error)) => (error.to_string(), error.remedy()),
            Err(_) => ("the Kubernetes API does not answer".to_owned(), String::new()),
        };
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(problem, remedy, "what happens is not told as Events of the cluster");
        }
    }
}

fn event(about: &About, instance: &str, kind: Kind, reason: &str, message: &str, at: Timestamp) -> Value {
    let About { api_version, kind: object_kind, namespace, name, uid } = about;
    let mut event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": "pgsluice.", "namespace": namespace },
        "involvedObject": { "apiVersion": api_version, "kind": object_kind, "namespace": namespace, "name": name },
        "type": match kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
        "reason": reason,
        "message": shortened(message),
        "source": { "component": COMPONENT },
        "reportingComponent": COMPONENT,
        "reportingInstance": instance,
        // Seconds: what `metav1.Time` is.
        "firstTimestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "lastTimestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "count": 1,
    });
    if !uid.is_empty() {
        event["involvedObject"]["uid"] = uid.as_str().into();
    }
    event
}

fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let ellipsis = "…";
    let mut kept = MESSAGE_BYTES_MAX - ellipsis.len();
    while !message.is_char_boundary(kept) {
        kept -= 1;
    }
    message.get(..kept).unwrap_or_default().to_owned() + ellipsis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(uid: &str) -> About {
        About {
            api_version: "postgresql.cnpg.io/v1",
            kind: "Cluster",
            namespace: "db".into(),
            name: "shop".into(),
            uid: uid.into(),
        }
    }

    #[test]
    fn an_event_has_what_the_api_server_asks_for() {
        let at: Timestamp = "2026-11-30T03:00:00.123Z".parse().expect("a time");
        let event = event(&about("6e0f"), "pod-1", Kind::Warning, "CutoverAborted", "why", at);
        assert_eq!(event["involvedObject"]["uid"], "6e0f");
        assert_eq!(event["involvedObject"]["namespace"], event["metadata"]["namespace"]);
        assert_eq!(
            (&event["type"], &event["firstTimestamp"]),
            (&json!("Warning"), &json!("2026-11-30T03:00:00Z"))
        );
        let typed: k8s_openapi::api::core::v1::Event = serde_json::from_value(event).expect("an Event");
        assert_eq!(typed.metadata.generate_name.as_deref(), Some("pgsluice."));
        assert_eq!(typed.count, Some(1));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(2 * MESSAGE_BYTES_MAX);
        let cut = shortened(&long);
        assert!(cut.len() <= MESSAGE_BYTES_MAX && cut.ends_with('…'), "{}", cut.len());
        assert_eq!(shortened("short"), "short");
    }
}
