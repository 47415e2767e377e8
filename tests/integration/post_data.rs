//! Post-data divided by table: whatever a schema contains, indexes built table by table in any order and everything else
//! behind them make the same schema as the source has, as `pg_dump` writes it.

use std::collections::BTreeSet;
use std::process::Command;

use pgsluice::connection::SqlSession;
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::model::{Disposition, Side, TableName};
use pgsluice::runtime::Shutdown;
use pgsluice::target::schema::post_data::{
    Division, IndexBuild, build_index, build_rest, existing_indexes, read_post_data,
};
use pgsluice::target::schema::{SchemaError, copy_pre_data};

use crate::harness::clusters::installation;
use crate::harness::sides::{DATABASE, Sides};
use crate::harness::wait::until;

/// What a source of version 15 knows beside `post_data/schema.sql`.
const SCHEMA_15: &str = "
CREATE TABLE public.nullable (a int, b int);
ALTER TABLE public.nullable ADD CONSTRAINT one_null UNIQUE NULLS NOT DISTINCT (a);
CREATE UNIQUE INDEX one_null_too ON public.nullable (b) NULLS NOT DISTINCT;";

fn everything() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/post_data/schema.sql");
    std::fs::read_to_string(file).expect("a schema")
}

async fn execute(sides: &Sides, side: Side, sql: &str) {
    sides.superuser(side).await.batch_execute(sql).await.expect(sql);
}

/// The source has this schema, and the target its tables and the rows of two of them.
async fn with_tables(source: u32, target: u32, schema: &str) -> Sides {
    let sides = Sides::start(source, target).await;
    execute(&sides, Side::Source, schema).await;
    let (from, to) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    copy_pre_data(&sides.config(), &from, &to, "", &Shutdown::new()).await.expect("pre-data");
    sides
}

async fn read(sides: &Sides) -> Division {
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    read_post_data(&sides.config(), &source, &target, &Shutdown::new()).await.expect("post-data")
}

async fn builder(sides: &Sides, division: &Division) -> SqlSession {
    let session = sides.session(Side::Target).await;
    session.batch_execute(&division.session_sql()).await.expect("the dump's settings");
    session
}

/// Builds these one after the other. Two builds of one table in two sessions may wait for each other.
async fn build_all(session: &SqlSession, builds: Vec<IndexBuild>) {
    for build in builds {
        loop {
            match build_index(session, &build, &Shutdown::new()).await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.disposition(), Disposition::Retry, "{error}"),
            }
        }
    }
}

/// The post-data of one side, without what differs from one dump or version to the next: only servers before 16 name the
/// table of a query's columns where it has one table. With a choice of extensions, which the program always makes,
/// `pg_dump` leaves out what is in no schema: event triggers.
fn dumped(cluster: &LocalCluster, major: u32) -> String {
    let output = Command::new(installation(major).bindir.join("pg_dump"))
        .args(["--section=post-data", "--quote-all-identifiers", "--extension=plpgsql"])
        .args(["--dbname", &cluster.url(DATABASE)])
        .output()
        .expect("pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let is_same = |line: &&str| {
        !["\\restrict ", "\\unrestrict ", "-- Dumped from "].iter().any(|start| line.starts_with(start))
    };
    text.lines()
        .filter(is_same)
        .fold(String::new(), |text, line| text + line + "\n")
        .replace("\"items\".", "")
}

