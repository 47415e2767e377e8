//! Sides that are not alike: servers that hash in different ways, databases that keep text in different ways, a target that has
//! partitions of its own.

use std::collections::BTreeMap;

use pgsluice::demo::cluster::LocalCluster;
use pgsluice::verify::row_text::{ComparedColumn, Hashing, RowForm};
use tokio_postgres::Client;

use super::{FAST, pieces, verify};
use crate::harness::clusters::{connect, start};
use crate::harness::stage::{Pair, Stage, text};
use crate::harness::two_tables::intruder;

const MD5: RowForm = RowForm { hashing: Hashing::Md5, is_same_encoding: true };
const NATIVE: RowForm = RowForm { hashing: Hashing::Native, is_same_encoding: true };
/// Short, long, beyond ASCII, beyond the basic plane, with what stands between values.
const TEXTS: &str = "CREATE TABLE texts (n int PRIMARY KEY, t text);
    INSERT INTO texts VALUES (1, ''), (2, 'x'), (3, repeat('0123456789', 100000)), (4, 'Käse ÄÖÜ ß é'), (5, '日本語'),
                             (6, U&'\\+01F600'), (7, E'a\\x01b'), (8, '1')";

/// The hashes of every text, for both seeds.
async fn hashes(client: &Client, form: RowForm) -> BTreeMap<i32, (i64, i64)> {
    let column = ComparedColumn {
        name: "t".into(),
        base_type: "text".into(),
        is_nullable: false,
        has_plain_labels: false,
    };
    let printed = form.text(&[&column]);
    let (first, second) = (form.hash("printed", 1), form.hash("printed", 2));
    let sql =
        format!("SELECT n, {first}, {second} FROM (SELECT n, {printed} AS printed FROM texts OFFSET 0) t");
    let rows = client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// Bits of a hash, as a number.
const fn bits(of: u64) -> i64 {
    of.cast_signed()
}

#[tokio::test]
async fn every_version_hashes_a_text_alike_in_both_ways() {
    let mut known: Option<Vec<BTreeMap<i32, (i64, i64)>>> = None;
    for major in 14..=18 {
        let server: LocalCluster = start(major).await;
        let client = connect(&server.url("postgres")).await;
        client.batch_execute(TEXTS).await.expect("texts");
        let mut found = Vec::new();
        for form in [NATIVE, MD5] {
            let hashes = hashes(&client, form).await;
            assert_eq!(hashes.len(), 8, "{major}: {hashes:?}");
            let mut all: Vec<i64> = hashes.values().flat_map(|(first, second)| [*first, *second]).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 16, "{major}: not all of them differ: {hashes:?}");
            found.push(hashes);
        }
        // The beginnings of md5('1') and md5('2').
        assert_eq!(found[1][&1], (bits(0xc4ca_4238_a0b9_2382), bits(0xc81e_728d_9d4c_2f63)), "{major}");
        assert_eq!(known.get_or_insert_with(|| found.clone()), &found, "{major}");
    }
}

