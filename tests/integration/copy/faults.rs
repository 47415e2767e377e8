//! A target that dies in the middle of the copy, and an index that it cannot build.

use std::time::Duration;

use pgsluice::demo::cluster::StopMode;

use crate::harness::stage::text;
use crate::harness::two_tables::{PAIR, intruder, problem};

use super::tables::Writers;
use super::{SLOW, begun, ends_well, execute, half_copied, ordered, planned, tables};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_in_the_middle_and_comes_back_gets_the_rest() {
    let (_, seed) = crate::harness::seed::random("the target dies");
    let more =
        "snapshot.jobs = 2\nsnapshot.chunk_bytes = \"64kB\"\nsnapshot.max_bytes_per_second = \"512kB\"\n";
    let (mut stage, _source, target, mut replicator) = begun(PAIR, &tables::schema(), more).await;
    planned(&target).await;
    let writers = Writers::start(&stage, seed);
    half_copied(&target, "ordered", 3).await;
    for _ in 0..2 {
        stage.target.stop(StopMode::Immediate).await.expect("a dead target");
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.target.start_again().await.expect("a target");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    crate::harness::stage::streaming(&mut replicator).await;
    assert!(writers.end().await > 0);
    ends_well(&stage, &mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_built_is_named_and_nothing_is_copied_again() {
    // On the target alone there is something that the expression's function minds.
    let schema = format!(
        "CREATE FUNCTION code_of(note text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN IF to_regclass('public.refusal') IS NOT NULL THEN RAISE EXCEPTION 'no code today'; END IF; RETURN left(note, 3); END $$;
         {}; CREATE INDEX ordered_code ON ordered (public.code_of(note)); CREATE INDEX ordered_n ON ordered (n)",
        ordered()
    );
    let (stage, source, target, mut replicator) = begun(PAIR, &schema, SLOW).await;
    half_copied(&target, "ordered", 2).await;
    execute(&intruder(&stage).await, "CREATE TABLE public.refusal ()").await;
    let said = problem(&mut replicator, "waiting_for_operator").await;
    assert!(said.contains("ordered_code") && said.contains("CREATE INDEX"), "{said}");
    let copied = "SELECT concat_ws(' ', count(*), sum(rows_copied), sum(bytes_copied), max(joined_at))
                    FROM pgsluice.copy_chunk WHERE state = 'joined'";
    let before = text(&target, copied).await;
    execute(&source, "UPDATE ordered SET n = n + 1 WHERE id < 100").await;
    execute(&intruder(&stage).await, "DROP TABLE public.refusal").await;
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, copied).await, before);
    let valid = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text COLLATE \"C\") FROM pg_index
                  WHERE indisvalid AND indrelid = 'ordered'::regclass";
    assert_eq!(text(&target, valid).await, text(&source, valid).await);
    assert!(replicator.api().status().await.expect("status").problem.is_none());
}
