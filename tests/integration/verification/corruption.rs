//! What somebody has done to the target behind our back is found: every kind of damage, in every kind of table, while the source is
//! written to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgsluice::control::dto::{RowDifferenceRecord, VerificationRecord, VerificationRequestRecord};
use tokio_postgres::Client;

use super::{FAST, size, verify};
use crate::harness::stage::{Pair, Stage};
use crate::harness::two_tables::intruder;

const SCHEMA: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE item (id bigint PRIMARY KEY, name text, note text, price numeric, doc jsonb, raw bytea, at timestamptz, mood mood,
                   tags text[], twice numeric GENERATED ALWAYS AS (price * 2) STORED);
INSERT INTO item SELECT i, 'item ' || i, CASE WHEN i % 3 = 0 THEN '' WHEN i % 3 = 1 THEN 'x' END, i * 1.10, jsonb_build_object('n', i),
                        decode(md5(i::text), 'hex'), '2024-01-01'::timestamptz + i * interval '1 minute', 'ok', ARRAY['a', i::text]
  FROM generate_series(1, 20000) i;
CREATE TABLE document (id uuid PRIMARY KEY, body text, kind int);
ALTER TABLE document ALTER body SET STORAGE EXTERNAL;
INSERT INTO document SELECT md5(i::text)::uuid, repeat(md5(i::text), 400), i FROM generate_series(1, 300) i;
CREATE TABLE pair (a text COLLATE \"C\", b int, v text, w text, PRIMARY KEY (a, b));
INSERT INTO pair SELECT 'k' || i % 10, i, 'v' || i, 'w' FROM generate_series(1, 1000) i;
CREATE TABLE keyless (v int, w json);
ALTER TABLE keyless REPLICA IDENTITY FULL;
INSERT INTO keyless SELECT i % 5, json_build_object('a', i % 2) FROM generate_series(1, 500) i;
CREATE TABLE area (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE area_n PARTITION OF area FOR VALUES IN ('n');
CREATE TABLE area_s PARTITION OF area FOR VALUES IN ('s');
INSERT INTO area SELECT i, CASE WHEN i % 2 = 0 THEN 'n' ELSE 's' END, 'v' FROM generate_series(1, 400) i;
CREATE TABLE empty_one (id int PRIMARY KEY);
CREATE TABLE wide_name (\"Odd \"\"key\" int PRIMARY KEY, \"Käse\" text);
INSERT INTO wide_name VALUES (1, 'a'), (2, E'x\\x01y'), (3, NULL);
CREATE TABLE t (t int PRIMARY KEY, k1 int, first text, rows text, part int);
INSERT INTO t VALUES (1, 1, 'a', 'b', 2), (2, 1, 'a', 'b', 2)";

/// What is done to the target, and what is to be found: table, kind, a part of the key, columns.
struct Damage {
    sql: &'static str,
    table: &'static str,
    kind: &'static str,
    key: &'static str,
    columns: &'static [&'static str],
}

const DAMAGE: &[Damage] = &[
    Damage {
        sql: "UPDATE document SET body = overlay(body placing chr(ascii(substr(body, 7000, 1)) # 1) from 7000) WHERE kind = 77",
        table: "public.document",
        kind: "differs",
        key: "28dd2c79-55ce-9264-56240b2ff0100bde",
        columns: &["body"],
    },
    Damage {
        sql: "DELETE FROM item WHERE id = 12345",
        table: "public.item",
        kind: "missing",
        key: "12345",
        columns: &[],
    },
    Damage {
        sql: "INSERT INTO item (id, name) VALUES (999999, 'stray')",
        table: "public.item",
        kind: "extra",
        key: "999999",
        columns: &[],
    },
    Damage {
        sql: "UPDATE item SET note = NULL WHERE id = 3000 AND note = ''",
        table: "public.item",
        kind: "differs",
        key: "3000",
        columns: &["note"],
    },
    Damage {
        sql: "UPDATE item SET price = 1.1 WHERE id = 1 AND price = 1.10",
        table: "public.item",
        kind: "differs",
        key: "1",
        columns: &["price", "twice"],
    },
    Damage {
        sql: "UPDATE item SET mood = 'sad' WHERE id = 2",
        table: "public.item",
        kind: "differs",
        key: "2",
        columns: &["mood"],
    },
    Damage {
        sql: "UPDATE pair SET v = w, w = v WHERE b = 5",
        table: "public.pair",
        kind: "differs",
        key: "k5",
        columns: &["v", "w"],
    },
    Damage {
        sql: "UPDATE pair p SET v = q.v FROM pair q WHERE p.b IN (17, 18) AND q.b IN (17, 18) AND p.b <> q.b",
        table: "public.pair",
        kind: "differs",
        key: "k7",
        columns: &["v"],
    },
    Damage { sql: "", table: "public.pair", kind: "differs", key: "k8", columns: &["v"] },
    Damage {
        sql: "DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE v = 3)",
        table: "public.keyless",
        kind: "missing",
        key: "(",
        columns: &[],
    },
    Damage {
        sql: "UPDATE area_n SET v = 'w' WHERE id = 2",
        table: "public.area_n",
        kind: "differs",
        key: "2",
        columns: &["v"],
    },
    Damage {
        sql: "INSERT INTO empty_one VALUES (1)",
        table: "public.empty_one",
        kind: "extra",
        key: "1",
        columns: &[],
    },
    Damage {
        sql: "UPDATE wide_name SET \"Käse\" = 'x' WHERE \"Odd \"\"key\" = 2",
        table: "public.wide_name",
        kind: "differs",
        key: "2",
        columns: &["Käse"],
    },
    Damage {
        sql: "UPDATE t SET first = 'c' WHERE t = 2",
        table: "public.t",
        kind: "differs",
        key: "2",
        columns: &["first"],
    },
];

impl Damage {
    fn is_found_in(&self, rows: &[RowDifferenceRecord]) -> bool {
        rows.iter().any(|row| {
            row.table == self.table
                && row.kind == self.kind
                && row.columns == self.columns
                && row.key.iter().any(|column| same_key(&column.value, self.key))
        })
    }
}

/// The place of a row without key is not known before; a uuid is known by its digits.
fn same_key(found: &str, wanted: &str) -> bool {
    let digits = |text: &str| text.replace('-', "");
    (wanted == "(" && found.starts_with('(')) || digits(found) == digits(wanted)
}

#[tokio::test]
async fn every_kind_of_damage_is_found_by_table_key_and_column() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming_with("verify.repair = true").await;
    stage.caught_up().await;
    let clean = verify(&replicator, FAST).await;
    assert_eq!((clean.outcome.as_str(), clean.differences), ("clean", 0), "{clean:#?}\n{}", replicator.log());
    assert_eq!(clean.rows_compared, 20_000 + 300 + 1_000 + 500 + 400 + 3 + 2, "{clean:#?}");
    assert_eq!(clean.tables_compared, clean.tables_total);

    let target = intruder(&stage).await;
    for damage in DAMAGE {
        target.batch_execute(damage.sql).await.unwrap_or_else(|error| panic!("{}: {error:?}", damage.sql));
    }
    let report = verify(&replicator, FAST).await;
    assert_eq!(report.outcome, "differences", "{report:#?}");
    for damage in DAMAGE {
        assert!(damage.is_found_in(&report.rows), "{} {:#?}", damage.sql, report.rows);
    }
    assert_eq!(report.differences, DAMAGE.len() as u64, "{:#?}", report.rows);
    println!("verify figures: {0} of {0} kinds of damage found by table, key and column", DAMAGE.len());

    // While the rows are written to: the stream's order keeps both apart.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(stage.source_url(), Arc::clone(&stop)));
    let repaired = verify(&replicator, VerificationRequestRecord { repair: true, ..FAST }).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.expect("a writer") > 10);
    assert_eq!(repaired.rows_repaired, DAMAGE.len() as u64 - 1, "{repaired:#?}\n{}", replicator.log());
    let [keyless] = repaired.not_repaired.as_slice() else { panic!("{repaired:#?}") };
    assert_eq!((keyless.table.as_str(), repaired.differences), ("public.keyless", 1), "{repaired:#?}");
    assert!(keyless.reason.contains("no key"), "{keyless:?}");
}

