//! What stands in a Lease, and the patches that change it: only the fields of client-go's leader election, so that its tools
//! understand it. Pure: JSON in, JSON out; times are written for people, and never compared with a clock of ours.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::LEASE_DURATION;

/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who has it; `None` when it was given back, or never taken.
    pub holder: Option<String>,
    /// How long it is valid after each renewal, as its holder says.
    pub duration: Duration,
    /// Since when it has had this holder, by that one's clock.
    pub acquired_at: Option<String>,
    /// When it was renewed last, by that one's clock.
    pub renewed_at: Option<String>,
    /// How often it has had another holder.
    pub transitions: u64,
    /// Of the object: changes with every change of it.
    pub version: String,
}

/// Who has it, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The pod's name and a random end.
    pub identity: String,
    /// Since when, by its clock.
    pub since: Option<String>,
    /// When it was renewed last, by its clock.
    pub renewed_at: Option<String>,
}

impl LeaseRecord {
    /// Reads a Lease; `None` if it is no object with a version. What is missing in it is as if nobody had it.
    #[must_use]
    pub fn of(lease: &Value) -> Option<Self> {
        let version = lease["metadata"]["resourceVersion"].as_str()?.to_owned();
        let spec = &lease["spec"];
        let text = |field: &str| spec[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let seconds = spec["leaseDurationSeconds"].as_u64().filter(|seconds| *seconds > 0);
        Some(Self {
            holder: text("holderIdentity"),
            duration: seconds.map_or(LEASE_DURATION, Duration::from_secs),
            acquired_at: text("acquireTime"),
            renewed_at: text("renewTime"),
            transitions: spec["leaseTransitions"].as_u64().unwrap_or(0),
            version,
        })
    }

    /// Whether its holder has said nothing new; what else was changed in the object is no renewal.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { holder, duration, acquired_at, renewed_at, transitions, version: _ } = self;
        (holder, duration, acquired_at, renewed_at, transitions)
            == (&other.holder, &other.duration, &other.acquired_at, &other.renewed_at, &other.transitions)
    }

    /// For people.
    pub(super) fn described(&self, identity: &str) -> Holder {
        Holder {
            identity: identity.to_owned(),
            since: self.acquired_at.clone(),
            renewed_at: self.renewed_at.clone(),
        }
    }

    /// The patch by which `identity` takes it.
    pub(super) fn taken_by(&self, identity: &str, now: Timestamp) -> Value {
        json!({
            "metadata": { "resourceVersion": self.version },
            "spec": held(identity, now, self.transitions.saturating_add(1)),
        })
    }

    /// The patch by which its holder renews it.
    pub(super) fn renewed(&self, now: Timestamp) -> Value {
        json!({
            "metadata": { "resourceVersion": self.version },
            "spec": { "renewTime": micro_time(now), "leaseDurationSeconds": LEASE_DURATION.as_secs() },
        })
    }

    /// The patch by which its holder gives it back. As client-go does it: valid for one second, for those who look at nothing else.
    pub(super) fn released(&self, now: Timestamp) -> Value {
        json!({
            "metadata": { "resourceVersion": self.version },
            "spec": { "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(now) },
        })
    }
}

/// A Lease that does not exist yet, held by `identity`.
pub(super) fn created(name: &str, identity: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": held(identity, now, 0),
    })
}

fn held(identity: &str, now: Timestamp, transitions: u64) -> Value {
    json!({
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_DURATION.as_secs(),
        "acquireTime": micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions,
    })
}

/// Kubernetes' `MicroTime`: always six digits.
fn micro_time(now: Timestamp) -> String {
    format!("{now:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_written_as_client_go_writes_it_and_read_back() {
        let now = Timestamp::from_microsecond(1_700_000_000_000_000).expect("a time");
        let mut lease = created("pgsluice", "pod-a_1", now);
        assert_eq!(LeaseRecord::of(&lease), None, "no version yet");
        lease["metadata"]["resourceVersion"] = "7".into();
        let record = LeaseRecord::of(&lease).expect("a record");
        assert_eq!(record.holder.as_deref(), Some("pod-a_1"));
        assert_eq!(record.renewed_at.as_deref(), Some("2023-11-14T22:13:20.000000Z"));
        assert_eq!((record.duration, record.transitions), (LEASE_DURATION, 0));

        let taken = record.taken_by("pod-b_2", now);
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
        assert_eq!(record.renewed(now)["metadata"]["resourceVersion"], "7");
        let mut released = record.released(now);
        assert_eq!(released["metadata"]["resourceVersion"], "7");
        released["metadata"]["resourceVersion"] = "8".into();
        assert_eq!(LeaseRecord::of(&released).expect("a record").holder, None);
    }

    #[test]
    fn what_others_left_out_is_as_if_nobody_had_it() {
        let record = LeaseRecord::of(&json!({ "metadata": { "resourceVersion": "1" } })).expect("a record");
        assert_eq!((record.holder, record.duration, record.transitions), (None, LEASE_DURATION, 0));
    }
}
