//! Values in binary form: asked for only where they mean the same on both sides, right in every kind of statement, and
//! given up by itself where a table turns up that does not allow it.

use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::harness::stage::{COPY_WAIT, Pair, Stage, text};
use crate::harness::wait::until;
use crate::whole_migration::statements;

const AUTO: &str = "source.binary = \"auto\"\n";
const PAIR: Pair = Pair::of(14, 17);

/// Fails unless the stream that runs now was asked for in this form.
fn assert_values(replicator: &Replicator, form: &str) {
    let log = replicator.log();
    let last = log.lines().rfind(|line| line.contains("start_lsn")).unwrap_or_default();
    assert!(last.contains(form), "not {form}: {last}\n{log}");
}

/// Types whose binary form carries OIDs of its cluster, or belongs to an extension.
const MAKE_PORTABLE: &str = "
    ALTER TABLE key_citext ALTER k TYPE text; ALTER TABLE key_caseless ALTER k TYPE text;
    ALTER TABLE key_moods ALTER k TYPE text[] USING k::text[]; ALTER TABLE key_pair ALTER k TYPE text USING k::text;
    ALTER TABLE full_mixed ALTER c TYPE text;
    ALTER TABLE full_odd ALTER p TYPE text USING p::text, ALTER ps TYPE text[] USING ps::text[],
          ALTER m TYPE text[] USING m::text[], ALTER k TYPE text";

/// Traps 10, 11, 16, 22, 31; INV-6: finding rows by values, in binary form.
pub(crate) async fn rows_that_are_hard_to_find_are_found_in_binary_too(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(include_str!("hard_to_find.sql")).await.expect("schema");
    source.batch_execute(MAKE_PORTABLE).await.expect("portable columns");
    let replicator = stage.streaming_with(AUTO).await;
    assert_values(&replicator, "binary");
    let (mut done, mut other_types) = (0, 0);
    for statement in statements(include_str!("hard_to_find_changes.sql")) {
        match source.batch_execute(statement).await {
            Ok(()) => done += 1,
            // Written for the type that the column had.
            Err(error) if is_about_types(&error) => other_types += 1,
            Err(error) => panic!("{statement}: {error:?}"),
        }
    }
    println!("{done} statements, {other_types} for other types");
    assert!(done > 5 * other_types, "{done} {other_types}");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert_values(&replicator, "binary");
}

fn is_about_types(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::UNDEFINED_FUNCTION,
        SqlState::DATATYPE_MISMATCH,
        SqlState::WRONG_OBJECT_TYPE,
        SqlState::CANNOT_COERCE,
        SqlState::SYNTAX_ERROR,
        SqlState::UNDEFINED_COLUMN,
    ];
    error.code().is_some_and(|code| codes.contains(code))
}

const WIDE: &str = "
    CREATE SCHEMA elsewhere;
    CREATE TYPE elsewhere.mood AS ENUM ('sad', 'ok', 'großartig');
    CREATE DOMAIN elsewhere.small AS int CHECK (VALUE < 1000);
    CREATE DOMAIN elsewhere.smalls AS elsewhere.small;
    CREATE DOMAIN elsewhere.list AS int[];
    CREATE TYPE elsewhere.span AS RANGE (subtype = float8);
    CREATE TABLE wide (id int PRIMARY KEY, b bool, s smallint, l bigint, f4 real, f8 float8, n numeric, n2 numeric(12,3), m money, t text,
        v varchar(9), c char(7), q \"char\", na name, y bytea, d date, ti time, tz timetz, ts timestamp(3), tsz timestamptz, i interval,
        u uuid, j json, jb jsonb, jp jsonpath, x xml, bi bit(5), vb varbit, net inet, ci cidr, ma macaddr, ma8 macaddr8, o oid,
        lsn pg_lsn, sn pg_snapshot, tv tsvector, p point, li line, ls lseg, bo box, pa path, po polygon, ce circle,
        mood elsewhere.mood, dom elsewhere.smalls, list elsewhere.list, sp elsewhere.span, r int8range, mr tstzmultirange,
        a int[], a2 text[], an numeric[], ar numrange[], ad date[], av varchar(4)[], ac char(3)[],
        xi xid, x8 xid8, td tid, rc refcursor, tx txid_snapshot, vc varchar, bp bpchar);
    CREATE TABLE wide_full (LIKE wide);
    ALTER TABLE wide_full REPLICA IDENTITY FULL;
    CREATE TABLE small_keys (d elsewhere.smalls, mood elsewhere.mood, r int4range, v text, PRIMARY KEY (d, mood, r))";

