//! Rows that are hard to find again and values that are hard to carry over unchanged, by the copy and by the stream.
//! What every kind of change does is in `whole_migration`; here is what goes wrong with the less usual ones.

use pgsluice::demo::compare::{ComparedSide, compare_rows};

use crate::harness::stage::{COPY_WAIT, Pair, Stage, text};
use crate::whole_migration::statements;

const SCHEMA: &str = include_str!("hard_to_find.sql");
const CHANGES: &str = include_str!("hard_to_find_changes.sql");

/// Traps 10, 11, 12, 16, 22, 31; INV-6: each change touches its one row.
pub(crate) async fn rows_that_are_hard_to_find_are_found(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let _replicator = stage.streaming().await;
    stage.assert_same_rows().await;

    for statement in statements(CHANGES) {
        source.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
    // Triggers have not acted a second time, and what the program itself does is not counted either.
    let counts = "SELECT count(*)::text FROM counts";
    assert_eq!(text(&stage.target_client().await, counts).await, text(&source, counts).await);
}

/// The same in one transaction and in one batch: what is pipelined is applied in order.
pub(crate) async fn changes_that_wait_for_the_target_are_applied_in_order(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let _replicator = stage.streaming().await;

    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE key_citext IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    for statement in statements(CHANGES) {
        source.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    target.batch_execute("COMMIT").await.expect("unlock");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

const VALUES: &str = "
    CREATE SCHEMA elsewhere;
    CREATE TYPE elsewhere.mood AS ENUM ('sad', 'ok');
    CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
    CREATE TABLE elsewhere.v (id int PRIMARY KEY, d date, t timestamp, z timestamptz, tz timetz, i interval, f4 real, f8 float8,
        b bytea, m money, n numeric, x xml, o mood[], r tstzrange, ds daterange[], j jsonb, c regclass);
    CREATE TABLE elsewhere.w (LIKE elsewhere.v);
    ALTER TABLE elsewhere.w REPLICA IDENTITY FULL";

fn values(id: i32) -> String {
    let row = format!(
        "({id}, '2024-02-03', '2024-02-03 04:05:06.789', '2024-07-08 09:10:11.123456+05:45', '10:11:12+03',
          '-1 year -2 mons +3 days -04:05:06.7', 0.1::real / 3, 1.0::float8 / 3, '\\x00ff27275c', 1234.56::numeric::money, 12345.678900,
          '<a>b</a><c/>', '{{ok,NULL}}', '[2024-01-01 00:00+00,2024-03-01 00:00+01)', '{{\"[2024-01-02,2024-02-01)\"}}', '{{\"k\": [1.10]}}', 'pg_class')"
    );
    format!("INSERT INTO elsewhere.v VALUES {row}; INSERT INTO elsewhere.w VALUES {row}")
}

/// Trap 15: in the copy and in the stream, and for finding rows by their values.
pub(crate) async fn odd_settings_of_servers_roles_and_databases_change_no_value(pair: Pair) {
    let stage = Stage::new(pair).await;
    for client in [stage.source_client().await, stage.target_client().await] {
        client
            .batch_execute(
                "ALTER DATABASE app SET DateStyle = 'SQL, DMY'; ALTER DATABASE app SET IntervalStyle = 'sql_standard';
                 ALTER ROLE postgres SET TimeZone = 'Asia/Kathmandu'; ALTER DATABASE app SET extra_float_digits = -10;
                 ALTER ROLE postgres IN DATABASE app SET bytea_output = 'escape'; ALTER DATABASE app SET xmloption = 'document';
                 ALTER DATABASE app SET standard_conforming_strings = off; ALTER ROLE postgres SET row_security = on;
                 ALTER DATABASE app SET statement_timeout = '3s'; ALTER DATABASE app SET default_transaction_isolation = 'serializable';
                 ALTER DATABASE app SET search_path = elsewhere, public, pg_catalog; ALTER DATABASE app SET client_encoding = 'LATIN1'",
            )
            .await
            .expect("settings");
    }
    let source = stage.source_client().await;
    let plain = "SET standard_conforming_strings = on; SET xmloption = 'content'; SET DateStyle = 'ISO, YMD'; SET search_path = elsewhere, pg_catalog";
    source.batch_execute(VALUES).await.expect("schema");
    source.batch_execute(plain).await.expect("settings of this session");
    source.batch_execute(&values(1)).await.expect("rows for the copy");
    let _replicator = stage.streaming().await;
    source.batch_execute(&values(2)).await.expect("rows for the stream");
    source
        .batch_execute("UPDATE v SET n = n + 1; UPDATE w SET n = n + 1; UPDATE w SET i = i * 2")
        .await
        .expect("updates");
    source.batch_execute(&values(3)).await.expect("rows to delete");
    source.batch_execute("DELETE FROM v WHERE id = 3; DELETE FROM w WHERE id = 3").await.expect("deletes");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 32: two databases of one cluster, both busy; only one of them is ours.
pub(crate) async fn the_neighbour_database_stays_where_it_is(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE DATABASE neighbour").await.expect("database");
    let neighbour = crate::harness::clusters::connect(&stage.source.url("neighbour")).await;
    let table =
        "CREATE TABLE shared_name (id int PRIMARY KEY, v text); CREATE TABLE left_out (id int PRIMARY KEY)";
    for client in [&source, &neighbour] {
        client.batch_execute(table).await.expect("the same table in both");
    }
    let _replicator = stage.streaming_with("source.tables.exclude = [\"public.left_out\"]").await;
    for i in 0..50 {
        let insert = format!("INSERT INTO shared_name VALUES ({i}, 'ours')");
        source.batch_execute(&insert).await.expect("ours");
        neighbour.batch_execute(&insert.replace("ours", "theirs")).await.expect("theirs");
        source.batch_execute(&format!("INSERT INTO left_out VALUES ({i})")).await.expect("not published");
    }
    stage.caught_up().await;
    let target = stage.target_client().await;
    assert_eq!(
        text(&target, "SELECT count(*) || ' ' || min(v) || ' ' || max(v) FROM shared_name").await,
        "50 ours ours"
    );
}

const EXISTING_ON_SOURCE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE items (id int PRIMARY KEY, name varchar(10), amount int, m mood, note text);
    CREATE TABLE bag (a int, b text);
    ALTER TABLE bag REPLICA IDENTITY FULL;
    INSERT INTO items SELECT i, 'n' || i, i, 'ok', 'x' FROM generate_series(1, 20) i;
    INSERT INTO bag SELECT i % 3, 'b' FROM generate_series(1, 9) i";

/// Other column order, wider types, columns and partitions of its own, generated ones too: `ctid`s repeat (trap 11).
const EXISTING_ON_TARGET: &str = "
    CREATE TYPE mood AS ENUM ('ok', 'sad', 'more');
    CREATE TABLE items (seen timestamptz NOT NULL DEFAULT now(), note text, m mood, amount bigint, name varchar(20), id int PRIMARY KEY,
        serial int GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (amount * 2) STORED, kind text DEFAULT 'migrated');
    CREATE TABLE bag (b text, own int DEFAULT 7, a int) PARTITION BY LIST (a);
    CREATE TABLE bag_0 PARTITION OF bag FOR VALUES IN (0);
    CREATE TABLE bag_1 PARTITION OF bag FOR VALUES IN (1);
    CREATE TABLE bag_rest PARTITION OF bag DEFAULT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_schema_may_have_another_shape_as_long_as_every_value_fits() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    source.batch_execute(EXISTING_ON_SOURCE).await.expect("source");
    target.batch_execute(EXISTING_ON_TARGET).await.expect("target");
    let _replicator = stage.streaming_with("schema.mode = \"existing\"").await;
    for statement in [
        "UPDATE items SET amount = amount + 1, m = 'sad' WHERE id < 10",
        "UPDATE items SET id = id + 100, note = NULL WHERE id > 15",
        "INSERT INTO items VALUES (50, 'ten chars!', 5, 'ok', '')",
        "DELETE FROM items WHERE id = 3",
        "UPDATE bag SET b = 'one of many' WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 1)",
        "UPDATE bag SET a = 1 WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 0)",
        "DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag GROUP BY a)",
    ] {
        source.batch_execute(statement).await.expect(statement);
    }
    stage.caught_up().await;
    for columns in [
        "(SELECT string_agg(concat_ws(',', id, name, amount, m, note), ';' ORDER BY id) FROM items)",
        "(SELECT string_agg(a || b, ';' ORDER BY a, b) FROM bag)",
    ] {
        let query = format!("SELECT {columns}::text");
        assert_eq!(text(&target, &query).await, text(&source, &query).await);
    }
    let own = "SELECT count(*)::text FROM items WHERE kind = 'migrated' AND twice = amount * 2 AND seen IS NOT NULL";
    assert_eq!(text(&target, own).await, "20");
    assert_eq!(text(&target, "SELECT count(DISTINCT own)::text FROM bag").await, "1");
}

/// A trigger that fires for replicated changes too would change rows a second time on the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_fire_for_replicated_changes_are_a_blocker() {
    for (what, remedy) in [
        ("ALTER TABLE t ENABLE ALWAYS TRIGGER touch", "ENABLE TRIGGER"),
        ("ALTER TABLE t ENABLE REPLICA TRIGGER touch", "DISABLE TRIGGER"),
        ("ALTER TABLE t ENABLE ALWAYS RULE nothing", "ENABLE RULE"),
    ] {
        let stage = Stage::new(Pair::of(14, 17)).await;
        let source = stage.source_client().await;
        source
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY, v text);
                 CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v || ''!''; RETURN NEW; END';
                 CREATE TRIGGER touch BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch();
                 CREATE RULE nothing AS ON DELETE TO t DO INSTEAD NOTHING",
            )
            .await
            .expect("schema");
        source.batch_execute(what).await.expect(what);
        let mut refused = stage.command("").start().expect("the program");
        let status = refused.wait_for_end(COPY_WAIT).await.expect("an end");
        let log = refused.log();
        assert_eq!(status.code(), Some(3), "{log}");
        assert!(log.contains("source.replica_triggers") && log.contains(remedy), "{log}");
    }
}

