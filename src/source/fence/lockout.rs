//! What triggers cannot refuse, large objects above all: where the operator asks for it, the fence's transaction takes from
//! everybody but the database's owner the right to connect, and their sessions are ended once it is committed. What was taken is
//! written down in the same transaction, so it can be given back whoever asks, also after the program that took it has died.
//! Superusers and the owner connect as before: the way back needs the one, and the server asks the others nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgsluice_proto::command::quote_ident;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::FenceError;
use crate::cutover::SqlFailure;
use crate::model::Side;

/// How often the sessions that are being ended are looked at.
const POLL: Duration = Duration::from_millis(5);

/// For the fence's transaction. What may go wrong in silence is looked at: the server only warns where a right may not be taken,
/// and asks the role that logs in, which may be another one than that which acts, for its own right to connect.
pub(super) const LOCK_OUT: &str = "DO $$
    DECLARE names text;
    BEGIN
      INSERT INTO pgsluice.locked_out (grantee, grantable)
        SELECT a.grantee, a.is_grantable
          FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
         WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba
        ON CONFLICT (grantee) DO UPDATE SET grantable = excluded.grantable;
      SELECT string_agg(CASE WHEN l.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END, ', ') INTO names
        FROM pgsluice.locked_out l LEFT JOIN pg_roles r ON r.oid = l.grantee
       WHERE l.grantee = 0 OR r.oid IS NOT NULL;
      IF names IS NOT NULL THEN
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM ', current_database()) || names;
      END IF;
      IF EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
                  WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_grantor',
          MESSAGE = 'the right to connect could not be taken from everybody',
          HINT = 'Let it be granted by the owner of the database alone.';
      END IF;
      IF NOT has_database_privilege(session_user, current_database(), 'CONNECT') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_grantor',
          MESSAGE = format('%s itself could not connect any more', session_user),
          HINT = 'Grant CONNECT on the database to its owner, and let the role that logs in be the owner or inherit its rights.';
      END IF;
    END $$";

/// Gives back what was taken, to those roles that are still there; an error where it cannot. For a DO block, so without a `$` in
/// it. Repeating it changes nothing; where nobody was locked out nothing is done.
pub(super) const LET_IN: &str = "IF to_regclass('pgsluice.locked_out') IS NOT NULL THEN
      DECLARE names text; grantable_names text;
      BEGIN
        SELECT string_agg(each.name, ', ') FILTER (WHERE NOT each.grantable), string_agg(each.name, ', ') FILTER (WHERE each.grantable)
          INTO names, grantable_names
          FROM (SELECT CASE WHEN l.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS name, l.grantable
                  FROM pgsluice.locked_out l LEFT JOIN pg_roles r ON r.oid = l.grantee
                 WHERE l.grantee = 0 OR r.oid IS NOT NULL) each;
        IF names IS NOT NULL THEN
          EXECUTE format('GRANT CONNECT ON DATABASE %I TO ', current_database()) || names;
        END IF;
        IF grantable_names IS NOT NULL THEN
          EXECUTE format('GRANT CONNECT ON DATABASE %I TO ', current_database()) || grantable_names || ' WITH GRANT OPTION';
        END IF;
        IF EXISTS (SELECT FROM pgsluice.locked_out l WHERE (l.grantee = 0 OR l.grantee IN (SELECT oid FROM pg_roles))
                      AND NOT EXISTS (SELECT FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
                        WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND a.grantee = l.grantee)) THEN
          RAISE EXCEPTION USING ERRCODE = 'invalid_grantor',
            MESSAGE = 'clients that were locked out cannot be let in again: only the owner of the database may do that',
            HINT = 'Make the role of pgsluice the owner of the database again.';
        END IF;
        DELETE FROM pgsluice.locked_out;
      END;
    END IF";