const WIDE_ROWS: [&str; 3] = [
    "true, -32768, 9223372036854775807, 'NaN', '-0', 'NaN', 123456789.125, '-12.34', E'tab\\t\\\\ quote\" ''', 'v''', 'ab', 'z', 'name', '\\x00ff27',
     'infinity', '24:00', '10:11:12.5+05:45', '4713-01-01 00:00 BC', '-infinity', '-1 year 2 mons -3 days 04:05:06.7', '00000000-0000-0000-0000-00000000000f',
     '{\"a\":  1, \"a\": 2}', '{\"b\": [1.10, null]}', '$.a[*] ? (@ > 1)', '<a>ä</a><c/>', B'10101', B'1', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03',
     '08:00:2b:01:02:03:04:05', 4294967295, '16/B374D848', '10:20:10,14,15', 'a:1A fat:2B,4C cat', '(1,-0)', '{1,2,3}', '[(0,0),(1,1)]',
     '(2,2),(0,0)', '[(0,0),(1,NaN)]', '((0,0),(1,1),(2,0))', '<(1,2),3>', 'großartig', 7, '{1,NULL,3}', '[1.5,2.5)', '[,5)', '{[2024-01-01,2024-02-01),[2025-01-01,)}',
     '[5:6]={1,2}', '{NULL,\"\",\"a,b\"}', '{NaN,-1.10}', '{empty,\"(,1.5]\"}', '{infinity,0044-03-15 BC}', '{ab,NULL}', '{a}',
     '4294967295', '18446744073709551615', '(4294967295,65535)', 'portal', '10:20:10,14,15', 'v ', 'b '",
    "false, 0, 0, '1e-40', '1e308', 0.00001, 0, 0, '', '', '', '', '', '', '2024-02-29', '00:00', '00:00+00', '2024-02-29 12:00:00.123', 'infinity', '0',
     'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', '{}', '$', '', B'00000', B'', '::1', '::/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', 0, '0/0', '1:1:', '',
     '(0,0)', '{1,0,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>', 'sad', 0, '{}', 'empty', 'empty', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '0', '0', '(0,0)', '', '1:1:', '', ''",
    "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
];

