//! What triggers cannot refuse, large objects above all: where the operator asks for it, the fence's transaction takes from
//! everybody but the database's owner the right to connect, and their sessions are ended once it is committed. What was taken is
//! written down in the same transaction, so it can be given back whoever asks, also after the program that took it has died.
//! Superusers and the owner connect as before: the way back needs the one, and the server asks the others nothing.

use tokio_postgres::Client;

use super::FenceError;
use crate::cutover::SqlFailure;
use crate::model::Side;

/// For the fence's transaction. That nobody is left is looked at, because the server only warns where it may not be taken.
pub(super) const LOCK_OUT: &str = "DO $$
    DECLARE each record;
    BEGIN
      INSERT INTO pgsluice.locked_out (grantee, grantable)
        SELECT a.grantee, a.is_grantable
          FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
         WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba;
      FOR each IN SELECT CASE WHEN l.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS name
                    FROM pgsluice.locked_out l LEFT JOIN pg_roles r ON r.oid = l.grantee LOOP
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM %s', current_database(), each.name);
      END LOOP;
      IF EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
                  WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
          MESSAGE = 'pgsluice: the right to connect could not be taken from everybody';
      END IF;
    END $$";

/// Gives back what was taken, to those roles that are still there. For a DO block, so without a `$` in it. Repeating it
/// changes nothing; where nobody was locked out nothing is done.
pub(super) const LET_IN: &str = "IF to_regclass('pgsluice.locked_out') IS NOT NULL THEN
      DECLARE each record;
      BEGIN
        FOR each IN SELECT CASE WHEN l.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS name, l.grantable
                      FROM pgsluice.locked_out l LEFT JOIN pg_roles r ON r.oid = l.grantee
                     WHERE l.grantee = 0 OR r.oid IS NOT NULL LOOP
          EXECUTE format('GRANT CONNECT ON DATABASE %I TO %s', current_database(), each.name)
            || CASE WHEN each.grantable THEN ' WITH GRANT OPTION' ELSE '' END;
        END LOOP;
        DELETE FROM pgsluice.locked_out;
      END;
    END IF";

/// Makes the table that what is taken is written to, where it can be taken. Repeating it changes nothing.
///
/// # Errors
/// [`FenceError::CannotLockOut`], or a statement fails.
pub(super) async fn arm(source: &Client) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "prepare to lock clients out");
    let sql = "SELECT current_database()::text, pg_get_userbyid(d.datdba)::text, current_user::text,
                      pg_has_role(d.datdba, 'USAGE'),
                      (SELECT string_agg(DISTINCT pg_get_userbyid(a.grantor)::text, ', ') FROM aclexplode(d.datacl) a
                        WHERE a.privilege_type = 'CONNECT' AND a.grantor <> d.datdba)
                 FROM pg_database d WHERE d.datname = current_database()";
    let row = source.query_typed_one(sql, &[]).await.map_err(&failed)?;
    let (database, owner, role): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let name = pgsluice_proto::command::quote_ident(&database);
    if !row.get::<_, bool>(3) {
        return Err(FenceError::CannotLockOut {
            problem: format!(
                "database {database} belongs to {owner}, whose rights role {role} does not have"
            ),
            remedy: format!(
                "GRANT {} TO {}; there, or set cutover.lock_out = false.",
                pgsluice_proto::command::quote_ident(&owner),
                pgsluice_proto::command::quote_ident(&role)
            ),
        });
    }
    if let Some(grantors) = row.get::<_, Option<String>>(4) {
        return Err(FenceError::CannotLockOut {
            problem: format!("the right to connect was granted by {grantors}, who alone can take it back"),
            remedy: format!(
                "Let them REVOKE CONNECT ON DATABASE {name} FROM whomever they gave it, and grant it as {owner}; or set \
                 cutover.lock_out = false."
            ),
        });
    }
    source
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS pgsluice.locked_out (grantee oid PRIMARY KEY, grantable boolean NOT NULL);
             COMMENT ON TABLE pgsluice.locked_out IS 'From whom the right to connect was taken when this database was left; \
               0 is PUBLIC. A rollback and pgsluice cleanup give it back.'",
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// Whether anybody is locked out of this database.
///
/// # Errors
/// The catalog cannot be read.
pub async fn is_locked_out(session: &Client) -> Result<bool, FenceError> {
    let failed = SqlFailure::of(Side::Source, "look whether clients are locked out");
    let exists = session
        .query_typed_one("SELECT to_regclass('pgsluice.locked_out') IS NOT NULL", &[])
        .await
        .map_err(&failed)?;
    if !exists.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = session
        .query_typed_one("SELECT EXISTS (SELECT FROM pgsluice.locked_out)", &[])
        .await
        .map_err(failed)?;
    Ok(row.get(0))
}

/// What became of the sessions of those who may not connect any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnedOut {
    /// How many were ended.
    pub ended: i64,
    /// Roles whose sessions we may not end.
    pub left: Vec<String>,
}

/// Ends the sessions of all who may not connect to this database any more. They cannot come back, so once is enough, but for
/// one that was being let in at that very moment.
///
/// # Errors
/// The source cannot be asked.
pub async fn turn_out(source: &Client) -> Result<TurnedOut, FenceError> {
    // Each is judged before any is ended; asking for what we may not do is an error for all of them.
    let sql = "WITH unwanted AS MATERIALIZED (
                 SELECT a.pid, a.usename::text AS role,
                        pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') AS may_end
                   FROM pg_stat_activity a
                  WHERE a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
                    AND NOT has_database_privilege(a.usesysid, current_database(), 'CONNECT')),
               ended AS MATERIALIZED (SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS n FROM unwanted WHERE may_end)
               SELECT n, (SELECT coalesce(array_agg(DISTINCT role), '{}') FROM unwanted WHERE NOT may_end) FROM ended";
    let row = source
        .query_typed_one(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "end the sessions of clients that are locked out"))?;
    Ok(TurnedOut { ended: row.get(0), left: row.get(1) })
}
