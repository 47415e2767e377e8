//! The CloudNativePG cluster that is moved into, as its operator sees it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::kubernetes::cnpg::{ClusterState, Sight};

/// The cluster as it was seen last. Whatever it says, each session asks its server what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterRecord {
    /// Namespace and name of the Cluster object; empty until it was seen.
    #[schema(example = "shop/shop")]
    pub name: String,
    /// What the operator is doing, in its words.
    #[schema(example = "Cluster in healthy state")]
    pub phase: Option<String>,
    /// The instance that is the primary.
    pub current_primary: Option<String>,
    /// The instance that is to be the primary; another one while it is changed.
    pub target_primary: Option<String>,
    /// How the primary is being changed, in words; null when it is not. Meanwhile nothing is connected to and nothing confirmed.
    pub changing: Option<String>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Its system identifier.
    pub system_identifier: Option<String>,
    /// Instances that are asked for.
    pub instances: Option<u32>,
    /// Instances that are ready.
    pub ready_instances: Option<u32>,
    /// Standbys that each commit waits for; null without synchronous replication.
    pub synchronous_standbys: Option<u32>,
    /// Whether it is known to have had a backup that succeeded; null where that is not looked for (`target.cnpg.backup = "ignored"`).
    pub has_backup: Option<bool>,
    /// When it was seen; null until it was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub seen_at: Option<Timestamp>,
    /// Why it cannot be seen now; null when it can.
    pub problem: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
}

impl From<&Sight> for ClusterRecord {
    fn from(sight: &Sight) -> Self {
        let (problem, remedy) = sight.problem.clone().unzip();
        let seen = sight.state.as_ref().map_or_else(Self::default, Self::from);
        let (changing, has_backup) = (sight.changing.clone(), sight.has_backup());
        Self { seen_at: sight.seen_at, changing, has_backup, problem, remedy, ..seen }
    }
}

impl From<&ClusterState> for ClusterRecord {
    fn from(state: &ClusterState) -> Self {
        Self {
            name: state.full_name(),
            phase: state.phase.clone(),
            current_primary: state.current_primary.clone(),
            target_primary: state.target_primary.clone(),
            timeline: state.timeline,
            system_identifier: state.system_identifier.clone(),
            instances: state.instances,
            ready_instances: state.ready_instances,
            synchronous_standbys: state.synchronous.as_ref().map(|synchronous| synchronous.number),
            ..Self::default()
        }
    }
}