async fn the_same_schema_is_built_in_any_order(source: u32, target: u32) {
    let more = if source >= 15 { SCHEMA_15 } else { "" };
    let everything = everything();
    let sides = with_tables(source, target, &format!("{everything}{more}")).await;
    let rows = everything
        .split_inclusive(";\n")
        .filter(|statement| statement.starts_with("INSERT INTO public.items"));
    execute(&sides, Side::Target, &rows.collect::<String>()).await;
    let division = read(&sides).await;
    let mut builds: Vec<IndexBuild> =
        division.by_table.values().cloned().flat_map(|table| table.into_builds()).collect();
    let built: BTreeSet<TableName> = builds.iter().map(|build| build.index.clone()).collect();
    let left: BTreeSet<&str> = division
        .rest
        .iter()
        .filter(|entry| ["INDEX", "CONSTRAINT"].contains(&entry.kind.as_str()))
        .map(|entry| entry.name.as_str())
        .collect();
    let expected = [
        "a b c",
        // Behind a function that is made in the post-data: nothing says whether this one's function needs it.
        "by_function",
        "named_kept_id",
        "named_lines_name",
        "of_parent_only",
        "parts parts_pkey",
        "parts_2 parts_2_pkey",
        "parts_2_note_idx",
        "parts_note",
        "totals_day",
    ];
    assert_eq!(left, BTreeSet::from(expected), "what cannot be built by table, and nothing else");
    builds.reverse();
    let second = builds.split_off(builds.len() / 2);
    let (one, other) = (builder(&sides, &division).await, builder(&sides, &division).await);
    tokio::join!(build_all(&one, builds), build_all(&other, second));
    let schemas = built.iter().map(|index| index.schema.clone()).collect();
    let existing = existing_indexes(&one, &schemas).await.expect("the target's indexes");
    assert_eq!(built.difference(&existing).collect::<Vec<_>>(), Vec::<&TableName>::new());
    let extra = "CREATE TABLE public.recorded (phase text)";
    build_rest(&sides.config(), &division, extra, &Shutdown::new()).await.expect("the rest");
    execute(&sides, Side::Target, "DROP TABLE public.recorded").await;
    let (on_source, on_target) = (dumped(&sides.source, target), dumped(&sides.target, target));
    assert!(on_source.contains("named_lines_name"), "{on_source}");
    let differing: Vec<_> = on_source
        .lines()
        .zip(on_target.lines())
        .filter(|(source, target)| source != target)
        .take(5)
        .collect();
    assert!(on_source == on_target, "{differing:#?}");
    let event_triggers = "SELECT count(*) FROM pg_event_trigger";
    let left: i64 = one.query_one(event_triggers, &[]).await.expect(event_triggers).get(0);
    assert_eq!(left, 0, "left out by the choice of extensions, as by every copy of a schema so far");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_by_table_and_the_rest_make_the_sources_schema_from_14_to_17() {
    the_same_schema_is_built_in_any_order(14, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_by_table_and_the_rest_make_the_sources_schema_from_15_to_18() {
    the_same_schema_is_built_in_any_order(15, 18).await;
}

#[tokio::test]
async fn indexes_of_tables_that_are_not_copied_are_built_with_the_rest() {
    let schema = "CREATE TABLE public.kept (id int PRIMARY KEY); CREATE TABLE public.other (id int PRIMARY KEY, note text);
         CREATE FUNCTION public.folded(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
         CREATE INDEX ON public.other (note); CREATE INDEX by_function ON public.kept (public.folded(id::text)); ALTER TABLE public.kept ADD FOREIGN KEY (id) REFERENCES public.other";
    let sides = with_tables(14, 17, schema).await;
    let mut division = read(&sides).await;
    assert_eq!(division.by_table.len(), 2);
    division.retain_tables(|table| table.name == "kept");
    let builds: Vec<_> = division.by_table.values().cloned().flat_map(|table| table.into_builds()).collect();
    assert_eq!(builds.len(), 2);
    build_all(&builder(&sides, &division).await, builds).await;
    build_rest(&sides.config(), &division, "", &Shutdown::new()).await.expect("the rest");
    assert_eq!(dumped(&sides.source, 17), dumped(&sides.target, 17));
}

#[tokio::test]
async fn an_index_that_cannot_be_built_is_named_with_its_statement_and_without_a_value() {
    let schema = "CREATE TABLE public.t (id int, note text); CREATE UNIQUE INDEX only_once ON public.t (id);
         CREATE INDEX numbers ON public.t ((note::int))";
    let sides = with_tables(14, 17, schema).await;
    execute(&sides, Side::Target, "INSERT INTO public.t VALUES (7654, 'secret'), (7654, 'secret')").await;
    let division = read(&sides).await;
    let session = builder(&sides, &division).await;
    for build in division.by_table.values().cloned().flat_map(|table| table.into_builds()) {
        let error = build_index(&session, &build, &Shutdown::new()).await.expect_err("rows are in the way");
        let text = error.to_string();
        assert!(text.contains("CREATE ") && text.contains(&build.index.name), "{text}");
        assert!(!text.contains("7654") && !text.contains("secret"), "{text}");
        assert!(matches!(error.disposition(), Disposition::WaitForOperator { .. }), "{error:?}");
    }
    // Nothing is left of it, so that it can be tried again.
    execute(&sides, Side::Target, "TRUNCATE public.t").await;
    let builds = division.by_table.values().cloned().flat_map(|table| table.into_builds()).collect();
    build_all(&session, builds).await;
    assert_eq!(dumped(&sides.source, 17), dumped(&sides.target, 17));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_stop_cancels_the_build_on_the_server() {
    let sides =
        with_tables(14, 17, "CREATE TABLE public.t (id int); CREATE INDEX slow ON public.t (id)").await;
    let division = read(&sides).await;
    let session = builder(&sides, &division).await;
    let blocker = sides.superuser(Side::Target).await;
    blocker.batch_execute("BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let build =
        division.by_table.values().cloned().flat_map(|table| table.into_builds()).next().expect("one");
    let shutdown = Shutdown::new();
    let stopper = async {
        until("the build waits", || async {
            let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)";
            blocker.query_one(sql, &[&session.backend_pid()]).await.expect(sql).get::<_, bool>(0)
        })
        .await;
        shutdown.request();
    };
    let (built, ()) = tokio::join!(build_index(&session, &build, &shutdown), stopper);
    assert!(matches!(built, Err(SchemaError::Stopped)), "{built:?}");
    blocker.batch_execute("ROLLBACK").await.expect("released");
    let existing = existing_indexes(&session, &BTreeSet::from(["public".to_owned()])).await.expect("indexes");
    assert_eq!(existing, BTreeSet::new());
}
