//! The structure of both sides compared: alike after the program's own copy, and whatever is then changed on the target is
//! found, named, and mended by the statement that comes with it.

use std::path::PathBuf;

use pgsluice::config::TableFilter;
use pgsluice::connection::{ConnectionSettings, connect_sql};
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::store;
use pgsluice::model::{Disposition, Side};
use pgsluice::runtime::Shutdown;
use pgsluice::target::schema::copy_pre_data;
use pgsluice::target::schema::post_data::{build_index, build_rest, read_post_data};
use pgsluice::verify::structure::{
    ObjectKind, Severity, StructuralDifference, StructureError, StructureReport, compare,
};

use crate::harness::clusters::connect;
use crate::harness::sides::Sides;
use crate::harness::stage::{Pair, Stage, ask, cut_over, end_of, text};
use crate::harness::wait::until;
use crate::whole_migration::SMALL;

mod changes;

fn everything() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/structure/schema.sql");
    std::fs::read_to_string(file).expect("a schema")
}

async fn execute(sides: &Sides, side: Side, sql: &str) {
    try_execute(sides, side, sql).await.expect("done");
}

async fn try_execute(sides: &Sides, side: Side, sql: &str) -> Result<(), String> {
    let done = sides.superuser(side).await.batch_execute(sql).await;
    done.map_err(|error| format!("{sql}\n{:?}", error.as_db_error()))
}

/// Everything that the program brings over before, during and after the copy of rows.
async fn copy(sides: &Sides) {
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let (config, shutdown) = (sides.config(), Shutdown::new());
    copy_pre_data(&config, &source, &target, "", &shutdown).await.expect("pre-data");
    let division = read_post_data(&config, &source, &target, &shutdown).await.expect("post-data");
    target.batch_execute(&division.session_sql()).await.expect("settings");
    for build in division.by_table.values().cloned().flat_map(|table| table.into_builds()) {
        build_index(&target, &build, &shutdown).await.expect("an index");
    }
    build_rest(&config, &division, "", &shutdown).await.expect("the rest");
}

async fn compared(sides: &Sides) -> StructureReport {
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    compare(&source, &target, &TableFilter::default()).await.expect("a comparison")
}

fn differences(report: &StructureReport) -> Vec<&StructuralDifference> {
    report.differences.iter().filter(|each| each.severity == Severity::Difference).collect()
}

/// Runs every fix.
async fn mend(sides: &Sides, report: &StructureReport) -> Result<(), String> {
    for difference in differences(report) {
        let fix = difference.fix.as_ref().ok_or_else(|| format!("no fix: {difference:#?}"))?;
        try_execute(sides, Side::Target, fix).await?;
    }
    Ok(())
}

/// Compares, and says what is told of the target.
async fn told(sides: &Sides) -> StructureReport {
    let report = compared(sides).await;
    assert!(report.objects_compared() > 100, "{:?}", report.compared);
    report
}

async fn with_copy(pair: Pair) -> Sides {
    let sides = Sides::start(pair.source, pair.target).await;
    execute(&sides, Side::Source, &everything()).await;
    execute(&sides, Side::Target, "CREATE ROLE reader; CREATE ROLE clerk; CREATE ROLE \"Odd, role\"").await;
    copy(&sides).await;
    sides
}