/// Transactions on the rows that are damaged.
async fn write_until(url: String, stop: Arc<AtomicBool>) -> u64 {
    let client = crate::harness::clusters::connect(&url).await;
    let mut transactions = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = "UPDATE item SET tags = tags || 't'::text WHERE id IN (1, 2, 3000) AND cardinality(tags) < 20;
                   UPDATE pair SET v = v || 'x' WHERE b = 17 AND length(v) < 90; UPDATE wide_name SET \"Käse\" = 'new'";
        client.batch_execute(sql).await.expect("changes");
        transactions += 1;
    }
    transactions
}

#[tokio::test]
async fn repair_is_off_unless_it_is_asked_for() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming().await;
    let asked = replicator.api().start_verification(VerificationRequestRecord { repair: true, ..FAST }).await;
    let refused = asked.expect_err("it is off").to_string();
    assert!(refused.contains("verify.repair = true"), "{refused}");
}

/// One column of one row among many, and nothing else, in memory that does not grow with the table; and vacuum is held up for no longer
/// than what is configured, as the servers see it.
#[tokio::test]
async fn one_column_of_one_row_among_many_is_found() {
    let rows = size("PGSLUICE_VERIFY_ROWS", 200_000);
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    fill(&source, rows).await;
    let bounds = format!("verify.max_snapshot_seconds = {HELD_SECONDS_MAX}\nverify.piece_bytes = \"64MiB\"");
    let replicator = stage.streaming_with(&bounds).await;
    stage.caught_up().await;
    let before = crate::harness::memory::peak_resident_kib(replicator.id());
    let target = intruder(&stage).await;
    let id = rows / 3 * 2;
    target.batch_execute(&format!("UPDATE many SET b = b + 1 WHERE id = {id}")).await.expect("damage");
    let watched = [stage.source_url(), stage.target_url()].map(|url| tokio::spawn(longest_held(url)));
    let report = verify(&replicator, FAST).await;
    only(&report, "public.many", &id.to_string(), &["b"]);
    assert_eq!(report.rows_compared, rows);
    let peak = crate::harness::memory::peak_resident_kib(replicator.id());
    assert!(peak <= 64 << 10, "{peak} KiB; before the verification {before}");
    stage.target_client().await.batch_execute("CREATE TABLE verified ()").await.expect("a sign");
    source.batch_execute("CREATE TABLE verified ()").await.expect("a sign");
    let mut held = Vec::new();
    for side in watched {
        held.push(side.await.expect("a watch"));
    }
    assert!(held.iter().all(|held| (0.0..=HELD_SECONDS_MAX).contains(held)), "{held:?}");
    assert!(held.iter().any(|held| *held > 0.0), "no snapshot was seen");
    println!(
        "verify figures: one column of one of {rows} rows found; at most {} MiB of memory ({} MiB before); {} snapshots, by the servers' account \
         held for at most {:.1} s on the source and {:.1} s on the target of {HELD_SECONDS_MAX} allowed",
        peak >> 10,
        before >> 10,
        report.snapshots,
        held[0],
        held[1],
    );
}

