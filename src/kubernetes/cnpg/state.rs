//! What a Cluster object says. Pure: the object in, plain facts out. A field that is missing or has another type is a fact that is
//! not known, never an error: operators of other versions say more or less.
//!
//! Source: CloudNativePG's API reference, `ClusterSpec` and `ClusterStatus`; `api/v1/cluster_types.go`.

use jiff::Timestamp;
use serde_json::Value;

/// What `status.targetPrimary` says while the operator has given the primary up and has not chosen another one.
const PENDING: &str = "pending";
/// Instances that the operator keeps from running, as a list in JSON; `*` for all.
const FENCED: &str = "cnpg.io/fencedInstances";

/// A cluster as its operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Where the object is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object's own identifier, by which Events are about it.
    pub uid: String,
    /// When the object was made.
    pub created_at: Option<Timestamp>,
    /// In the operator's words, e.g. `Cluster in healthy state`.
    pub phase: Option<String>,
    /// The instance that is the primary.
    pub current_primary: Option<String>,
    /// The instance that is to be the primary.
    pub target_primary: Option<String>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Its system identifier, as `pg_control_system()` says it.
    pub system_identifier: Option<String>,
    /// Instances that are asked for.
    pub instances: Option<u32>,
    /// Instances that are ready.
    pub ready_instances: Option<u32>,
    /// Synchronous replication, if it is switched on.
    pub synchronous: Option<Synchronous>,
    /// Whether the operator keeps a superuser's password (`enableSuperuserAccess`).
    pub has_superuser: bool,
    /// What it says of backups.
    pub backup: Backup,
    /// Instances that are fenced: their PostgreSQL is stopped.
    pub fenced: Vec<String>,
    /// Whether it is a replica of another cluster, and has no primary of its own.
    pub is_replica: bool,
    /// The Secret with the authority of its servers' certificates.
    pub server_authority: Option<String>,
}

/// `spec.postgresql.synchronous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synchronous {
    /// `any` or `first`.
    pub method: String,
    /// How many standbys a commit waits for.
    pub number: u32,
    /// Whether commits go on without them (`preferred`) or wait (`required`, the default).
    pub is_required: bool,
}

/// What the object says of backups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backup {
    /// One has succeeded.
    Succeeded,
    /// It does not say that one has: there is none, or the last one failed, or is running now.
    #[default]
    NotKnown,
}

impl ClusterState {
    /// What the object says.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        Self {
            namespace: text(&metadata["namespace"]).unwrap_or_default(),
            name: text(&metadata["name"]).unwrap_or_default(),
            uid: text(&metadata["uid"]).unwrap_or_default(),
            created_at: moment(&metadata["creationTimestamp"]),
            phase: text(&status["phase"]),
            current_primary: text(&status["currentPrimary"]),
            target_primary: text(&status["targetPrimary"]),
            timeline: number(&status["timelineID"]),
            system_identifier: text(&status["systemID"]),
            instances: number(&spec["instances"]),
            ready_instances: number(&status["readyInstances"]),
            synchronous: synchronous(&spec["postgresql"]["synchronous"]),
            has_superuser: spec["enableSuperuserAccess"] == true,
            backup: backup(status),
            fenced: fenced(&metadata["annotations"][FENCED]),
            is_replica: spec["replica"]["enabled"] == true,
            server_authority: text(&status["certificates"]["serverCASecret"]),
        }
    }

    /// How it is changing its primary, for a person, or `None` if its primary is what it is to be.
    #[must_use]
    pub fn changes_primary(&self) -> Option<String> {
        let name = self.full_name();
        match (&self.current_primary, &self.target_primary) {
            (Some(current), Some(target)) if current == target => None,
            (Some(current), Some(target)) if target == PENDING => {
                Some(format!("its cluster {name} has given up its primary {current} and chooses another one"))
            }
            (Some(current), Some(target)) => {
                Some(format!("its cluster {name} changes its primary from {current} to {target}"))
            }
            // The first one is being made.
            (None, _) => Some(format!("its cluster {name} has no primary yet")),
            // Of an operator that says no more.
            (Some(_), None) => None,
        }
    }

    /// Whether one of these Backup objects is of this cluster and succeeded. They outlive their cluster: one that is older than it
    /// is of another one that had its name.
    #[must_use]
    pub fn is_backed_up_by(&self, backups: &[Value]) -> bool {
        let is_of_it = |backup: &&Value| {
            let began = moment(&backup["status"]["startedAt"])
                .or_else(|| moment(&backup["metadata"]["creationTimestamp"]));
            backup["spec"]["cluster"]["name"] == self.name.as_str()
                && self.created_at.is_none_or(|created| began.is_some_and(|began| began >= created))
        };
        backups.iter().filter(is_of_it).any(|backup| backup["status"]["phase"] == "completed")
    }

    /// `cluster namespace/name`, without the kind.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn synchronous(value: &Value) -> Option<Synchronous> {
    Some(Synchronous {
        method: text(&value["method"])?,
        number: number(&value["number"])?,
        is_required: value["dataDurability"] != "preferred",
    })
}

/// The first three are of backups that the operator makes itself, and go out of use; the last is of all, and says that the last one
/// succeeded.
fn backup(status: &Value) -> Backup {
    let dated = ["firstRecoverabilityPoint", "lastSuccessfulBackup"];
    let is_dated = dated.iter().any(|field| text(&status[*field]).is_some())
        || status["lastSuccessfulBackupByMethod"].as_object().is_some_and(|methods| !methods.is_empty());
    let succeeded =
        |condition: &Value| condition["type"] == "LastBackupSucceeded" && condition["status"] == "True";
    let is_told = status["conditions"].as_array().is_some_and(|all| all.iter().any(succeeded));
    if is_dated || is_told { Backup::Succeeded } else { Backup::NotKnown }
}

fn fenced(annotation: &Value) -> Vec<String> {
    annotation.as_str().and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
