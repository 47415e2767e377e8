//! Schema and rows arrive as they were at the slot's consistent point, whatever their types, and a copy that fails
//! is started over without a duplicate.

use std::sync::Arc;

use pgsluice::config::TableFilter;
use pgsluice::demo::compare::{ComparedSide, Comparison, compare_selected};
use pgsluice::migration::{StatusBoard, TableState};
use pgsluice::model::{Side, TableName};
use pgsluice::runtime::Shutdown;
use pgsluice::snapshot::{SnapshotContext, SnapshotError, SnapshotSummary, copy_all, read_records, reset};
use pgsluice::source::SourceTable;
use pgsluice::source::catalog::read_tables;
use pgsluice::source::slot::{ExportedSlot, create_exporting};
use pgsluice::target::schema::{SchemaError, build_rest, copy_pre_data, read_post_data};
use pgsluice::telemetry::Metrics;

use crate::harness::sides::{DATABASE, Sides};
use crate::harness::stage::Pair;
use crate::harness::wait::until;

/// Types and shapes that trip copies (traps 15, 16, 22, 31).
const SCHEMA: &str = r#"
SET search_path = public;
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, i2 int2, i4 int4, f4 float4, f8 float8, n numeric,
    t text, v varchar(20), c char(5), b bool, u uuid, ts timestamp, tz timestamptz, d date, iv interval, j json, jb jsonb,
    bytes bytea, "char" "char", nm name, o oid, m money, ip inet, bits bit varying(9), arr int[][], txts text[], r int4range,
    mr int4multirange, x xml, pt point, ts_v tsvector, m_enum mood, dom positive, reg regclass, twice int8 GENERATED ALWAYS AS (i4 * 2) STORED);
INSERT INTO plain (i2, i4, f4, f8, n, t, v, c, b, u, ts, tz, d, iv, j, jb, bytes, "char", nm, o, m, ip, bits, arr, txts, r, mr, x,
                   pt, ts_v, m_enum, dom, reg)
SELECT i, i, 'NaN', 0.1::float8 + i, 1.50 * i, E'multi\nline\t\\N ' || i, 'ü€😀', 'ab', i % 2 = 0, md5(i::text)::uuid, 'infinity',
       '0044-03-15 12:00:00+00 BC', '-infinity', '-1 year 2 days 03:04:05.6', '{"a" : 1}', '{"b": [1, null]}', '\x00ff', 'x', 'n',
       4000000000, '12.34', '10.0.0.0/8', B'101', '{{1,2},{3,NULL}}', ARRAY['', NULL, '"'], '[1,5)', '{[1,2),[5,6)}', '<a>1</a>',
       '(1,2)', 'fat cat', 'happy', 7, 'pg_catalog.pg_class'
  FROM generate_series(1, 5000) i;
INSERT INTO plain (t) VALUES (''), (NULL);
CREATE TABLE by_text (id int PRIMARY KEY, moods mood[], p pair, ps pair[], ci citext, s span);
INSERT INTO by_text SELECT i, ARRAY['sad', 'happy']::mood[], ROW(i, 'x"y')::pair, ARRAY[ROW(1, NULL)::pair], 'MiXed', '[0.5,1.5)'
  FROM generate_series(1, 1000) i;
