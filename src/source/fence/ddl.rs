//! What the deny triggers cannot refuse: definitions. A partition that is made on a fenced side carries no trigger, and an
//! owner can take one off. Where the role is a superuser an event trigger refuses both; other roles cannot make one, and
//! `check` says so. It is there from arming on and lets everybody pass; the fence changes what it asks. It asks at the end
//! of a command, so that one that waited for the fence's locks is refused when it goes on after the commit.

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Client;

use super::{FenceError, FenceTerms, PASS_SETTING};
use crate::cutover::SqlFailure;
use crate::model::Side;

/// The event trigger.
pub(super) const DDL_TRIGGER: &str = "pgsluice_deny_ddl";

/// What it asks unless the side is fenced. Without a `$` in it: it stands inside a DO block, too.
pub(super) const PASS_FUNCTION: &str = "CREATE OR REPLACE FUNCTION pgsluice.deny_ddl() RETURNS event_trigger \
     LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN; END'";

/// Whether a fence refuses definitions, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DdlGuard {
    /// It does.
    Present,
    /// The role is no superuser.
    Absent,
}

/// Creates the event trigger where the role may, and it is not there.
pub(super) async fn arm(source: &Client) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "prepare the fence against changes of definitions");
    let row = source
        .query_typed_one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])
        .await
        .map_err(&failed)?;
    if !row.get::<_, bool>(0) || look(source).await? == DdlGuard::Present {
        return Ok(());
    }
    let statements = format!(
        "BEGIN; {PASS_FUNCTION}; \
         CREATE EVENT TRIGGER {DDL_TRIGGER} ON ddl_command_end EXECUTE FUNCTION pgsluice.deny_ddl(); \
         ALTER EVENT TRIGGER {DDL_TRIGGER} ENABLE ALWAYS; COMMIT"
    );
    if let Err(error) = source.batch_execute(&statements).await {
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = source.batch_execute("ROLLBACK").await;
        return Err(failed(error).into());
    }
    Ok(())
}

/// Whether the side has the event trigger.
pub(super) async fn look(session: &Client) -> Result<DdlGuard, FenceError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pgsluice_deny_ddl')";
    let row = session
        .query_typed_one(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for the event trigger"))?;
    Ok(if row.get(0) { DdlGuard::Present } else { DdlGuard::Absent })
}

/// What the event trigger asks under the fence: as for rows, who carries the fence's nonce passes.
pub(super) fn deny_function(terms: &FenceTerms) -> String {
    let message = quote_literal(&format!("pgsluice: this database has moved to {}", terms.moved_to));
    let hint = quote_literal(
        "Change definitions there. If it must be here, so that the way back goes on: \
         SELECT set_config('pgsluice.pass', nonce, false) FROM pgsluice.fence; and then the same statement.",
    );
    let nonce = quote_literal(terms.nonce.as_str());
    let body = quote_literal(&format!(
        "BEGIN IF current_setting('{PASS_SETTING}', true) = {nonce} THEN RETURN; END IF; \
         RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {message}, HINT = {hint}; END"
    ));
    format!(
        "CREATE OR REPLACE FUNCTION pgsluice.deny_ddl() RETURNS event_trigger LANGUAGE plpgsql \
         SET search_path = pg_catalog, pg_temp AS {body}"
    )
}

/// For the transaction that lifts the fence, inside a DO block.
pub(super) fn lift() -> String {
    format!("IF to_regproc('pgsluice.deny_ddl') IS NOT NULL THEN {PASS_FUNCTION}; END IF")
}
