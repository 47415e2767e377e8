//! The row oracle must see every kind of difference, or every other test proves nothing.

use pgsluice::demo::compare::{CompareError, ComparedSide, compare_rows, compare_sequences};

use crate::harness::clusters::{connect, start};

const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, mood mood, tags text[], doc jsonb,
                     seen timestamptz, blob bytea, ratio float8);
CREATE TABLE "odd ""name" (a int, "B c" text);
CREATE TABLE nothing ();
CREATE TABLE parted (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO people (name, mood, tags, doc, seen, blob, ratio)
  SELECT 'n' || i || E'\t\n\\', 'happy', ARRAY['a', NULL, 'c,"d'], '{"a": [1, 2]}', '2024-05-05 12:00+02'::timestamptz + i * interval '1 hour',
         '\x00ff', 0.1::float8 + i FROM generate_series(1, 1000) i;
INSERT INTO "odd ""name" SELECT 7, x FROM unnest(ARRAY['same', 'same', NULL, '', 'Z', 'z', E'\t']) x;
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO parted SELECT i, '2024-02-02' FROM generate_series(1, 100) i;
"#;

#[tokio::test]
async fn equal_databases_of_different_versions_compare_equal_and_every_change_is_seen() {
    let (source, target) = (start(14).await, start(18).await);
    let (source_url, target_url) = (source.url("postgres"), target.url("postgres"));
    let (source_client, target_client) = (connect(&source_url).await, connect(&target_url).await);
    source_client.batch_execute(SCHEMA).await.expect("source schema");
    target_client.batch_execute(SCHEMA).await.expect("target schema");
    let sides = || (ComparedSide::now(&source_url), ComparedSide::now(&target_url));
    let compare = || async {
        let (source, target) = sides();
        compare_rows(&source, &target).await.expect("comparison")
    };

    let equal = compare().await;
    assert!(equal.rows_are_identical(), "{equal:?}");
    assert_eq!((equal.tables, equal.rows_compared), (4, 1108));
    let sequences = compare_sequences(&source_url, &target_url).await.expect("sequences");
    assert_eq!((sequences.sequences, sequences.differing.len()), (1, 0));

    // A duplicate row, a NULL for an empty string, a changed value, a missing and an extra row.
    for (statement, missing, extra) in [
        (r#"INSERT INTO "odd ""name" VALUES (7, 'same')"#, 0, 1),
        (r#"UPDATE "odd ""name" SET "B c" = NULL WHERE "B c" = ''"#, 1, 1),
        ("UPDATE people SET doc = '{}' WHERE id = 500", 1, 1),
        ("DELETE FROM parted WHERE id = 3", 1, 0),
        ("INSERT INTO nothing DEFAULT VALUES", 0, 1),
    ] {
        let before = compare().await;
        target_client.batch_execute(statement).await.expect(statement);
        let after = compare().await;
        assert_eq!(
            (after.missing - before.missing, after.extra - before.extra),
            (missing, extra),
            "{statement}"
        );
    }
    target_client.batch_execute("SELECT nextval('people_id_seq')").await.expect("nextval");
    let sequences = compare_sequences(&source_url, &target_url).await.expect("sequences");
    assert_eq!(sequences.differing.len(), 1);

    target_client.batch_execute("ALTER TABLE people DROP COLUMN mood").await.expect("drop column");
    let (source, target) = sides();
    assert!(matches!(compare_rows(&source, &target).await, Err(CompareError::Table { .. })));
}

#[tokio::test]
async fn a_comparison_under_an_exported_snapshot_does_not_see_later_changes() {
    let source = start(15).await;
    let url = source.url("postgres");
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.expect("setup");
    let holder = connect(&url).await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
    let snapshot: String = holder.query_one("SELECT pg_export_snapshot()", &[]).await.expect("export").get(0);
    client.batch_execute("INSERT INTO t VALUES (2)").await.expect("later change");

    let comparison = compare_rows(&ComparedSide::at_snapshot(&url, snapshot), &ComparedSide::now(&url)).await;
    let comparison = comparison.expect("comparison");
    assert_eq!((comparison.rows_compared, comparison.missing, comparison.extra), (1, 0, 1));
}