CREATE TABLE "odd ""name'
line" ("weird ; col" int PRIMARY KEY, "select" text);
INSERT INTO "odd ""name'
line" SELECT i, repeat('long', 5000) || i FROM generate_series(1, 300) i;
CREATE SCHEMA "Other"; CREATE TABLE "Other".plain (id int PRIMARY KEY); INSERT INTO "Other".plain VALUES (1);
CREATE TABLE nothing (); ALTER TABLE nothing REPLICA IDENTITY FULL; INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE parent (id int PRIMARY KEY, name text); INSERT INTO parent VALUES (1, 'parent');
CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent); INSERT INTO child VALUES (2, 'child', 3);
CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2024-07-01') TO ('2025-01-01') PARTITION BY LIST (id);
CREATE TABLE events_2_rest PARTITION OF events_2 DEFAULT;
INSERT INTO events SELECT i, '2024-01-01'::date + i % 360 FROM generate_series(1, 2000) i;
CREATE TABLE dropped_column (gone int, id int PRIMARY KEY, kept text); INSERT INTO dropped_column VALUES (1, 2, 'kept');
ALTER TABLE dropped_column DROP COLUMN gone;
CREATE TABLE lines (id int PRIMARY KEY, plain_id bigint REFERENCES plain); INSERT INTO lines VALUES (1, 5);
CREATE INDEX ON plain (i4); CREATE VIEW totals AS SELECT count(*) FROM plain; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM plain;
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired on the target'; END $$;
CREATE TRIGGER never BEFORE INSERT ON lines FOR EACH ROW WHEN (new.id = 1) EXECUTE FUNCTION never();
"#;

struct Copy<'a> {
    sides: &'a Sides,
    tables: Vec<SourceTable>,
    board: StatusBoard,
    metrics: Arc<Metrics>,
}

impl<'a> Copy<'a> {
    async fn of(sides: &'a Sides) -> Self {
        let source = sides.session(Side::Source).await;
        let tables = read_tables(&source, &TableFilter::default()).await.expect("the catalog");
        let board = StatusBoard::new(jiff::Timestamp::now());
        Self { sides, tables, board, metrics: Metrics::new().expect("metrics") }
    }

    async fn slot(&self) -> ExportedSlot {
        create_exporting(&self.sides.config().source.connection, "pgsluice", |_| {}, &Shutdown::new())
            .await
            .expect("a slot")
    }

    async fn rows(&self, slot: &ExportedSlot) -> Result<SnapshotSummary, SnapshotError> {
        let config = self.sides.config();
        copy_all(SnapshotContext {
            source: &config.source.connection,
            target: &config.target.connection,
            snapshot_name: &slot.snapshot_name,
            slot: "pgsluice",
            tables: &self.tables,
            config: &config.snapshot,
            board: &self.board,
            metrics: &self.metrics,
            shutdown: &Shutdown::new(),
        })
        .await
    }

    async fn pre_data(&self, extra_sql: &str) -> Result<(), SchemaError> {
        let config = self.sides.config();
        let (source, target) =
            (self.sides.session(Side::Source).await, self.sides.session(Side::Target).await);
        copy_pre_data(&config, &source, &target, extra_sql, &Shutdown::new()).await.map(|_| ())
    }

    async fn post_data(&self, extra_sql: &str) -> Result<(), SchemaError> {
        let config = self.sides.config();
        let (source, target) =
            (self.sides.session(Side::Source).await, self.sides.session(Side::Target).await);
        let mut division = read_post_data(&config, &source, &target, &Shutdown::new()).await?;
        division.retain_tables(|_| false);
        build_rest(&config, &division, extra_sql, &Shutdown::new()).await.map(|_| ())
    }

    /// Compares the target with what the slot's snapshot shows of the source.
    async fn compare(&self, slot: &ExportedSlot) -> Comparison {
        compare_selected(
            &ComparedSide::at_snapshot(self.sides.source.url(DATABASE), slot.snapshot_name.as_str()),
            &ComparedSide::now(self.sides.target.url(DATABASE)),
            |_| true,
        )
        .await
        .expect("comparison")
    }
}

async fn execute(sides: &Sides, side: Side, sql: &str) {
    sides.superuser(side).await.batch_execute(sql).await.expect(sql);
}

async fn count(sides: &Sides, side: Side, sql: &str) -> i64 {
    sides.superuser(side).await.query_one(sql, &[]).await.expect(sql).get(0)
}

