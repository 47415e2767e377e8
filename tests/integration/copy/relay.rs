//! What the relay of rows has to cope with: rows longer than any buffer, tables without rows, a side that breaks off.

use std::sync::Mutex;

use crate::harness::stage::text;
use crate::harness::two_tables::PAIR;
use crate::harness::wait::until;

use super::{begun, ends_well, execute};

/// Longer than every piece and buffer between the two servers.
const LONG_BYTES: usize = 50_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_fifty_megabytes_and_tables_without_rows_arrive_in_either_format() {
    // A `regtype` travels as text.
    let schema = format!(
        "CREATE TABLE long_binary (id int PRIMARY KEY, body text);
         CREATE TABLE long_text (id int PRIMARY KEY, kind regtype, body text);
         CREATE TABLE empty_binary (id int PRIMARY KEY); CREATE TABLE empty_text (id int PRIMARY KEY, kind regtype);
         INSERT INTO long_binary SELECT i, repeat(md5(i::text), CASE i WHEN 500 THEN {LONG_BYTES} / 32 ELSE i % 3 END)
           FROM generate_series(1, 1000) i;
         INSERT INTO long_text SELECT id, 'int'::regtype, body FROM long_binary"
    );
    let (stage, source, target, mut replicator) = begun(PAIR, &schema, "").await;
    ends_well(&stage, &mut replicator).await;
    let longest = "SELECT concat_ws(' ', max(length(body)), md5(string_agg(md5(body), '' ORDER BY id)))";
    for table in ["long_binary", "long_text"] {
        let query = format!("{longest} FROM {table}");
        assert_eq!(text(&target, &query).await, text(&source, &query).await, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_either_side_cancels_or_ends_in_the_middle_goes_on_by_itself() {
    let schema = "CREATE TABLE wide (id bigint PRIMARY KEY, body text);
         INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 24000) i; ANALYZE wide";
    // One chunk, which the source cannot have sent before it is interrupted.
    let more = "snapshot.jobs = 1\nsnapshot.chunk_bytes = \"1GB\"\nsnapshot.max_bytes_per_second = \"8MB\"\n";
    let (stage, source, target, mut replicator) = begun(PAIR, schema, more).await;
    let mut interrupted = Vec::new();
    for (side, client) in [("source", &source), ("target", &target)] {
        for how in ["pg_cancel_backend", "pg_terminate_backend"] {
            let begun = "SELECT coalesce(min(pid), 0)::text FROM pg_stat_activity
                          WHERE application_name = 'pgsluice copy' AND state = 'active' AND query LIKE 'COPY %wide%'";
            let found = Mutex::new(String::new());
            until("a copy under way", || async {
                let pid = text(client, begun).await;
                let is_new = pid != "0" && !interrupted.contains(&(side, pid.clone()));
                *found.lock().expect("not poisoned") = pid;
                is_new
            })
            .await;
            let pid = found.into_inner().expect("not poisoned");
            execute(client, &format!("SELECT {how}({pid})")).await;
            interrupted.push((side, pid));
        }
    }
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, "SELECT count(*)::text FROM wide").await, "24000");
    assert!(replicator.api().status().await.expect("status").problem.is_none());
}
