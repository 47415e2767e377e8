//! What could stop a migration, found before anything is changed: one file per check, each finding with its
//! remedy. Facts are read first and judged by pure functions. Checks only read: no change is left on either side.

mod cluster;
mod connections;
mod context;
mod domain_constraints;
mod encoding;
mod error;
mod event_triggers;
mod existing_publication;
mod existing_slot;
mod finding;
mod foreign_keys;
mod free_senders;
mod free_slots;
mod hash_partitions;
mod large_objects;
mod lockout;
mod long_transactions;
mod materialized_views;
mod patroni;
mod prepared_transactions;
mod protections;
mod recovery;
mod replica_identity;
mod replica_triggers;
mod row_security;
mod same_server;
mod source_privileges;
mod subscriptions;
mod tables;
mod target_empty;
mod target_extensions;
mod target_locale;
mod target_privileges;
mod target_schema;
mod target_standbys;
mod target_tools;
mod uncopied_tables;
mod unlogged_tables;
mod versions;
mod waiver;
mod wal_keep_size;
mod wal_level;
mod wal_sender_timeout;
mod way_back;

use std::cmp::Reverse;

pub use error::PreflightError;
pub use finding::{Finding, Severity};
pub use waiver::WAIVABLE;

use self::context::Context;
use crate::config::Config;
use crate::connection::SqlSession;
use crate::kubernetes::cnpg::Sight;
use crate::source::catalog;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A migration begins: the target must be empty and names must be free.
    Fresh,
    /// A migration goes on: its slot, publication and rows are where it left them.
    Resuming,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The database that is left.
    pub source: &'a SqlSession,
    /// The database that is reached.
    pub target: &'a SqlSession,
    /// What was seen of the cluster that the target is, if that is told.
    pub cluster: Option<&'a Sight>,
}

/// Runs every check that applies at this stage; the worst findings come first. Blockers the operator has waived come
/// back as warnings.
///
/// # Errors
/// [`PreflightError`] when a side cannot be asked; a problem that was found is not an error.
pub async fn run(config: &Config, sides: Asked<'_>, stage: Stage) -> Result<Vec<Finding>, PreflightError> {
    let Asked { source, target, cluster } = sides;
    let mut findings = versions::judge(source.server_version(), target.server_version());
    findings.extend(recovery::judge(source.in_recovery(), target.in_recovery()));
    // On a server of another age or role the checks below would fail rather than find something.
    if findings.iter().any(|finding| finding.severity == Severity::Blocker) {
        return Ok(findings);
    }
    let tables = catalog::read_tables(source, &config.source.tables).await?;
    let context = Context { config, source, target, cluster, tables };
    findings.extend(always(&context).await?);
    if stage == Stage::Fresh {
        findings.extend(before_the_beginning(&context).await?);
    }
    let mut findings = waiver::apply(findings, &config.preflight.waive);
    findings.sort_by_key(|finding| Reverse(finding.severity));
    Ok(findings)
}

/// What must hold as long as a migration runs.
async fn always(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let mut findings = Vec::new();
    findings.extend(same_server::check(context).await?);
    findings.extend(wal_level::check(context).await?);
    findings.extend(source_privileges::check(context).await?);
    findings.extend(tables::judge(&context.tables));
    findings.extend(replica_identity::check(context).await?);
    findings.extend(row_security::check(context).await?);
    findings.extend(unlogged_tables::judge(&context.tables));
    findings.extend(hash_partitions::check(context).await?);
    findings.extend(large_objects::check(context).await?);
    findings.extend(materialized_views::check(context).await?);
    findings.extend(encoding::check(context).await?);
    findings.extend(wal_keep_size::check(context).await?);
    findings.extend(wal_sender_timeout::check(context).await?);
    findings.extend(target_privileges::check(context).await?);
    findings.extend(target_locale::check(context).await?);
    findings.extend(target_standbys::check(context).await?);
    findings.extend(subscriptions::check(context).await?);
    findings.extend(protections::check(context).await?);
    findings.extend(way_back::check(context).await?);
    findings.extend(lockout::check(context).await?);
    findings.extend(cluster::check(context).await?);
    findings.extend(patroni::check(context).await?);
    Ok(findings)
}

/// What must hold for a migration to begin.
async fn before_the_beginning(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let mut findings = Vec::new();
    findings.extend(free_slots::check(context).await?);
    findings.extend(free_senders::check(context).await?);
    findings.extend(existing_slot::check(context).await?);
    findings.extend(existing_publication::check(context).await?);
    findings.extend(prepared_transactions::check(context).await?);
    findings.extend(long_transactions::check(context).await?);
    findings.extend(foreign_keys::check(context).await?);
    findings.extend(replica_triggers::check(context).await?);
    findings.extend(domain_constraints::check(context).await?);
    findings.extend(event_triggers::check(context).await?);
    findings.extend(uncopied_tables::check(context).await?);
    findings.extend(connections::check(context).await?);
    findings.extend(target_empty::check(context).await?);
    findings.extend(target_schema::check(context).await?);
    findings.extend(target_extensions::check(context).await?);
    findings.extend(target_tools::check(context).await?);
    Ok(findings)
}
