//! Which server a session is on: what identifies a cluster and its history, so that another one is never taken for it
//! (INV-4).

use tokio_postgres::Client;

/// `pg_control_system().system_identifier`, which a cluster shares with its standbys only, and the database's name.
///
/// # Errors
/// What the server answered.
pub async fn system_identity(session: &Client) -> Result<(String, String), tokio_postgres::Error> {
    let sql = "SELECT system_identifier::text, current_database()::text FROM pg_control_system()";
    let row = session.query_typed_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// The timeline that is written now: the control file may still name the one before a promotion.
///
/// # Errors
/// What the server answered.
pub async fn timeline(session: &Client) -> Result<i32, tokio_postgres::Error> {
    let sql = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
    Ok(session.query_typed_one(sql, &[]).await?.get(0))
}
