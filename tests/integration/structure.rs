//! The structure of both sides compared: alike after the program's own copy, and whatever is then changed on the target is
//! found, named, and mended by the statement that comes with it.

use pgsluice::config::TableFilter;
use pgsluice::model::Side;
use pgsluice::runtime::Shutdown;
use pgsluice::target::schema::post_data::{build_index, build_rest, read_post_data};
use pgsluice::target::schema::copy_pre_data;
use pgsluice::verify::structure::{
    Severity, StructuralDifference, StructureReport, compare,
};

use crate::harness::sides::Sides;
use crate::harness::stage::Pair;

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
    let mut failures = Vec::new();
    for change in changes::mended() {
        if let Err(problem) = try_execute(&sides, change.side, change.sql).await {
            failures.push(format!("not possible: {problem}"));
            continue;
        }
        let found = told(&sides).await;
        let is_named = |each: &&StructuralDifference| each.kind == change.kind && each.object == change.object;
        let named = differences(&found).into_iter().filter(is_named).count();
        if named == 0 || differences(&found).len() != change.differences {
            failures.push(format!("{}: {:#?}", change.sql, differences(&found)));
        }
        if let Err(problem) = mend(&sides, &found).await {
            failures.push(format!("{}: cannot be mended: {problem}", change.sql));
        }
        let left = told(&sides).await;
        if !left.is_alike() {
            failures.push(format!("{}: still {:#?} after {:#?}", change.sql, differences(&left), differences(&found)));
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