/// INV-6. What no set can do is done row by row, also with a COPY behind it: the server refuses that COPY then, and its answers
/// must not be taken for those to other statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_does_not_fit_before_a_copy_is_applied_row_by_row() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE); CREATE TABLE other (id int PRIMARY KEY);
             INSERT INTO t SELECT id, chr(96 + id) FROM generate_series(1, 5) id",
        )
        .await
        .expect("schema");
    let replicator = stage.streaming().await;
    for way in ["", "TRUNCATE other;"] {
        source
            .batch_execute(&format!(
                "BEGIN; UPDATE t SET name = 'none ' || id; UPDATE t SET name = chr(97 + id % 5); {way}
                 INSERT INTO t SELECT i, 'new ' || i FROM generate_series(10, 500) i;
                 INSERT INTO other SELECT generate_series(1, 500); COMMIT;"
            ))
            .await
            .expect("changes");
        stage.caught_up().await;
        stage.assert_same_rows().await;
        for back in [
            "DELETE FROM other; DELETE FROM t WHERE id > 5; UPDATE t SET name = id::text",
            "UPDATE t SET name = chr(96 + id)",
        ] {
            source.batch_execute(back).await.expect(back);
        }
        stage.caught_up().await;
    }
    let metric = async |name: &str| replicator.api().metric(name).await.expect("metrics").unwrap_or_default();
    assert_eq!(metric("pgsluice_apply_fallbacks_total{reason=\"unique_violation\"}").await, 2.0);
    assert_eq!(metric("pgsluice_reconnects_total").await, 0.0, "{}", replicator.log());
}

/// The judge itself sees what these tests are about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_judge_tells_rows_apart_that_are_equal_to_the_server() {
    let stage = Stage::new(Pair::of(17, 18)).await;
    for (client, row) in [
        (stage.source_client().await, "(1.0, '-0', 'a ')"),
        (stage.target_client().await, "(1.00, '0', 'a')"),
    ] {
        client.batch_execute("CREATE TABLE t (n numeric, f float8, v varchar)").await.expect("table");
        client.batch_execute(&format!("INSERT INTO t VALUES {row}")).await.expect("row");
    }
    let (source, target) = (ComparedSide::now(stage.source_url()), ComparedSide::now(stage.target_url()));
    let comparison = compare_rows(&source, &target).await.expect("comparison");
    assert_eq!((comparison.missing, comparison.extra), (1, 1));
}
