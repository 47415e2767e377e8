//! `source.connections`, `target.connections`: room for the sessions of the copy, the stream and a cutover.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::{Side, counted};

/// Sessions on the source besides those that copy: control, guards, the stream's, monitor, table watch.
const BESIDES_COPY_ON_SOURCE: usize = 6;
/// On the source during a cutover.
const CUTOVER_ON_SOURCE: usize = 7;
/// On the target besides those that copy, build indexes and apply: records, the stream's, table watch, standbys.
const BESIDES_COPY_ON_TARGET: usize = 6;
/// On the target during a cutover, besides those that apply.
const BESIDES_APPLY_IN_CUTOVER: usize = 9;

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let jobs = context.config.snapshot.jobs;
    let building = context.config.snapshot.index_jobs;
    let apply = context.config.apply.connections;
    let source = free(context, "source.connections", Side::Source).await?;
    let target = free(context, "target.connections", Side::Target).await?;
    // The table in docs/sizing.md, which a test compares with the servers' logs.
    let on_source = jobs.saturating_add(BESIDES_COPY_ON_SOURCE).max(CUTOVER_ON_SOURCE);
    let copying = jobs.saturating_add(building).saturating_add(BESIDES_COPY_ON_TARGET);
    let on_target = apply.saturating_add(copying.max(BESIDES_APPLY_IN_CUTOVER));
    let source = judge("source.connections", Side::Source, source, on_source);
    let target = judge("target.connections", Side::Target, target, on_target);
    Ok(source.into_iter().chain(target).collect())
}

/// Free connections of the server, and of the role if it has a limit.
async fn free(context: &Context<'_>, check: &'static str, side: Side) -> Result<i64, PreflightError> {
    let row = context
        .row(
            check,
            side,
            "SELECT least(
                 current_setting('max_connections')::int8
                   - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int8 END
                   - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
                 CASE WHEN r.rolconnlimit < 0 OR r.rolsuper THEN NULL
                      ELSE r.rolconnlimit - (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid) END)
               FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

fn judge(id: &'static str, side: Side, free: i64, needed: usize) -> Option<Finding> {
    let needed = i64::try_from(needed).unwrap_or(i64::MAX);
    (free < needed).then(|| {
        Finding::blocker(
            id,
            side.as_str(),
            format!("The {side} has {}, and the migration needs up to {needed}.", counted(free.max(0), "free connection", "free connections")),
            "Lower snapshot.jobs or apply.connections, raise max_connections or the role's CONNECTION LIMIT, or close idle sessions.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_free_connections_block() {
        assert!(judge("target.connections", Side::Target, 9, 9).is_none());
        let finding = judge("target.connections", Side::Target, -3, 9).expect("none is free");
        assert!(finding.finding.contains("has 0 free connections"));
    }
}
