//! Large tables are compared in pieces, by ranges of their keys or by their hashes, and whatever the collations are, every row is in one:
//! nothing is found that is not there, and what is there is found.

use pgsluice::verify::row_text::{ComparedColumn, Hashing, RowForm};

use super::{FAST, verify};
use crate::harness::clusters::connect;
use crate::harness::stage::{Pair, Stage, text};
use crate::harness::two_tables::intruder;

/// Some 40 and 120 MB: several pieces, and two parts where a snapshot may be held for six seconds.
const SCHEMA: &str = "
CREATE TABLE by_number (id int PRIMARY KEY, v text);
INSERT INTO by_number SELECT i * 7, repeat(md5(i::text), 2) FROM generate_series(1, 300000) i;
CREATE TABLE by_name (name text PRIMARY KEY, v text);
INSERT INTO by_name SELECT CASE i % 3 WHEN 0 THEN 'x-' WHEN 1 THEN 'X' ELSE 'x_' END || md5(i::text), repeat(md5(i::text), 2)
  FROM generate_series(1, 900000) i;
CREATE TABLE without (v text, n int);
ALTER TABLE without REPLICA IDENTITY FULL;
INSERT INTO without SELECT repeat(md5(i::text), 3), i % 1000 FROM generate_series(1, 900000) i; ANALYZE";
/// The same, in which texts may be ordered otherwise, for all that their collation tells.
const TARGET: &str = "
CREATE TABLE by_number (id int PRIMARY KEY, v text);
CREATE TABLE by_name (name text COLLATE \"pg_c_utf8\" PRIMARY KEY, v text);
CREATE TABLE without (v text, n int)";

#[tokio::test]
async fn tables_in_pieces_are_compared_whatever_their_order() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    stage.target_client().await.batch_execute(TARGET).await.expect("schema");
    let replicator = stage
        .streaming_with(
            "schema.mode = \"existing\"\ncutover.reverse = false\nverify.max_snapshot_seconds = 6\nverify.piece_bytes = \"10MiB\"",
        )
        .await;
    stage.caught_up().await;
    let clean = verify(&replicator, FAST).await;
    assert_eq!(
        (clean.outcome.as_str(), clean.rows_compared),
        ("clean", 2_100_000),
        "{clean:#?}\n{}",
        replicator.log()
    );
    assert!(clean.snapshots >= 6, "not in pieces: {clean:#?}");
    assert!(clean.longest_snapshot_ms <= 6_500.0, "{clean:#?}");

    let target = intruder(&stage).await;
    for sql in [
        "UPDATE by_number SET v = v || 'x' WHERE id = (SELECT max(id) FROM by_number)",
        "DELETE FROM by_number WHERE id = (SELECT min(id) FROM by_number)",
        "UPDATE by_name SET v = '' WHERE name = (SELECT name FROM by_name ORDER BY name COLLATE \"C\" LIMIT 1)",
        "DELETE FROM without WHERE ctid = (SELECT max(ctid) FROM without)",
    ] {
        target.batch_execute(sql).await.expect(sql);
    }
    let report = verify(&replicator, FAST).await;
    let mut found: Vec<_> = report.rows.iter().map(|row| (row.table.as_str(), row.kind.as_str())).collect();
    found.sort_unstable();
    let wanted = [
        ("public.by_name", "differs"),
        ("public.by_number", "differs"),
        ("public.by_number", "missing"),
        ("public.without", "missing"),
    ];
    assert_eq!((found.as_slice(), report.differences), (wanted.as_slice(), 4), "{report:#?}");
}

/// Keys whose first column, or the first two, have hardly any values: by these alone there would be one piece, or two.
const OF_SEVERAL_COLUMNS: &str = "
CREATE TABLE of_two (tenant int, id bigint, v text, PRIMARY KEY (tenant, id));
INSERT INTO of_two SELECT 1 + (i = 300000)::int, i * 7 % 300007, repeat(md5(i::text), 2) FROM generate_series(1, 300000) i;
CREATE TABLE of_names (tenant int, relation regclass, id int, v text, PRIMARY KEY (tenant, relation, id));
INSERT INTO of_names SELECT 1, (CASE i % 2 WHEN 0 THEN 'pg_class' ELSE 'of_two' END)::regclass, i, repeat(md5(i::text), 2)
  FROM generate_series(1, 100000) i;