/// Traps 15, 16, 31: every built-in type that has a binary form, inserted, changed, found by its values, deleted.
pub(crate) async fn every_portable_type_arrives_in_binary(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(WIDE).await.expect("schema");
    wide_rows(&source, 0).await;
    let replicator = stage.streaming_with(AUTO).await;
    assert_values(&replicator, "binary");
    wide_rows(&source, 100).await;
    for table in ["wide", "wide_full"] {
        for change in [
            "UPDATE TABLE SET n = n + 1, t = t || '!', a = a || 9, dom = dom + 1",
            "UPDATE TABLE SET mood = 'ok', l = NULL, tsz = '2024-07-08 09:10:11.123456+05:45' WHERE id < 100",
            "UPDATE TABLE SET id = id + 1000 WHERE id % 2 = 0",
            "DELETE FROM TABLE WHERE id IN (1, 101, 1100)",
        ] {
            source.batch_execute(&change.replace("TABLE", table)).await.expect(change);
        }
    }
    for change in [
        "INSERT INTO small_keys SELECT g, 'ok', int4range(g, g + 2), 'v' FROM generate_series(1, 20) g",
        "UPDATE small_keys SET v = 'w' WHERE d > 5",
        "UPDATE small_keys SET mood = 'sad', r = '[1,2)' WHERE d < 4",
        "DELETE FROM small_keys WHERE d IN (1, 7)",
    ] {
        source.batch_execute(change).await.expect(change);
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert_values(&replicator, "binary");
}

async fn wide_rows(source: &Client, from: usize) {
    source
        .batch_execute("SET search_path = public, elsewhere; SET lc_monetary = 'C'")
        .await
        .expect("settings");
    for (number, row) in WIDE_ROWS.iter().enumerate() {
        for table in ["wide", "wide_full"] {
            let sql = format!("INSERT INTO {table} VALUES ({}, {row})", from + number);
            source.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
}

const SETS: &str = "source.binary = \"auto\"\napply.coalesce = \"always\"\n";

/// What two sides have alike.
const LISTS: &str = r#"
    CREATE SCHEMA "The ""odd"" one";
    CREATE DOMAIN given AS int NOT NULL;
    CREATE DOMAIN names AS text[] CHECK (VALUE IS NOT NULL AND cardinality(VALUE) < 9);
    CREATE DOMAIN paths AS text[];"#;

const LISTS_OF_SOURCE: &str = r#"
    CREATE TABLE "The ""odd"" one"."T.v" (gone text, r int[] NOT NULL, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v numeric(6,2)[],
        "T ""x" names, d given, width int GENERATED ALWAYS AS (cardinality(r)) STORED, b text, c1 varchar(3)[], stamps timestamptz(3)[]);
    ALTER TABLE "The ""odd"" one"."T.v" DROP COLUMN gone;
    CREATE TABLE by_list (k int[], path paths, part int, v text[], d int, PRIMARY KEY (k, path, part)) PARTITION BY LIST (part);
    CREATE TABLE by_list_1 PARTITION OF by_list FOR VALUES IN (1);
    CREATE TABLE by_list_2 PARTITION OF by_list FOR VALUES IN (2);"#;

/// The columns stand in another order and have others beside them.
const LISTS_OF_TARGET: &str = r#"
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE "The ""odd"" one"."T.v" (d given, own pair, c1 varchar(3)[], stamps timestamptz(3)[], v numeric(6,2)[], gone pair, since date DEFAULT now(),
        width int GENERATED ALWAYS AS (cardinality(r)) STORED, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text, "T ""x" names, gone_too int, r int[] NOT NULL);
    ALTER TABLE "The ""odd"" one"."T.v" DROP COLUMN gone, DROP COLUMN gone_too;
    CREATE TABLE by_list (path paths, gone names, part int, d int, k int[], v text[], PRIMARY KEY (k, path, part)) PARTITION BY LIST (part);
    ALTER TABLE by_list DROP COLUMN gone;
    CREATE TABLE by_list_1 PARTITION OF by_list FOR VALUES IN (1);
    CREATE TABLE by_list_2 PARTITION OF by_list FOR VALUES IN (2);"#;

const LISTS_CHANGES: [&str; 9] = [
    r#"INSERT INTO "The ""odd"" one"."T.v" (r, v, "T ""x", d, b, c1, stamps) SELECT ARRAY[g, NULL], ARRAY[g / 3.0, 'NaN'], ARRAY['ä', NULL, ''], g, 'b', '{}', NULL
       FROM generate_series(1, 20) g"#,
    r#"INSERT INTO "The ""odd"" one"."T.v" (r, v, "T ""x", d, b, c1, stamps) VALUES ('[3:4][0:0]={{1},{2}}', '{}', '{NULL}', 0, NULL, '{abc,NULL}', '{infinity,2024-01-01}')"#,
    r#"UPDATE "The ""odd"" one"."T.v" SET r = '{}', v = NULL, "T ""x" = '{"a,b","\"",NULL}' WHERE id % 3 = 0"#,
    r#"UPDATE "The ""odd"" one"."T.v" SET c1 = ARRAY['abc', b], r = r || id, d = d + 1, b = repeat(md5(id::text), 300) WHERE id % 2 = 0"#,
    r#"DELETE FROM "The ""odd"" one"."T.v" WHERE id < 4; UPDATE "The ""odd"" one"."T.v" SET stamps = '{"2024-07-08 09:10:11.123+02"}'"#,
    "INSERT INTO by_list SELECT ARRAY[g, g % 3], ARRAY['p', g::text], 1 + g % 2, ARRAY['x', NULL], g FROM generate_series(1, 30) g",
    "INSERT INTO by_list VALUES ('{}', '{}', 2, NULL, 5)",
    "UPDATE by_list SET v = v || ARRAY['NULL', E'\\\\\"'], d = d + 1 WHERE k[1] > 7",
    "DELETE FROM by_list WHERE part = 2 AND k[2] = 1",
];

/// INV-6, trap 22. An array type has no array of its own: rows of the table carry its values, whatever else is in them.
pub(crate) async fn arrays_are_written_in_sets_like_everything_else(pair: Pair) {
    let stage = Stage::new(pair).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    source.batch_execute(&format!("{LISTS}{LISTS_OF_SOURCE}")).await.expect("source");
    target.batch_execute(&format!("{LISTS}{LISTS_OF_TARGET}")).await.expect("target");
    let replicator = stage.streaming_with(&format!("schema.mode = \"existing\"\n{SETS}")).await;
    assert_values(&replicator, "binary");
    for change in LISTS_CHANGES {
        source.batch_execute(change).await.expect(change);
        stage.caught_up().await;
        for rows in [
            r#"SELECT string_agg(concat_ws('|', id, r, v, "T ""x", d, width, b, c1, stamps), ';' ORDER BY id) FROM "The ""odd"" one"."T.v""#,
            "SELECT coalesce(string_agg(concat_ws('|', tableoid::regclass, k, path, part, v, d), ';' ORDER BY k), '') FROM by_list",
        ] {
            assert_eq!(text(&target, rows).await, text(&source, rows).await, "{change}");
        }
    }
    for (way, expected) in
        [("written_rows_total{way=\"row\"}", 0.0), ("written_rows_total{way=\"copy\"}", 50.0)]
    {
        assert_eq!(applied(&replicator, way).await, expected, "{way}");
    }
    assert!(applied(&replicator, "written_rows_total{way=\"set\"}").await > 50.0);
    assert_values(&replicator, "binary");
}

async fn applied(replicator: &Replicator, metric: &str) -> f64 {
    let value = replicator.api().metric(&format!("pgsluice_apply_{metric}")).await;
    value.expect("a metric").unwrap_or_default()
}

/// The server holds only types of its own against those that a row says it has: four bytes are an integer or a float.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_that_is_altered_under_the_stream_is_never_read_as_one_of_another_type() {
    for (altered, reason) in
        [("small_floats", "row_count"), ("small_float[]", "row_count"), ("int8[]", "refused")]
    {
        let stage = Stage::new(PAIR).await;
        let (source, target) = (stage.source_client().await, stage.target_client().await);
        let schema = "CREATE TABLE t (id int PRIMARY KEY, v int[]); INSERT INTO t SELECT g, ARRAY[g, -g] FROM generate_series(1, 10) g";
        source.batch_execute(schema).await.expect("schema");
        let replicator = stage.streaming_with(SETS).await;
        source.batch_execute("UPDATE t SET v = v || 1 WHERE id < 5").await.expect("rows");
        stage.caught_up().await;
        assert_eq!(applied(&replicator, "written_rows_total{way=\"row\"}").await, 0.0);
        let types = "CREATE DOMAIN small_float AS float4; CREATE DOMAIN small_floats AS small_float[]";
        target.batch_execute(types).await.expect("types");
        let alter = format!("ALTER TABLE t ALTER v TYPE {altered} USING v::float4[]::{altered}");
        target.batch_execute(&alter).await.expect("target");
        source.batch_execute("UPDATE t SET v = v || 2 WHERE id > 3").await.expect("rows");
        stage.caught_up().await;
        let rows = "SELECT string_agg(concat_ws(',', id, v), ';' ORDER BY id) FROM t";
        assert_eq!(text(&target, rows).await, text(&source, rows).await, "{altered}");
        assert_eq!(
            applied(&replicator, &format!("fallbacks_total{{reason=\"{reason}\"}}")).await,
            1.0,
            "{altered}"
        );
    }
}

/// Trap 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_column_that_is_not_portable_or_not_of_the_same_type_makes_it_all_text() {
    for (on_source, on_target) in [
        ("CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, v pair)", None),
        ("CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (id int PRIMARY KEY, v mood[])", None),
        ("CREATE TABLE t (id int PRIMARY KEY, v regclass)", None),
        ("CREATE TABLE t (id int PRIMARY KEY, v tsquery); INSERT INTO t VALUES (0, ''), (2, 'a & !b')", None),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v int2vector); INSERT INTO t VALUES (0, ''), (2, '7 -8')",
            None,
        ),
        ("CREATE TABLE t (id int PRIMARY KEY, v oidvector); INSERT INTO t VALUES (0, ''), (2, '7 8')", None),
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", Some("CREATE TABLE t (id int PRIMARY KEY, v bigint)")),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v varchar(5))",
            Some("CREATE TABLE t (id int PRIMARY KEY, v text)"),
        ),
    ] {
        let stage = Stage::new(PAIR).await;
        let source = stage.source_client().await;
        source.batch_execute(on_source).await.expect("source");
        let mut more = AUTO.to_owned();
        if let Some(on_target) = on_target {
            stage.target_client().await.batch_execute(on_target).await.expect("target");
            more.push_str("schema.mode = \"existing\"\n");
        }
        let replicator = stage.streaming_with(&more).await;
        assert_values(&replicator, "text");
        source.batch_execute("INSERT INTO t VALUES (1, NULL)").await.expect("row");
        stage.caught_up().await;
        let rows = "SELECT string_agg(concat_ws(',', id, v), ';' ORDER BY id) FROM t";
        assert_eq!(text(&stage.target_client().await, rows).await, text(&source, rows).await);
    }
}