/// As [`pieces::rows_that_differ_have_texts_that_differ`], one step further.
#[tokio::test]
async fn rows_that_differ_have_md5_hashes_that_differ() {
    let server = start(14).await;
    let client = connect(&server.url("postgres")).await;
    client.batch_execute(pieces::HARD_TO_TELL_APART).await.expect("rows");
    let columns = pieces::columns_of_those();
    let printed = MD5.text(&columns.iter().collect::<Vec<_>>());
    let (first, second) = (MD5.hash("t", 1), MD5.hash("t", 2));
    let counts = format!(
        "SELECT concat_ws(' ', count(*), count(DISTINCT {first}), count(DISTINCT {second})) FROM (SELECT DISTINCT {printed} AS t FROM r) r"
    );
    let counts = text(&client, &counts).await;
    let counts: Vec<u64> = counts.split(' ').map(|count| count.parse().expect("a number")).collect();
    assert!(counts[0] > 1_000 && counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}

/// Text is hashed in UTF-8 where databases keep it in different encodings, whatever they call it.
#[tokio::test]
async fn a_text_has_one_hash_in_every_encoding() {
    let server = start(17).await;
    let admin = connect(&server.url("postgres")).await;
    let sql = "CREATE DATABASE one ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    admin.batch_execute(sql).await.expect("a database");
    let texts = "CREATE TABLE texts (n int PRIMARY KEY, t text);
                 INSERT INTO texts VALUES (1, ''), (2, 'Käse ÄÖÜ ß é'), (3, repeat('ä', 5000))";
    let (one, other) = (connect(&server.url("one")).await, admin);
    for client in [&one, &other] {
        client.batch_execute(texts).await.expect("texts");
    }
    for hashing in [Hashing::Native, Hashing::Md5] {
        let form = RowForm { hashing, is_same_encoding: false };
        let (in_one, in_other) = (hashes(&one, form).await, hashes(&other, form).await);
        assert_eq!((in_one.len(), &in_one), (3, &in_other));
        let as_it_is = RowForm { is_same_encoding: true, ..form };
        assert_ne!(hashes(&one, as_it_is).await, hashes(&other, as_it_is).await, "they are kept alike");
    }
}

/// What a server of another byte order would do: the same function gives something else.
const HASHES_OTHERWISE: &str = "
SET allow_system_table_mods = on;
UPDATE pg_proc SET proname = 'hashtextextended_here' WHERE oid = 'pg_catalog.hashtextextended(text, bigint)'::regprocedure;
CREATE FUNCTION pg_catalog.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS 'SELECT ~ pg_catalog.hashtextextended_here($1, $2)'";

#[tokio::test]
async fn servers_that_hash_in_different_ways_are_compared_by_md5() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, v text, doc jsonb, at timestamptz);
             INSERT INTO item SELECT i, CASE WHEN i % 3 > 0 THEN repeat('ä', i % 100) END, jsonb_build_object('n', i), now()
               FROM generate_series(1, 20000) i;
             CREATE TABLE keyless (v int, w text);
             ALTER TABLE keyless REPLICA IDENTITY FULL;
             INSERT INTO keyless SELECT i % 5, 'w' FROM generate_series(1, 500) i",
        )
        .await
        .expect("schema");
    let replicator = stage.streaming().await;
    stage.caught_up().await;
    let target = intruder(&stage).await;
    target.batch_execute(HASHES_OTHERWISE).await.expect("another function");
    let value = "SELECT hashtextextended('pgsluice' COLLATE \"C\", 1)::text";
    assert_ne!(text(&source, value).await, text(&target, value).await, "it is another one");
    let clean = verify(&replicator, FAST).await;
    assert_eq!(
        (clean.outcome.as_str(), clean.rows_compared),
        ("clean", 20_500),
        "{clean:#?}\n{}",
        replicator.log()
    );

    let damage = "UPDATE item SET v = v || 'a' WHERE id = 7777; DELETE FROM item WHERE id = 3;
        DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE v = 3)";
    target.batch_execute(damage).await.expect("damage");
    let report = verify(&replicator, FAST).await;
    let mut found: Vec<_> = report
        .rows
        .iter()
        .map(|row| (row.table.as_str(), row.kind.as_str(), row.columns.join(",")))
        .collect();
    found.sort_unstable();
    let wanted = [
        ("public.item", "differs", "v".to_owned()),
        ("public.item", "missing", String::new()),
        ("public.keyless", "missing", String::new()),
    ];
    assert_eq!((found.as_slice(), report.differences), (wanted.as_slice(), 3), "{report:#?}");
    let keys: Vec<&str> = report.rows.iter().flat_map(|row| &row.key).map(|key| key.value.as_str()).collect();
    assert!(keys.contains(&"7777") && keys.contains(&"3"), "{keys:?}");
}

