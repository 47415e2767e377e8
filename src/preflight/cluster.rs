//! `target.cluster`: what the operator of the CloudNativePG cluster says of it, with `target.cnpg.cluster`. It is the cluster that the target
//! is; its standbys are as many as are waited for; there is a backup before there is anything to lose; and the grants that only its
//! superuser can give are named, all of them, with the command that works without a superuser's password.

use pgsluice_proto::command::quote_ident;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::{BackupGate, Config, Durability};
use crate::kubernetes::cnpg::{Backup, ClusterState, Sight};
use crate::model::Side;

const ID: &str = "target.cluster";
/// Of its own, so that it can be told apart in alerts and scripts.
const BACKUP_ID: &str = "target.cluster_backup";
const GRANTS_ID: &str = "target.cluster_grants";

/// What the session on the target says.
struct Facts {
    system_identifier: String,
    database: String,
    role: String,
    is_superuser: bool,
    may_be_replica: bool,
    may_see_standbys: bool,
    may_replicate: bool,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let Some(sight) = context.cluster else { return Ok(Vec::new()) };
    let sql = "SELECT system_identifier::text, current_database()::text, rolname::text, rolsuper,
                      rolsuper OR has_parameter_privilege('session_replication_role', 'SET'),
                      pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), rolsuper OR rolreplication
                 FROM pg_control_system(), pg_roles WHERE rolname = current_user";
    let row = context.row(ID, Side::Target, sql, &[]).await?;
    let facts = Facts {
        system_identifier: row.get(0),
        database: row.get(1),
        role: row.get(2),
        is_superuser: row.get(3),
        may_be_replica: row.get(4),
        may_see_standbys: row.get(5),
        may_replicate: row.get(6),
    };
    Ok(judge(sight, &facts, context.config))
}

fn judge(sight: &Sight, facts: &Facts, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((problem, remedy)) = &sight.problem {
        let text = format!(
            "The target's cluster cannot be looked at: {problem}. pgsluice follows a failover all the same; it is not warned of one."
        );
        findings.push(Finding::warning(ID, "cluster", text, remedy.as_str()));
    }
    let Some(state) = &sight.state else { return findings };
    findings.extend(another_cluster(state, facts));
    findings.extend(standing(state));
    findings.extend(standbys(state, config.target.durability));
    findings.extend(grants(state, facts, config));
    findings.extend(backup(sight, state, config));
    findings
}

fn another_cluster(state: &ClusterState, facts: &Facts) -> Option<Finding> {
    let told = state.system_identifier.as_ref().filter(|told| **told != facts.system_identifier)?;
    Some(Finding::blocker(
        ID,
        state.full_name(),
        format!(
            "The target is another cluster: its system identifier is {}, and that of {} is {told}.",
            facts.system_identifier,
            state.full_name()
        ),
        "Correct target.url, or target.cnpg.cluster and target.cnpg.namespace.",
    ))
}

/// Whether it has a primary, and keeps it.
fn standing(state: &ClusterState) -> Vec<Finding> {
    let name = state.full_name();
    let mut findings = Vec::new();
    if state.is_replica {
        findings.push(Finding::blocker(
            ID,
            &name,
            format!("Cluster {name} is a replica of another one: nothing can be written to it."),
            "Promote it first: spec.replica.enabled: false.",
        ));
    }
    if let Some(how) = state.changes_primary() {
        let text = format!("The target waits: {how}.");
        findings.push(Finding::warning(ID, &name, text, "Wait; if it lasts: kubectl cnpg status."));
    }
    if !state.fenced.is_empty() {
        findings.push(Finding::warning(
            ID,
            &name,
            format!(
                "Instances of cluster {name} are fenced, their PostgreSQL is stopped: {}.",
                state.fenced.join(", ")
            ),
            format!("kubectl cnpg fencing off {} \"*\" -n {}", state.name, state.namespace),
        ));
    }
    findings
}

/// What a failover would lose.
fn standbys(state: &ClusterState, durability: Durability) -> Option<Finding> {
    let name = state.full_name();
    let there_are = state.instances?.saturating_sub(1);
    match durability {
        Durability::Standbys(wanted) if wanted.get() > there_are => Some(Finding::warning(
            ID,
            &name,
            format!(
                "target.standbys is {wanted}, and cluster {name} has {there_are} standbys: unless others stream from it, nothing will ever be confirmed to the source."
            ),
            format!(
                "Lower target.standbys, or set spec.instances of the cluster to {}.",
                u64::from(wanted.get()) + 1
            ),
        )),
        // Synchronous replication does not help: what is applied is committed without waiting for it.
        Durability::Local if there_are > 0 => Some(Finding::warning(
            ID,
            &name,
            format!(
                "Cluster {name} has standbys, and a change counts as kept before any of them has it: a failover may lose what the source was told is safe. That is noticed, and the migration would have to begin anew."
            ),
            "target.durability = \"standbys\"\ntarget.standbys = 1",
        )),
        Durability::Standbys(_) | Durability::Local => None,
    }
}

/// Grants that only a superuser can give, and the way to one without a password.
fn grants(state: &ClusterState, facts: &Facts, config: &Config) -> Option<Finding> {
    if facts.is_superuser {
        return None;
    }
    let role = quote_ident(&facts.role);
    let mut missing = Vec::new();
    if !facts.may_be_replica {
        missing.push(format!("GRANT SET ON PARAMETER session_replication_role TO {role};"));
    }
    if !facts.may_see_standbys && config.target.durability != Durability::Local {
        missing.push(format!("GRANT pg_read_all_stats TO {role};"));
    }
    if !facts.may_replicate && config.cutover.reverse {
        missing.push(format!("ALTER ROLE {role} REPLICATION;"));
    }
    if missing.is_empty() {
        return None;
    }
    let how =
        if state.has_superuser { "is on, or without its password" } else { "is off, and not needed for it" };
    Some(Finding::warning(
        GRANTS_ID,
        &facts.role,
        format!(
            "Role {} of cluster {} lacks what only a superuser can grant. enableSuperuserAccess {how}: the command reaches the \
             primary's own socket.",
            facts.role,
            state.full_name()
        ),
        format!(
            "kubectl cnpg psql {} -n {} -- -d {} -c '{}'",
            state.name,
            state.namespace,
            quote_word(&facts.database),
            missing.join(" ").replace('\'', "'\\''"),
        ),
    ))
}

/// For a shell.
fn quote_word(word: &str) -> String {
    let is_plain =
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn backup(sight: &Sight, state: &ClusterState, config: &Config) -> Option<Finding> {
    let is_wanted = config.target.cnpg.as_ref().is_some_and(|cnpg| cnpg.backup == BackupGate::Required);
    if is_wanted
        && state.backup == Backup::NotKnown
        && let Some((problem, remedy)) = &sight.backup_problem
    {
        let text = format!(
            "It cannot be looked for backups of cluster {}: {problem}. A cutover is refused until one is seen.",
            state.full_name()
        );
        return Some(Finding::warning(BACKUP_ID, state.full_name(), text, remedy.as_str()));
    }
    (is_wanted && state.backup == Backup::NotKnown).then(|| {
        Finding::warning(
            BACKUP_ID,
            state.full_name(),
            format!("Cluster {} has had no backup that succeeded. The migration goes on; a cutover is refused until there is one.", state.full_name()),
            format!(
                "Once the tables are copied:\nkubectl cnpg backup {} -n {}\nTo do without:\ntarget.cnpg.backup = \"ignored\"",
                state.name, state.namespace
            ),
        )
    })
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
