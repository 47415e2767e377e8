//! The ground on which the contenders of one case compete: a source database with its backlog, the mark that ends it, and
//! what the rows must be like in the end. The same backlog for all: everybody gets a copy of a slot that stands before it.

use tokio_postgres::Client;

use super::Outcome;
use super::cases::CaseId;
use super::options::Options;
use super::servers::Servers;

/// Of native replication; pgsluice makes its own.
pub(crate) const NATIVE_PUBLICATION: &str = "bench_native";

/// One case's source.
pub(crate) struct Ground {
    /// Which case.
    pub(crate) case: CaseId,
    /// Name of the source's database; the names of target databases and slots begin with it.
    pub(crate) database: String,
}

/// Where a backlog ends.
#[derive(Clone, Debug)]
pub(crate) struct BacklogEnd {
    /// Which row of the marks was committed last.
    pub(crate) mark: i32,
    /// A position of the source after everything but the mark.
    pub(crate) before_mark: String,
}

/// What a backlog amounts to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BacklogSize {
    /// WAL of the source.
    pub(crate) wal_bytes: i64,
    /// How long the source needed for it.
    pub(crate) generated_in_seconds: f64,
}

impl Ground {
    /// Makes the source's database with its rows, and the publication of native replication.
    pub(crate) async fn prepare(servers: &Servers, case: CaseId, options: &Options) -> Outcome<Self> {
        let database = format!("case_{}", case.letter());
        servers.source.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
        case.load(&servers.source, &database, options).await?;
        let publish = format!("CREATE PUBLICATION {NATIVE_PUBLICATION} FOR ALL TABLES");
        servers.source.execute(&database, &publish).await?;
        Ok(Self { case, database })
    }

    /// Commits the backlog and its mark.
    pub(crate) async fn commit_backlog(
        &self,
        servers: &Servers,
        options: &Options,
    ) -> Outcome<(BacklogEnd, BacklogSize)> {
        let client = servers.source.client(&self.database).await?;
        let begin = wal_position(&client).await?;
        let started = std::time::Instant::now();
        self.case.generate(&servers.source, &self.database, options).await?;
        let generated_in_seconds = started.elapsed().as_secs_f64();
        let end = self.commit_mark(&client, 1).await?;
        let row = client
            .query_one(
                "SELECT pg_wal_lsn_diff($1::text::pg_lsn, $2::text::pg_lsn)::int8",
                &[&end.before_mark, &begin],
            )
            .await?;
        // Or autovacuum would do it in the middle of somebody's run.
        client.batch_execute("VACUUM (ANALYZE)").await?;
        Ok((end, BacklogSize { wal_bytes: row.get(0), generated_in_seconds }))
    }

    /// Commits a mark, durably.
    pub(crate) async fn commit_mark(&self, source: &Client, mark: i32) -> Outcome<BacklogEnd> {
        let before_mark = wal_position(source).await?;
        source
            .batch_execute(&format!("SET synchronous_commit = on; INSERT INTO bench_marks VALUES ({mark})"))
            .await?;
        Ok(BacklogEnd { mark, before_mark })
    }

    /// A copy of a slot, at the same position.
    pub(crate) async fn copy_slot(&self, servers: &Servers, base: &str, copy: &str) -> Outcome<()> {
        let client = servers.source.client(&self.database).await?;
        client
            .execute(
                "SELECT pg_copy_logical_replication_slot($1::text::name, $2::text::name)",
                &[&base, &copy],
            )
            .await?;
        Ok(())
    }

    /// Drops a slot, once nobody reads it any more.
    pub(crate) async fn drop_slot(&self, servers: &Servers, slot: &str) -> Outcome<()> {
        let client = servers.source.client(&self.database).await?;
        client
            .execute(
                "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots
                  WHERE slot_name = $1::text AND active_pid IS NOT NULL",
                &[&slot],
            )
            .await?;
        client
            .execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1::text",
                &[&slot],
            )
            .await?;
        Ok(())
    }

    /// Removes everything of this case from the source.
    pub(crate) async fn remove(self, servers: &Servers) -> Outcome<()> {
        let client = servers.source.client(&self.database).await?;
        let slots = client
            .query(
                "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()",
                &[],
            )
            .await?;
        for row in slots {
            self.drop_slot(servers, row.get(0)).await?;
        }
        drop(client);
        servers.source.drop_database(&self.database).await
    }
}

async fn wal_position(client: &Client) -> Outcome<String> {
    Ok(client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0))
}
