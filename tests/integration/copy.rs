//! The initial copy while everybody writes: killed, held up, made worthless, refused. Each test ends with the same rows on both
//! sides, compared by PostgreSQL itself.

mod faults;
mod relay;
mod sparing;
mod standby;
mod statistics;
mod storm;
mod tables;
mod work;
mod worthless;

use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;

use crate::harness::clusters::options;
use crate::harness::stage::{Pair, Stage, streaming, text};
use crate::harness::wait::until;

/// One connection, the smallest chunks, and slow: what a test does in the middle of the copy is done in the middle of it.
const SLOW: &str =
    "snapshot.jobs = 1\nsnapshot.chunk_bytes = \"64kB\"\nsnapshot.max_bytes_per_second = \"128kB\"\n";
const WIDTH: &str = "repeat(md5(i::text), 6)";

/// A table that is cut into about ten chunks by its key.
fn ordered() -> String {
    format!(
        "CREATE TABLE ordered (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
         INSERT INTO ordered SELECT i, 0, {WIDTH} FROM generate_series(1, 3000) i; ANALYZE ordered"
    )
}

/// The same, with values that are out of line beside rows that fill their pages.
fn toasted() -> String {
    "CREATE TABLE toasted (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, body text, pad text);
     ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL, ALTER pad SET STORAGE PLAIN;
     INSERT INTO toasted SELECT i, 0, repeat(md5(i::text), 100), repeat('p', 1200) FROM generate_series(1, 250) i; ANALYZE toasted"
        .to_owned()
}

async fn execute(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// Waits for the plan. What is written before may be in no order of its keys, and such a table is not cut.
async fn planned(target: &Client) {
    until("the plan", || async {
        target.query_one("SELECT FROM pgsluice.copy_chunk LIMIT 1", &[]).await.is_ok()
    })
    .await;
}

/// Chunks of a table that are in; 0 before there is a plan.
async fn chunks_joined(target: &Client, table: &str) -> i64 {
    let query =
        format!("SELECT count(*) FROM pgsluice.copy_chunk WHERE table_name = '{table}' AND state = 'joined'");
    target.query_one(&query, &[]).await.map_or(0, |row| row.get(0))
}

/// Waits until so many chunks of a table are in, and checks that as many are not.
async fn half_copied(target: &Client, table: &str, chunks: i64) {
    until(&format!("{chunks} chunks of {table}"), || async { chunks_joined(target, table).await >= chunks })
        .await;
    let left = format!(
        "SELECT count(*) FROM pgsluice.copy_chunk WHERE table_name = '{table}' AND state <> 'joined'"
    );
    assert!(number(target, &left).await >= 2, "the copy was too fast for this test");
}

/// Begins a migration of these tables.
async fn begun(pair: Pair, schema: &str, more: &str) -> (Stage, Client, Client, Replicator) {
    let prepared = options().setting("max_prepared_transactions", "10");
    let stage = Stage::with_options(pair, prepared, options()).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    execute(&source, schema).await;
    let replicator = stage.command(more).start().expect("the program");
    (stage, source, target, replicator)
}

/// Waits until everything is copied and streamed, and compares.
async fn ends_well(stage: &Stage, replicator: &mut Replicator) {
    streaming(replicator).await;
    stage.caught_up_after(replicator, &[]).await;
    stage.assert_same_rows().await;
}

/// The condition of a table's chunk on its keys, e.g. `id >= 5`, for a chunk that is not in.
async fn least_key_of_the_last_chunk(target: &Client, table: &str) -> i64 {
    let query = format!(
        "SELECT first_key FROM pgsluice.copy_chunk WHERE table_name = '{table}' ORDER BY chunk DESC LIMIT 1"
    );
    text(target, &query).await.parse().expect("a number")
}