pub(crate) async fn every_row_arrives_as_it_was_at_the_consistent_point(pair: Pair) {
    let mut sides = Sides::start(pair.source, pair.target).await;
    sides.set("SNAPSHOT__JOBS", "3");
    sides.set("SNAPSHOT__CHUNK_BYTES", "1MiB");
    execute(&sides, Side::Source, SCHEMA).await;
    let copy = Copy::of(&sides).await;
    copy.pre_data("CREATE TABLE public.recorded (phase text)").await.expect("pre-data");
    execute(&sides, Side::Target, "DROP TABLE public.recorded").await;
    let slot = copy.slot().await;
    // Committed after the consistent point: the stream's, not the copy's (trap 4).
    execute(
        &sides,
        Side::Source,
        "INSERT INTO public.plain (t) VALUES ('later'); DELETE FROM public.by_text WHERE id = 1",
    )
    .await;
    let summary = copy.rows(&slot).await.expect("the copy");
    copy.post_data("").await.expect("post-data");
    let comparison = copy.compare(&slot).await;
    assert!(comparison.rows_are_identical(), "{comparison:?}");
    // The judge sees the inherited child's row in its parent too.
    assert_eq!(summary.rows + 1, comparison.rows_compared);
    let status = copy.board.read();
    assert!(status.tables.values().all(|table| table.state == TableState::Joined), "{:?}", status.tables);
    assert_eq!(status.tables.values().map(|table| table.rows_copied).sum::<u64>(), summary.rows);
    let target_session = sides.session(Side::Target).await;
    let records = read_records(&target_session).await.expect("records");
    assert_eq!(records.values().map(|table| table.rows_copied).sum::<u64>(), summary.rows);
    assert!(records.values().all(|table| table.state == TableState::Joined));
    // What post-data brought, and that views can be read.
    assert_eq!(
        count(
            &sides,
            Side::Target,
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
        )
        .await,
        1
    );
    assert_eq!(count(&sides, Side::Target, "SELECT count FROM public.m").await, 5002);
    assert_eq!(count(&sides, Side::Target, "SELECT count(*) FROM pg_replication_slots").await, 0);
}

/// Trap 13.
#[tokio::test]
async fn a_copy_that_fails_is_emptied_and_begun_again_without_duplicates() {
    let mut sides = Sides::start(14, 17).await;
    sides.set("SNAPSHOT__JOBS", "2");
    execute(
        &sides,
        Side::Source,
        "CREATE TABLE public.good (id int PRIMARY KEY); INSERT INTO public.good SELECT generate_series(1, 1000);
         CREATE TABLE public.bad (id int PRIMARY KEY); INSERT INTO public.bad SELECT generate_series(1, 100)",
    )
    .await;
    let copy = Copy::of(&sides).await;
    copy.pre_data("").await.expect("pre-data");
    execute(
        &sides,
        Side::Target,
        "ALTER TABLE public.bad ADD CHECK (id < 50);
         CREATE TABLE public.bystander (id int); INSERT INTO public.bystander VALUES (1)",
    )
    .await;
    let slot = copy.slot().await;
    let error = copy.rows(&slot).await.expect_err("the check fails");
    assert!(
        matches!(&error, SnapshotError::Target { table: Some(table), .. } if table.name == "bad"),
        "{error}"
    );
    assert!(!error.to_string().contains("(50)"), "no values in errors (INV-10): {error}");
    execute(&sides, Side::Target, "ALTER TABLE public.bad DROP CONSTRAINT bad_id_check").await;
    // Without a reset the rows that were committed are in the way, and are not copied twice.
    let error = copy.rows(&slot).await.expect_err("registered already, or not empty");
    assert!(!matches!(error, SnapshotError::WorkerLost), "{error}");
    let mut target = sides.session(Side::Target).await;
    let emptied = reset(&mut target).await.expect("reset");
    assert_eq!(emptied, [TableName::new("public", "bad"), TableName::new("public", "good")]);
    assert_eq!(count(&sides, Side::Target, "SELECT count(*) FROM public.good").await, 0);
    assert_eq!(count(&sides, Side::Target, "SELECT count(*) FROM public.bystander").await, 1);
    assert_eq!(reset(&mut target).await.expect("nothing to reset"), []);
    copy.rows(&slot).await.expect("the second copy");
    let comparison = copy.compare(&slot).await;
    assert!(comparison.rows_are_identical(), "{comparison:?}");
}