/// A shape that the stream announces later decides anew, before anything of it is applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_turns_up_later_and_is_not_portable_makes_the_stream_begin_again_as_text() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TYPE pair AS (a int, b text)";
    source.batch_execute(schema).await.expect("schema");
    let replicator = stage.streaming_with(AUTO).await;
    assert_values(&replicator, "binary");
    source
        .batch_execute("INSERT INTO t SELECT g, 'binary' FROM generate_series(1, 100) g")
        .await
        .expect("rows");
    let change = "ALTER TABLE t ADD COLUMN p pair";
    stage.target_client().await.batch_execute(change).await.expect("target");
    source
        .batch_execute(&format!("BEGIN; INSERT INTO t VALUES (101, 'before'); {change}; INSERT INTO t VALUES (102, 'after', ROW(1, 'x')); COMMIT"))
        .await
        .expect("source");
    source.batch_execute("UPDATE t SET p = ROW(id, v) WHERE id % 2 = 0").await.expect("rows");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert_values(&replicator, "text");
    assert_eq!(replicator.log().matches("values are sent as text from here on").count(), 1);
}

/// The target is widened first, as one does before the source: what it takes then is no longer what the source sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_column_that_is_altered_under_the_stream_takes_every_value_all_the_same() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int, w bigint); INSERT INTO t SELECT g, g, g FROM generate_series(1, 10) g";
    source.batch_execute(schema).await.expect("schema");
    let replicator = stage.streaming_with(AUTO).await;
    assert_values(&replicator, "binary");
    source.batch_execute("INSERT INTO t VALUES (11, 11, 11)").await.expect("row");
    stage.caught_up().await;
    let widen = "ALTER TABLE t ALTER v TYPE bigint, ALTER w TYPE numeric, ALTER id TYPE bigint";
    stage.target_client().await.batch_execute(widen).await.expect("target");
    for change in [
        "INSERT INTO t VALUES (12, 12, -1)",
        "UPDATE t SET w = 5 WHERE v = 2",
        "UPDATE t SET v = -7 WHERE id = 3",
        "DELETE FROM t WHERE id = 4",
    ] {
        source.batch_execute(change).await.expect(change);
    }
    stage.caught_up().await;
    let rows = "SELECT string_agg(concat_ws(',', id, v, w), ';' ORDER BY id) FROM t";
    assert_eq!(text(&stage.target_client().await, rows).await, text(&source, rows).await);
    source.batch_execute(widen).await.expect("source");
    source.batch_execute("UPDATE t SET v = 5000000000, w = 1e30 WHERE id = 5").await.expect("row");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Both options together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_in_parts_may_carry_binary_values() {
    let stage = Stage::with_options(
        PAIR,
        crate::harness::clusters::options().setting("logical_decoding_work_mem", "64kB"),
        crate::harness::clusters::options(),
    )
    .await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE TABLE t (id int PRIMARY KEY, n numeric, v text)").await.expect("schema");
    let mut replicator = stage.streaming_with(&format!("{AUTO}source.stream_in_progress = \"on\"\n")).await;
    assert_values(&replicator, "binary");
    let rows = "INSERT INTO t SELECT g, g / 7.0, repeat('x', 200) FROM generate_series(1, 5000) g";
    source
        .batch_execute(&format!("BEGIN; {rows}; SAVEPOINT a; UPDATE t SET n = NULL; ROLLBACK TO a; DELETE FROM t WHERE id % 3 = 0; COMMIT"))
        .await
        .expect("rows");
    let streamed = "SELECT (coalesce(sum(stream_txns), 0) > 0)::text FROM pg_stat_replication_slots";
    until("a transaction streamed in parts", || async { text(&source, streamed).await == "true" }).await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
}