pub(crate) async fn every_change_of_the_target_is_found_and_mended_by_its_fix(pair: Pair) {
    let sides = with_copy(pair).await;
    let report = told(&sides).await;
    assert!(report.is_alike(), "{report:#?}");
    // As a way back would compare them.
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let back = compare(&target, &source, &TableFilter::default()).await.expect("a comparison");
    assert!(back.is_alike() && back.objects_compared() == report.objects_compared(), "{back:#?}");
    let mut failures = Vec::new();
    for change in changes::mended() {
        if let Err(problem) = try_execute(&sides, change.side, change.sql).await {
            failures.push(format!("not possible: {problem}"));
            continue;
        }
        let found = told(&sides).await;
        let is_named =
            |each: &&StructuralDifference| each.kind == change.kind && each.object == change.object;
        let named = differences(&found).into_iter().filter(is_named).count();
        if named == 0 || differences(&found).len() != change.differences {
            failures.push(format!("{}: {:#?}", change.sql, differences(&found)));
        }
        if let Err(problem) = mend(&sides, &found).await {
            failures.push(format!("{}: cannot be mended: {problem}", change.sql));
        }
        let left = told(&sides).await;
        if !left.is_alike() {
            failures.push(format!(
                "{}: still {:#?} after {:#?}",
                change.sql,
                differences(&left),
                differences(&found)
            ));
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The schemas of `shapes/same` that a source of this version knows.
fn shapes(source: u32) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/shapes/same");
    let files = std::fs::read_dir(folder).expect("shapes").map(|entry| entry.expect("an entry").path());
    let schema = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("a shape");
        let from = text.lines().find_map(|line| line.strip_prefix("-- from: ")).unwrap_or("0");
        if from.trim().parse::<u32>().expect("a version") > source {
            return None;
        }
        let sql = text.split("--- ").find_map(|section| section.strip_prefix("schema\n"))?;
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        Some(format!("CREATE SCHEMA {name}; SET search_path = {name}, public;\n{sql};\n"))
    };
    let schemas: String = files.filter_map(schema).collect();
    format!("CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION btree_gist SCHEMA public;\n{schemas}")
}

/// Whatever the sources of other tests have, nothing of it is told by mistake after its copy.
pub(crate) async fn the_schemas_of_other_tests_are_alike_after_their_copy(pair: Pair) {
    let mut objects = 0;
    let others = [
        include_str!("every_change.sql"),
        include_str!("post_data/schema.sql"),
        include_str!("matrix/objects.sql"),
    ];
    for schema in others.map(str::to_owned).into_iter().chain([shapes(pair.source)]) {
        let sides = Sides::start(pair.source, pair.target).await;
        execute(&sides, Side::Source, &format!("SET search_path = public; {schema}")).await;
        copy(&sides).await;
        let report = compared(&sides).await;
        // The program's choice of extensions makes pg_dump leave out what is in no schema.
        let is_known =
            |each: &&StructuralDifference| [ObjectKind::EventTrigger, ObjectKind::Cast].contains(&each.kind);
        let unknown: Vec<_> = differences(&report).into_iter().filter(|each| !is_known(each)).collect();
        assert!(unknown.is_empty() && report.objects_compared() > 0, "{unknown:#?}");
        mend(&sides, &report).await.expect("mended");
        assert!(compared(&sides).await.is_alike());
        objects += report.objects_compared();
    }
    assert!(objects > 500, "{objects}");
}

/// What would lose rows or cannot be altered: said in words, and nothing to be pasted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_statement_mends_is_said_in_words() {
    let sides = with_copy(Pair::of(14, 17)).await;
    for change in changes::told_in_words() {
        execute(&sides, change.side, change.sql).await;
        let found = told(&sides).await;
        let named: Vec<_> = found
            .differences
            .iter()
            .filter(|each| each.kind == change.kind && each.object == change.object)
            .collect();
        let [named] = named[..] else { panic!("{}: {:#?}", change.sql, found.differences) };
        assert!(named.fix.is_none() && named.what.len() > 60, "{named:#?}");
        let severity = if change.differences == 0 { Severity::Note } else { Severity::Difference };
        assert_eq!(named.severity, severity, "{named:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_missing_is_told_once_and_its_objects_after_it_was_made() {
    let sides = Sides::start(14, 17).await;
    let schema = "CREATE ROLE owner; CREATE ROLE reader; CREATE SCHEMA shop AUTHORIZATION owner; SET ROLE owner;
        CREATE TABLE shop.a (id serial PRIMARY KEY, note text); CREATE TABLE shop.b (id int PRIMARY KEY); CREATE VIEW shop.c AS SELECT id FROM shop.a;
        CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT USAGE ON SCHEMA shop TO reader;
        GRANT SELECT ON shop.a, shop.b, shop.c TO reader; GRANT UPDATE (note) ON shop.a TO reader; REVOKE EXECUTE ON FUNCTION shop.f() FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO reader;";
    execute(&sides, Side::Source, schema).await;
    copy(&sides).await;
    let report = compared(&sides).await;
    let roles: Vec<_> = report.differences.iter().map(|each| (each.severity, each.object.as_str())).collect();
    let expected = [
        (Severity::Difference, r#""owner""#),
        (Severity::Difference, r#""reader""#),
        // Everybody may create things there on the source: the default before 15.
        (Severity::Note, r#""public""#),
        (Severity::Difference, r#""shop"."f"()"#),
    ];
    assert_eq!(roles, expected, "{report:#?}");
    assert!(report.differences[0].what.contains("5 objects of the source belong to it"), "{report:#?}");
    mend(&sides, &report).await.expect("roles");
    let report = compared(&sides).await;
    assert!(report.differences_found > 8, "{report:#?}");
    mend(&sides, &report).await.expect("owners and privileges");
    let report = compared(&sides).await;
    assert!(report.is_alike(), "{report:#?}");
}

/// Gate, fence, lockout, records: nothing of it is a difference, at any time.
pub(crate) async fn what_the_program_itself_does_to_either_side_is_no_difference(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let mut replicator = stage.streaming_with("cutover.lock_out = true\n").await;
    let compared = || async {
        let session = |url: String, side| async move {
            let settings = ConnectionSettings::parse(&url).expect("a url");
            connect_sql(&settings, side, "test").await.expect("a session")
        };
        let source = session(stage.source_url(), Side::Source).await;
        let target = session(stage.target_url(), Side::Target).await;
        compare(&source, &target, &TableFilter::default()).await.expect("a comparison")
    };
    until("the gate is closed and all is built", || async { compared().await.is_alike() }).await;
    let gate = "SELECT count(*)::text FROM pg_trigger WHERE tgname = 'pgsluice_gate'";
    assert_ne!(text(&stage.target_client().await, gate).await, "0");
    let armed = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    end_of(&mut replicator, &armed).await;
    let report = compared().await;
    assert!(report.is_alike() && report.notes_found == 0, "{report:#?}");
    cut_over(&mut replicator).await;
    let report = compared().await;
    assert!(report.is_alike() && report.notes_found == 0, "{report:#?}");
    let locked_out = "SELECT count(*)::text FROM pgsluice.locked_out";
    assert_ne!(text(&connect(&stage.source.url("app")).await, locked_out).await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_not_migrated_are_left_out_with_all_that_belongs_to_them() {
    let sides = with_copy(Pair::of(14, 17)).await;
    execute(
        &sides,
        Side::Target,
        "DROP TABLE shop.refers, shop.events; ALTER TABLE shop.orders DROP CONSTRAINT apart, DROP COLUMN placed; REVOKE ALL ON shop.orders FROM clerk;
         DROP INDEX shop.customers_lower",
    )
    .await;
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let filter =
        TableFilter::new(Vec::new(), ["shop.refers", "shop.ev*ts", "shop.orders"].map(str::to_owned).into());
    let report = compare(&source, &target, &filter).await.expect("a comparison");
    let objects: Vec<_> = differences(&report).iter().map(|each| each.object.as_str()).collect();
    assert_eq!(objects, [r#""shop"."customers_lower""#]);
    // The sessions are as they were.
    let quotes: String = source.query_one("SHOW quote_all_identifiers", &[]).await.expect("a setting").get(0);
    assert_eq!(quotes, "off");
}

/// Servers of one version print queries alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_servers_of_one_version_queries_are_compared_too() {
    let sides = with_copy(Pair::of(17, 17)).await;
    let report = told(&sides).await;
    assert!(report.is_alike() && report.not_compared.len() == 1, "{report:#?}");
    assert!(report.not_compared[0].contains("1 function in standard SQL"), "{report:#?}");
    for (change, object, is_mended) in [
        ("CREATE OR REPLACE VIEW shop.named WITH (security_barrier = true, check_option = local) AS SELECT id, name, mail FROM shop.customers WHERE number > 1", r#""shop"."named""#, true),
        ("CREATE OR REPLACE RULE kept AS ON DELETE TO shop.customers DO ALSO NOTHING", r#""kept" ON "shop"."customers""#, true),
        ("DROP MATERIALIZED VIEW shop.totals; CREATE MATERIALIZED VIEW shop.totals AS SELECT customer, count(*) + 1 AS orders FROM shop.orders GROUP BY customer;
          CREATE UNIQUE INDEX totals_customer ON shop.totals (customer)", r#""shop"."totals""#, false),
    ] {
        execute(&sides, Side::Target, change).await;
        let report = told(&sides).await;
        let objects: Vec<_> = differences(&report).iter().map(|each| each.object.as_str()).collect();
        assert_eq!(objects, [object], "{report:#?}");
        if is_mended {
            mend(&sides, &report).await.expect("mended");
            assert!(told(&sides).await.is_alike());
        }
    }
}

#[tokio::test]
async fn a_side_that_is_lost_is_an_error_and_the_other_is_left_as_it_was() {
    let sides = Sides::start(14, 17).await;
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let end = format!("SELECT pg_terminate_backend({})", source.backend_pid());
    execute(&sides, Side::Source, &end).await;
    source.closed().await;
    let error = compare(&source, &target, &TableFilter::default()).await.expect_err("one is lost");
    assert!(matches!(error, StructureError::Sql { side: Side::Source, .. }), "{error}");
    assert_eq!(error.disposition(), Disposition::Retry);
    let quotes: String = target.query_one("SHOW quote_all_identifiers", &[]).await.expect("a setting").get(0);
    assert_eq!(quotes, "off");
    // It writes, so it is in no read-only transaction.
    target.batch_execute("CREATE TABLE public.t ()").await.expect("a table");
}
