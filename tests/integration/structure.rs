//! The structure of both sides compared: alike after the program's own copy, and whatever is then changed on the target is
//! found, named, and mended by the statement that comes with it.

use pgsluice::config::TableFilter;
use pgsluice::model::Side;
use pgsluice::runtime::Shutdown;
use pgsluice::target::schema::post_data::{build_index, build_rest, read_post_data};
use pgsluice::target::schema::copy_pre_data;
use pgsluice::verify::structure::{
    ObjectKind, Severity, StructuralDifference, StructureReport, compare,
};

use crate::harness::sides::Sides;

fn everything() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/structure/schema.sql");
    std::fs::read_to_string(file).expect("a schema")
}

async fn execute(sides: &Sides, side: Side, sql: &str) {
    let done = sides.superuser(side).await.batch_execute(sql).await;
    done.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
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
async fn mend(sides: &Sides, report: &StructureReport) {
    for difference in differences(report) {
        let fix = difference.fix.as_ref().unwrap_or_else(|| panic!("no fix: {difference:#?}"));
        execute(sides, Side::Target, fix).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    let sides = Sides::start(14, 17).await;
    execute(&sides, Side::Source, &everything()).await;
    execute(&sides, Side::Target, "CREATE ROLE reader; CREATE ROLE clerk; CREATE ROLE \"Odd, role\";").await;
    copy(&sides).await;
    let report = compared(&sides).await;
    println!("{report:#?}");
    assert!(report.is_alike());
    let _ = (ObjectKind::Table, mend(&sides, &report).await);
}
