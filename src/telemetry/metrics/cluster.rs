//! The CloudNativePG cluster that is moved into, as its operator sees it. All of it is absent without `target.cnpg.cluster`.

use prometheus::core::{AtomicI64, GenericGaugeVec};

use super::super::registrar::{OptionalGauge, Registrar};
use crate::kubernetes::cnpg::Sight;
use crate::migration::Status;

/// Copied from the published status.
pub(super) struct ClusterMetrics {
    instances: GenericGaugeVec<AtomicI64>,
    changes_primary: OptionalGauge<AtomicI64>,
    has_backup: OptionalGauge<AtomicI64>,
    timeline: OptionalGauge<AtomicI64>,
    seen: OptionalGauge<AtomicI64>,
}

impl ClusterMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
            instances: registrar.labelled_gauge(
                "pgsluice_cluster_instances",
                "Instances of the target's cluster: wanted, and ready.",
                &["state"],
            )?,
            changes_primary: registrar.optional_gauge(
                "pgsluice_cluster_changes_primary",
                "1 while the operator changes the cluster's primary: nothing is connected to and nothing confirmed; else 0.",
            )?,
            has_backup: registrar.optional_gauge(
                "pgsluice_cluster_has_backup",
                "1 once the cluster has had a backup that succeeded; else 0. Absent with target.cnpg.backup = ignored.",
            )?,
            timeline: registrar.optional_gauge(
                "pgsluice_cluster_timeline",
                "Timeline of the cluster: goes up with each change of its primary.",
            )?,
            seen: registrar.optional_gauge(
                "pgsluice_cluster_seen_timestamp_seconds",
                "When the cluster was seen last, in seconds since 1970; when the process started if it never was.",
            )?,
        })
    }

    pub(super) fn publish(&self, status: &Status) {
        let sight = status.cluster.as_ref();
        let state = sight.and_then(|sight| sight.state.as_ref());
        for (label, count) in [
            ("wanted", state.and_then(|state| state.instances)),
            ("ready", state.and_then(|state| state.ready_instances)),
        ] {
            match count {
                Some(count) => self.instances.with_label_values(&[label]).set(i64::from(count)),
                // It is absent already where it was never known.
                None => drop(self.instances.remove_label_values(&[label])),
            }
        }
        self.changes_primary.set(
            sight.filter(|sight| sight.state.is_some()).map(|sight| i64::from(sight.changing.is_some())),
        );
        self.has_backup.set(sight.and_then(Sight::has_backup).map(i64::from));
        self.timeline.set(state.and_then(|state| state.timeline).map(i64::from));
        // Never seen since the start is as long ago as the start.
        self.seen.set(sight.map(|sight| sight.seen_at.unwrap_or(status.started_at).as_second()));
    }
}