/// Why clients cannot be locked out of a database, or not without locking pgsluice out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What is in the way.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What is known beforehand; the fence's transaction tries it.
///
/// # Errors
/// What the server answered.
pub async fn objection(session: &Client) -> Result<Option<Objection>, tokio_postgres::Error> {
    let sql = "SELECT current_database()::text, pg_get_userbyid(d.datdba)::text, current_user::text, me.rolsuper, owner.rolsuper,
                      pg_has_role(d.datdba, 'USAGE'),
                      (SELECT string_agg(DISTINCT pg_get_userbyid(a.grantor)::text, ', ') FROM aclexplode(d.datacl) a
                        WHERE a.privilege_type = 'CONNECT' AND a.grantor <> d.datdba),
                      (SELECT min(pg_get_userbyid(a.grantee)::text) FROM aclexplode(d.datacl) a
                        WHERE a.privilege_type = 'CONNECT' AND a.is_grantable AND a.grantee NOT IN (0, d.datdba)
                          AND NOT me.rolsuper AND me.oid <> d.datdba AND pg_has_role(a.grantee, 'USAGE'))
                 FROM pg_database d JOIN pg_roles owner ON owner.oid = d.datdba, pg_roles me
                WHERE d.datname = current_database() AND me.rolname = current_user";
    let row = session.query_typed_one(sql, &[]).await?;
    let (database, owner, role): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let (is_superuser, owner_is_superuser, has_rights): (bool, bool, bool) =
        (row.get(3), row.get(4), row.get(5));
    let quoted = quote_ident(&database);
    if !is_superuser && !has_rights {
        let remedy = if owner_is_superuser {
            format!("ALTER DATABASE {quoted} OWNER TO {};", quote_ident(&role))
        } else {
            format!(
                "GRANT {} TO {}; (from PostgreSQL 16 WITH INHERIT TRUE, before that ALTER ROLE … INHERIT), or ALTER DATABASE {quoted} \
                 OWNER TO {0};",
                quote_ident(&owner),
                quote_ident(&role)
            )
        };
        return Ok(Some(Objection {
            problem: format!(
                "database {database} belongs to {owner}, and role {role} does not have its rights"
            ),
            remedy,
        }));
    }
    let granted_by_others = row.get::<_, Option<String>>(6).map(|grantors| Objection {
        problem: format!("the right to connect to {database} was granted by {grantors}, not by its owner {owner}"),
        remedy: format!(
            "As the owner: REVOKE GRANT OPTION FOR CONNECT ON DATABASE {quoted} FROM {grantors} CASCADE; and grant CONNECT \
             to those who need it."
        ),
    });
    let acts_as = row.get::<_, Option<String>>(7).map(|grantee| Objection {
        problem: format!(
            "role {role} may grant CONNECT by its role {grantee} as well, in whose name it would revoke it"
        ),
        remedy: format!(
            "As the owner: REVOKE GRANT OPTION FOR CONNECT ON DATABASE {quoted} FROM {} CASCADE;",
            quote_ident(&grantee)
        ),
    });
    Ok(granted_by_others.or(acts_as))
}

/// Makes the table that what is taken is written to. Repeating it changes nothing.
///
/// # Errors
/// [`FenceError::CannotLockOut`], or a statement fails.
pub(super) async fn arm(source: &Client) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "prepare to lock clients out");
    if let Some(Objection { problem, remedy }) = objection(source).await.map_err(&failed)? {
        return Err(FenceError::CannotLockOut { problem, remedy });
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

/// Locks clients out, in the fence's transaction.
pub(super) async fn lock_out(session: &Client) -> Result<(), FenceError> {
    let Err(error) = session.batch_execute(LOCK_OUT).await else { return Ok(()) };
    let failed = SqlFailure::of(Side::Source, "lock clients out");
    Err(match error.as_db_error() {
        // Somebody else changes the database's entry at this moment.
        Some(refused)
            if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::INTERNAL_ERROR]
                .contains(refused.code()) =>
        {
            FenceError::DatabaseInUse
        }
        Some(refused) if *refused.code() == SqlState::INVALID_GRANTOR => FenceError::CannotLockOut {
            problem: refused.message().to_owned(),
            remedy: refused.hint().unwrap_or_default().to_owned(),
        },
        _ => failed(error).into(),
    })
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
    /// The processes that were ended, or are about to end.
    pub ended: BTreeSet<i32>,
    /// Roles whose sessions we may not end.
    pub left: Vec<String>,
    /// Roles whose sessions are not ours, and that may connect as before.
    pub bound_by_nothing: Vec<String>,
}

/// Ends the sessions of all who may not connect to this database any more, and waits for their end at most for `bound`. They cannot
/// come back, so once is enough, but for one that was being let in at that very moment.
///
/// # Errors
/// The source cannot be asked.
pub async fn turn_out(source: &Client, bound: Duration) -> Result<TurnedOut, FenceError> {
    let began = Instant::now();
    let mut found = TurnedOut::default();
    loop {
        let unwanted = end_sessions(source, &mut found).await?;
        if unwanted == 0 || began.elapsed() >= bound {
            return Ok(found);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Signals them, and says how many are still there.
async fn end_sessions(source: &Client, found: &mut TurnedOut) -> Result<usize, FenceError> {
    // Each is judged before any is ended; asking for what we may not do is an error for all of them.
    let sql = "WITH others AS MATERIALIZED (
                 SELECT a.pid, a.usename::text AS role, has_database_privilege(a.usesysid, current_database(), 'CONNECT') AS may_stay,
                        pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') AS may_end,
                        coalesce(a.application_name, '') LIKE 'pgsluice %' AS is_ours
                   FROM pg_stat_activity a
                  WHERE a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()),
               ended AS MATERIALIZED (SELECT pid FROM others WHERE NOT may_stay AND may_end AND pg_terminate_backend(pid))
               SELECT (SELECT coalesce(array_agg(pid), '{}') FROM ended),
                      (SELECT coalesce(array_agg(DISTINCT role), '{}') FROM others WHERE NOT may_stay AND NOT may_end),
                      (SELECT coalesce(array_agg(DISTINCT role), '{}') FROM others WHERE may_stay AND NOT is_ours)";
    let row = source
        .query_typed_one(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "end the sessions of clients that are locked out"))?;
    let ended: Vec<i32> = row.get(0);
    found.ended.extend(&ended);
    found.left = row.get(1);
    found.bound_by_nothing = row.get(2);
    Ok(ended.len())
}
