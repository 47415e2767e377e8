//! Whether two sessions reached one server. An address can move from one server to another (a failover, a Service)
//! between two connects, and a position in the WAL of one server means nothing on another.

use crate::connection::SqlSession;

/// Whether `other` sees `session` among the sessions of its own server. A server process and the microsecond it began in
/// do not occur twice; both sessions must be of the same role. It stays true as long as both sessions live.
///
/// # Errors
/// What either answered.
pub async fn same_server(session: &SqlSession, other: &SqlSession) -> Result<bool, tokio_postgres::Error> {
    SessionMark::of(session).await?.is_seen_by(other).await
}

/// What tells a session from every other one, on any server.
#[derive(Clone, Debug)]
pub struct SessionMark {
    pid: i32,
    begun_at: Option<String>,
}

impl SessionMark {
    /// Asks the session.
    ///
    /// # Errors
    /// What it answered.
    pub async fn of(session: &SqlSession) -> Result<Self, tokio_postgres::Error> {
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let own = session.query_typed_one(sql, &[]).await?;
        Ok(Self { pid: own.get(0), begun_at: own.get(1) })
    }

    /// Whether it is a session of the server that `other` is on.
    ///
    /// # Errors
    /// What it answered.
    pub async fn is_seen_by(&self, other: &SqlSession) -> Result<bool, tokio_postgres::Error> {
        let seen = other
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2::text::timestamptz",
                &[&self.pid, &self.begun_at],
            )
            .await?;
        Ok(seen.get::<_, i64>(0) == 1)
    }
}