#[tokio::test]
async fn rows_on_the_target_are_never_mixed_with_the_copy() {
    let sides = Sides::start(14, 15).await;
    execute(
        &sides,
        Side::Source,
        "CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)",
    )
    .await;
    let copy = Copy::of(&sides).await;
    copy.pre_data("").await.expect("pre-data");
    execute(&sides, Side::Target, "INSERT INTO public.t VALUES (9)").await;
    let slot = copy.slot().await;
    let error = copy.rows(&slot).await.expect_err("the target has rows");
    assert!(matches!(error, SnapshotError::TargetNotEmpty { .. }), "{error}");
    let mut target = sides.session(Side::Target).await;
    assert_eq!(reset(&mut target).await.expect("reset"), []);
    assert_eq!(count(&sides, Side::Target, "SELECT id::int8 FROM public.t").await, 9);
}

#[tokio::test]
async fn partitions_with_foreign_keys_of_an_existing_schema_are_emptied_for_another_try() {
    let sides = Sides::start(14, 17).await;
    let schema = "CREATE TABLE public.customers (id int PRIMARY KEY);
         CREATE TABLE public.orders (id int PRIMARY KEY, customer int REFERENCES public.customers) PARTITION BY RANGE (id);
         CREATE TABLE public.orders_1 PARTITION OF public.orders DEFAULT";
    execute(&sides, Side::Source, schema).await;
    execute(&sides, Side::Target, schema).await;
    let rows = "INSERT INTO public.customers VALUES (1); INSERT INTO public.orders VALUES (1, 1), (2, 1)";
    execute(&sides, Side::Source, rows).await;
    let copy = Copy::of(&sides).await;
    let slot = copy.slot().await;
    for _ in 0..2 {
        assert_eq!(copy.rows(&slot).await.expect("the copy").rows, 3);
        let mut target = sides.session(Side::Target).await;
        assert_eq!(reset(&mut target).await.expect("reset").len(), 2);
        assert_eq!(count(&sides, Side::Target, "SELECT count(*) FROM public.orders").await, 0);
    }
}

/// Trap 14: without its locks a plan by ctid is worth nothing.
#[tokio::test]
async fn a_copy_that_loses_its_locks_is_not_taken_for_done() {
    let mut sides = Sides::start(14, 17).await;
    sides.set("SNAPSHOT__JOBS", "1");
    execute(
        &sides,
        Side::Source,
        "CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t SELECT generate_series(1, 100000)",
    )
    .await;
    let copy = Copy::of(&sides).await;
    copy.pre_data("").await.expect("pre-data");
    // Holds the tables' registration up until the guard is gone.
    let blocker = sides.superuser(Side::Target).await;
    blocker.batch_execute("BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let slot = copy.slot().await;
    let source = sides.superuser(Side::Source).await;
    let killer = async {
        until("the guard is there", || async {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                        WHERE application_name = 'pgsluice copy guard' AND state = 'idle in transaction'
                          AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND l.relation = 'public.t'::regclass)";
            source.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) > 0
        })
        .await;
        blocker.batch_execute("ROLLBACK").await.expect("released");
    };
    let (outcome, ()) = tokio::join!(copy.rows(&slot), killer);
    let error = outcome.expect_err("the locks were lost");
    let is_lost = matches!(
        error,
        SnapshotError::SnapshotGone | SnapshotError::Source { .. } | SnapshotError::Catalog(_)
    );
    assert!(is_lost, "{error}");
}