/// How long a pair of snapshots may be held there.
const HELD_SECONDS_MAX: f64 = 5.0;

/// The longest that a session of a verification was seen with a snapshot, in seconds, until there is a table `verified`.
async fn longest_held(url: String) -> f64 {
    let client = crate::harness::clusters::connect(&url).await;
    let mut longest = 0.0_f64;
    loop {
        let row = client
            .query_one(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)::float8), 0), to_regclass('verified') IS NOT NULL
                   FROM pg_stat_activity WHERE application_name = 'pgsluice verify' AND backend_xmin IS NOT NULL",
                &[],
            )
            .await
            .expect("activity");
        longest = longest.max(row.get(0));
        if row.get(1) {
            return longest;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn fill(source: &Client, rows: u64) {
    let sql = format!(
        "CREATE TABLE many (id int PRIMARY KEY, b int, filler char(84));
         INSERT INTO many SELECT i, i % 100, '' FROM generate_series(1, {rows}) i; ANALYZE many"
    );
    source.batch_execute(&sql).await.expect("rows");
}

fn only(report: &VerificationRecord, table: &str, key: &str, columns: &[&str]) {
    let [row] = report.rows.as_slice() else { panic!("{report:#?}") };
    assert_eq!((row.table.as_str(), row.kind.as_str()), (table, "differs"), "{row:#?}");
    assert_eq!((row.key[0].value.as_str(), report.differences), (key, 1), "{row:#?}");
    assert_eq!(row.columns, columns);
}