const PARTITIONED: &str = "
CREATE TABLE area (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE area_n PARTITION OF area FOR VALUES IN ('n');
CREATE TABLE area_s PARTITION OF area FOR VALUES IN ('s');
INSERT INTO area SELECT i, CASE WHEN i % 2 = 0 THEN 'n' ELSE 's' END FROM generate_series(1, 400) i;
CREATE TABLE beside (id int PRIMARY KEY);
INSERT INTO beside VALUES (1)";
/// Below the table that is migrated, and further below.
const ON_TARGET_ALONE: &str = "
CREATE TABLE area_w PARTITION OF area FOR VALUES IN ('w');
CREATE TABLE area_rest PARTITION OF area DEFAULT PARTITION BY RANGE (id);
CREATE TABLE \"Area \"\"e\" PARTITION OF area_rest FOR VALUES FROM (0) TO (100)";

#[tokio::test]
async fn rows_in_a_partition_that_the_target_alone_has_are_told() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(PARTITIONED).await.expect("schema");
    let replicator = stage.streaming().await;
    stage.caught_up().await;
    let target = intruder(&stage).await;
    target.batch_execute(ON_TARGET_ALONE).await.expect("partitions");
    let empty = verify(&replicator, FAST).await;
    assert_eq!(
        (empty.outcome.as_str(), empty.rows_compared),
        ("clean", 401),
        "{empty:#?}\n{}",
        replicator.log()
    );
    assert!(empty.left_out.is_empty(), "{empty:#?}");

    for (row, table, plain) in
        [("(1, 'w')", "area_w", "public.area_w"), ("(1, 'elsewhere')", "\"Area \"\"e\"", "public.Area \"e")]
    {
        target.batch_execute(&format!("INSERT INTO area VALUES {row}")).await.expect("a row");
        let report = verify(&replicator, FAST).await;
        let told = format!("{report:#?}\n{}", replicator.log());
        let [row] = report.rows.as_slice() else { panic!("{told}") };
        assert_eq!((report.outcome.as_str(), report.differences), ("differences", 1), "{told}");
        assert_eq!((row.table.as_str(), row.kind.as_str(), row.count), (plain, "extra", 1), "{told}");
        target.batch_execute(&format!("TRUNCATE {table}")).await.expect("no row");
    }
    let empty = verify(&replicator, FAST).await;
    assert_eq!((empty.outcome.as_str(), empty.rows_compared), ("clean", 401), "{empty:#?}");
}

/// A leaf of the source may be partitioned itself on the target: its rows are in its partitions, and these are nobody else's.
#[tokio::test]
async fn partitions_of_a_leaf_have_its_rows() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let leaf = "PARTITION OF area FOR VALUES IN ('n')";
    let schema =
        "CREATE TABLE area (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)";
    let rows = "INSERT INTO area SELECT i, 'n' FROM generate_series(1, 300) i";
    let source = stage.source_client().await;
    source.batch_execute(&format!("{schema}; CREATE TABLE area_n {leaf}; {rows}")).await.expect("schema");
    let target = stage.target_client().await;
    let parts = "CREATE TABLE low PARTITION OF area_n FOR VALUES FROM (1) TO (100);
                 CREATE TABLE high PARTITION OF area_n FOR VALUES FROM (100) TO (1000)";
    let spread = format!("{schema}; CREATE TABLE area_n {leaf} PARTITION BY RANGE (id); {parts}");
    target.batch_execute(&spread).await.expect("schema");
    let replicator = stage.streaming_with("schema.mode = \"existing\"\ncutover.reverse = false").await;
    stage.caught_up().await;
    let clean = verify(&replicator, FAST).await;
    let counted = (clean.outcome.as_str(), clean.rows_compared, clean.differences);
    assert_eq!(counted, ("clean", 300, 0), "{clean:#?}\n{}", replicator.log());
}