/// Trap 14: what the snapshot shows must still be where the plan looks for it.
#[tokio::test]
async fn a_table_rewritten_or_altered_before_the_copy_has_its_locks_is_noticed() {
    let sides = Sides::start(17, 18).await;
    execute(
        &sides,
        Side::Source,
        "CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)",
    )
    .await;
    let copy = Copy::of(&sides).await;
    copy.pre_data("").await.expect("pre-data");
    let slot = copy.slot().await;
    execute(&sides, Side::Source, "TRUNCATE public.t").await;
    let error = copy.rows(&slot).await.expect_err("emptied behind the snapshot");
    assert!(matches!(error, SnapshotError::TableRewritten { .. }), "{error}");
    drop(slot);
    execute(&sides, Side::Source, "SELECT pg_drop_replication_slot('pgsluice')").await;
    execute(&sides, Side::Source, "ALTER TABLE public.t ADD note text").await;
    let slot = copy.slot().await;
    let error = copy.rows(&slot).await.expect_err("altered after its definition was copied");
    assert!(matches!(error, SnapshotError::TableAltered { .. }), "{error}");
}

#[tokio::test]
async fn columns_in_another_order_and_of_wider_types_are_filled_in_an_existing_schema() {
    let sides = Sides::start(14, 17).await;
    execute(
        &sides,
        Side::Source,
        "CREATE TABLE public.t (id int PRIMARY KEY, note text, at timestamptz);
        INSERT INTO public.t SELECT i, 'note ' || i, now() FROM generate_series(1, 500) i",
    )
    .await;
    execute(
        &sides,
        Side::Target,
        "CREATE TABLE public.t (at timestamptz, extra text DEFAULT 'x', note text, id bigint PRIMARY KEY)",
    )
    .await;
    let copy = Copy::of(&sides).await;
    let slot = copy.slot().await;
    assert_eq!(copy.rows(&slot).await.expect("the copy").rows, 500);
    assert_eq!(
        count(
            &sides,
            Side::Target,
            "SELECT sum(id)::int8 FROM public.t WHERE note = 'note ' || id AND extra = 'x'"
        )
        .await,
        125_250
    );
}

#[tokio::test]
async fn a_schema_that_cannot_be_built_leaves_nothing_half_made_and_names_the_object() {
    let sides = Sides::start(14, 17).await;
    execute(&sides, Side::Source, "CREATE TABLE public.first (id int); CREATE TABLE public.second (id int)")
        .await;
    execute(&sides, Side::Target, "CREATE TABLE public.second (id int)").await;
    let copy = Copy::of(&sides).await;
    let error = copy
        .pre_data("CREATE TABLE public.recorded (phase text)")
        .await
        .expect_err("second is there already");
    let SchemaError::Failed { program, message, object } = &error else { panic!("{error}") };
    assert_eq!(program, "psql");
    assert!(message.contains(r#"relation "second" already exists"#), "{message}");
    assert_eq!(object.as_deref(), Some("table public.second"));
    let made = "SELECT count(*) FROM pg_class WHERE relname IN ('first', 'recorded')";
    assert_eq!(count(&sides, Side::Target, made).await, 0);
}

#[tokio::test]
async fn owners_and_privileges_are_kept_where_the_roles_exist_and_reported_where_they_do_not() {
    let sides = Sides::start(14, 17).await;
    execute(
        &sides,
        Side::Source,
        "CREATE ROLE shop; CREATE ROLE reader; CREATE TABLE public.t (id int PRIMARY KEY); ALTER TABLE public.t OWNER TO shop;
         GRANT SELECT ON public.t TO reader",
    )
    .await;
    execute(&sides, Side::Target, "CREATE ROLE shop").await;
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let copied =
        copy_pre_data(&sides.config(), &source, &target, "", &Shutdown::new()).await.expect("pre-data");
    assert_eq!(copied.findings.len(), 1);
    assert!(copied.findings[0].remedy.contains(r#"CREATE ROLE "reader";"#), "{:?}", copied.findings);
    execute(&sides, Side::Target, "DROP TABLE public.t; CREATE ROLE reader").await;
    let copied =
        copy_pre_data(&sides.config(), &source, &target, "", &Shutdown::new()).await.expect("pre-data");
    assert_eq!(copied.findings, []);
    let kept = "SELECT count(*) FROM pg_class WHERE relname = 't' AND relowner = 'shop'::regrole AND has_table_privilege('reader', oid, 'SELECT')";
    assert_eq!(count(&sides, Side::Target, kept).await, 1);
}