CREATE TABLE of_three (region text COLLATE \"C\", day date, n numeric, mood text, v text, PRIMARY KEY (region, day, n) INCLUDE (mood));
INSERT INTO of_three SELECT CASE WHEN i % 1000 = 0 THEN 'a''b' ELSE 'z' END, date '2026-01-01' + i % 3, i / 10.0, 'm', repeat(md5(i::text), 2)
  FROM generate_series(1, 300000) i;
ANALYZE";

#[tokio::test]
async fn keys_of_several_columns_are_cut_by_all_of_them() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(OF_SEVERAL_COLUMNS).await.expect("schema");
    let replicator = stage.streaming_with("verify.piece_bytes = \"4MiB\"").await;
    stage.caught_up().await;
    let clean = verify(&replicator, FAST).await;
    assert_eq!(
        (clean.outcome.as_str(), clean.rows_compared),
        ("clean", 700_000),
        "{clean:#?}\n{}",
        replicator.log()
    );
    assert!(clean.snapshots >= 14, "some 70 MB in pieces of 4: {clean:#?}");

    let target = intruder(&stage).await;
    for sql in [
        "UPDATE of_two SET v = 'x' WHERE (tenant, id) = (SELECT tenant, id FROM of_two ORDER BY 1, 2 LIMIT 1)",
        "DELETE FROM of_two WHERE (tenant, id) = (SELECT tenant, id FROM of_two ORDER BY 1 DESC, 2 DESC LIMIT 1)",
        "INSERT INTO of_two VALUES (1, 100000000, 'extra')",
        "UPDATE of_three SET v = 'x' WHERE ctid IN (SELECT ctid FROM of_three ORDER BY md5(v) LIMIT 5)",
        "INSERT INTO of_three VALUES ('', '-infinity', 'NaN', 'm', 'extra')",
    ] {
        target.batch_execute(sql).await.expect(sql);
    }
    let report = verify(&replicator, FAST).await;
    let count = |table: &str, kind: &str| {
        report.rows.iter().filter(|row| row.table == table && row.kind == kind).count()
    };
    assert_eq!(count("public.of_two", "differs"), 1, "{report:#?}");
    assert_eq!(count("public.of_two", "missing"), 1, "{report:#?}");
    assert_eq!(count("public.of_two", "extra"), 1, "{report:#?}");
    assert_eq!(count("public.of_three", "differs"), 5, "{report:#?}");
    assert_eq!(count("public.of_three", "extra"), 1, "{report:#?}");
    assert_eq!(report.differences, 9, "{report:#?}");
}

/// Small on disk, and long to print: some 20 ms a row, in 10 kB.
const LONG_TO_PRINT: &str = "
CREATE TABLE long (id int PRIMARY KEY, v float8[]);
INSERT INTO long SELECT i, array_fill(pi() * i, ARRAY[100000]) FROM generate_series(1, 600) i; ANALYZE";

/// A size tells little about a time: what takes longer than a snapshot may be held is cut until it does not.
#[tokio::test]
async fn what_takes_too_long_is_compared_in_smaller_pieces() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(LONG_TO_PRINT).await.expect("schema");
    let replicator =
        stage.streaming_with("verify.piece_bytes = \"1GiB\"\nverify.max_snapshot_seconds = 2").await;
    stage.caught_up().await;
    let clean = verify(&replicator, FAST).await;
    let counted = (clean.outcome.as_str(), clean.rows_compared, clean.tables_compared);
    assert_eq!(counted, ("clean", 600, 1), "{clean:#?}\n{}", replicator.log());
    assert!(replicator.log().contains("smaller parts are compared"), "{}", replicator.log());
    assert!(clean.longest_snapshot_ms <= 2_500.0, "{clean:#?}");

    let damage = "UPDATE long SET v[50000] = 0 WHERE id = 300";
    intruder(&stage).await.batch_execute(damage).await.expect(damage);
    let report = verify(&replicator, FAST).await;
    let found: Vec<_> = report.rows.iter().map(|row| (row.kind.as_str(), row.columns.as_slice())).collect();
    assert_eq!(found, [("differs", ["v".to_owned()].as_slice())], "{report:#?}\n{}", replicator.log());
}

/// Rows whose values contain what stands between values, and whatever else could make two of them print alike: as table `r`.
pub(super) const HARD_TO_TELL_APART: &str = "
CREATE TYPE pair AS (x int, y text);
CREATE TABLE v AS SELECT x FROM unnest(ARRAY[NULL, '', '0', '1', E'\\x01', E'1\\x01', E'\\x011', E'0\\x011', 'x']) x;
CREATE TABLE r AS SELECT row_number() OVER () AS n, a.x AS a, b.x AS b, c.x::char(3) AS c, d, e
  FROM v a, v b, v c, unnest(ARRAY[NULL, 0, 1, 11]) d,
       unnest(ARRAY[NULL, ROW(NULL, NULL)::pair, ROW(1, E'\\x01')::pair]) e";

/// All of them but its number.
pub(super) fn columns_of_those() -> [ComparedColumn; 5] {
    let column = |name: &str, base_type: &str| ComparedColumn {
        name: name.to_owned(),
        base_type: base_type.to_owned(),
        is_nullable: true,
        has_plain_labels: false,
    };
    [
        column("a", "text"),
        column("b", "text"),
        column("c", "bpchar"),
        column("d", "int4"),
        column("e", "public.pair"),
    ]
}

/// Of every two rows that differ, so do the texts that are hashed.
#[tokio::test]
async fn rows_that_differ_have_texts_that_differ() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let client = connect(&stage.source.url("app")).await;
    client.batch_execute(HARD_TO_TELL_APART).await.expect("rows");
    let columns = columns_of_those();
    for is_same_encoding in [true, false] {
        let form = RowForm { hashing: Hashing::Native, is_same_encoding };
        for some in [&columns[..], &columns[..2], &columns[2..4], &columns[1..5]] {
            let names: Vec<&str> = some.iter().map(|column| column.name.as_str()).collect();
            let row =
                names.iter().map(|name| format!("num_nulls({name}), {name}")).collect::<Vec<_>>().join(", ");
            let printed = form.text(&some.iter().collect::<Vec<_>>());
            let counts = format!(
                "SELECT count(DISTINCT ({row}))::text || ' ' || count(DISTINCT t) FROM (SELECT *, {printed} AS t FROM r) r"
            );
            let counts = text(&client, &counts).await;
            let (rows, texts) = counts.split_once(' ').expect("two numbers");
            assert_eq!(rows, texts, "{names:?}: {printed}");
        }
    }
}
