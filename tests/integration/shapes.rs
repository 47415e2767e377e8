//! Shapes of tables, one file each in `shapes/`: its schema, the rows that are copied, and changes, each of which is one
//! transaction. All shapes of a version pair share one run of the program, each in a schema of its own name, so that a
//! difference names its shape. Adding a shape is adding a file.
//!
//! `shapes/same`: the program makes the target's schema. `shapes/existing`: the target has its own, in section `target`.
//! `shapes/refused`: the program must not begin. Sections begin with `--- schema`, `--- rows`, `--- target`,
//! `--- change: words`, `--- after` (what an operator runs on the target after the cutover), and `--- same` (queries that
//! must then give the same on both sides).
//! A comment `-- from: 15` leaves the shape out where the source is older.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use pgsluice::demo::compare::{ComparedSide, compare_rows, compare_sequences};
use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;

use crate::harness::clusters::options;
use crate::harness::stage::{Pair, Stage, cut_over, text};
use crate::verification::{FAST, verify};

/// What several shapes use.
const EXTENSIONS: &str = "CREATE EXTENSION citext; CREATE EXTENSION btree_gist";

/// A file of `shapes/`.
struct Shape {
    name: String,
    schema: String,
    target: String,
    rows: String,
    changes: Vec<Change>,
    /// What an operator runs on the target after the cutover.
    after: String,
    same: Vec<String>,
    /// What the program must say, for a shape it refuses.
    says: Vec<String>,
}

/// One transaction on the source.
struct Change {
    about: String,
    sql: String,
}

/// Reads the shapes of a folder that a source of this version knows.
fn shapes(folder: &str, source: u32) -> Vec<Shape> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/integration/shapes").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&path).expect("the shapes").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let parse_file = |file: &PathBuf| {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        parse(name, &fs::read_to_string(file).expect("a shape"), source)
    };
    files.iter().filter_map(parse_file).collect()
}

fn parse(name: String, file: &str, source: u32) -> Option<Shape> {
    let mut sections = file.split("--- ");
    let head = sections.next().unwrap_or_default();
    let notes = |word: &str| {
        head.lines()
            .filter_map(|line| line.strip_prefix(&format!("-- {word}: ")).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    if notes("from").iter().any(|version| version.parse::<u32>().expect("a version") > source) {
        return None;
    }
    let mut shape = Shape {
        name,
        schema: String::new(),
        target: String::new(),
        rows: String::new(),
        changes: Vec::new(),
        after: String::new(),
        same: Vec::new(),
        says: notes("says"),
    };
    for section in sections {
        let (title, sql) = section.split_once('\n').expect("a section");
        let sql = sql.to_owned();
        match title.split_once(": ").map_or((title, ""), |(kind, about)| (kind, about)) {
            ("schema", _) => shape.schema = sql,
            ("target", _) => shape.target = sql,
            ("rows", _) => shape.rows = sql,
            ("after", _) => shape.after = sql,
            ("same", _) => {
                shape.same =
                    sql.split(";\n").filter(|query| !query.trim().is_empty()).map(str::to_owned).collect()
            }
            ("change", about) => shape.changes.push(Change { about: about.to_owned(), sql }),
            (other, _) => panic!("{}: section {other}?", shape.name),
        }
    }
    Some(shape)
}

impl Shape {
    /// Runs SQL in the shape's schema, as one transaction.
    async fn run(&self, client: &Client, what: &str, sql: &str) {
        let path = format!("SET search_path = {}, public", self.name);
        client.batch_execute(&path).await.expect("search path");
        if let Err(error) = client.batch_execute(sql).await {
            panic!("shape {}, {what}: {error:?}", self.name);
        }
    }

    async fn create(&self, source: &Client, target: &Client) {
        let schema = format!("CREATE SCHEMA {}", self.name);
        source.batch_execute(&schema).await.expect("a schema");
        self.run(source, "schema", &self.schema).await;
        self.run(source, "rows", &self.rows).await;
        if !self.target.is_empty() {
            target.batch_execute(&schema).await.expect("a schema");
            self.run(target, "schema of the target", &self.target).await;
        }
    }
}

/// What was compared, and what differed: shape, table, and after which changes.
#[derive(Default)]
struct Tally {
    shapes: usize,
    cases: usize,
    differences: Vec<String>,
}

/// Traps 9, 10, 11, 12, 22, 31: every shape by the copy, by the stream, and behind the cutover.
pub(crate) async fn every_shape_of_table_arrives_by_copy_and_by_stream(pair: Pair) {
    let mut tally = Tally::default();
    let stage = eager_stage(pair).await;
    // Each pair has both kinds of stream, in turn.
    let whole = "source.stream_in_progress = \"off\"\n";
    let in_progress = "source.stream_in_progress = \"on\"\n";
    let (same, existing) =
        if pair.source.is_multiple_of(2) { (whole, in_progress) } else { (in_progress, whole) };
    migrate(&stage, &shapes("same", pair.source), same, &mut tally).await;
    drop(stage);
    let stage = eager_stage(pair).await;
    // Some of these targets lack what a way back would need (a replica identity): it is refused with the remedy.
    let existing = format!("schema.mode = \"existing\"\ncutover.reverse = false\n{existing}");
    migrate(&stage, &shapes("existing", pair.source), &existing, &mut tally).await;
    let Tally { shapes, cases, differences } = tally;
    let line = format!(
        "matrix {} -> {}: {shapes} table shapes, {cases} cases, {} differences",
        pair.source,
        pair.target,
        differences.len()
    );
    // Past the test runner's capture: the numbers are what a run is for.
    let _ = writeln!(std::io::stderr(), "{line}");
    assert!(differences.is_empty(), "{differences:#?}");
}

/// A source that begins to send a transaction while it runs as soon as it may.
async fn eager_stage(pair: Pair) -> Stage {
    let source = options().setting("logical_decoding_work_mem", "64kB");
    Stage::with_options(pair, source, options()).await
}

/// Migrates a database of shapes: copy, one change of every shape at a time, cutover.
async fn migrate(stage: &Stage, shapes: &[Shape], configuration: &str, tally: &mut Tally) {
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    source.batch_execute(EXTENSIONS).await.expect("extensions");
    if shapes.iter().any(|shape| !shape.target.is_empty()) {
        target.batch_execute(EXTENSIONS).await.expect("extensions");
    }
    for shape in shapes {
        shape.create(&source, &target).await;
    }
    let mut replicator = stage.streaming_with(configuration).await;
    tally.shapes += shapes.len();
    tally.cases += shapes.len();
    compare(stage, "the copy", tally).await;
    verified(&replicator, "the copy", tally).await;

    let rounds = shapes.iter().map(|shape| shape.changes.len()).max().unwrap_or_default();
    for round in 0..rounds {
        let mut did = Vec::new();
        for shape in shapes {
            if let Some(Change { about, sql }) = shape.changes.get(round) {
                shape.run(&source, about, sql).await;
                did.push(format!("{}: {about}", shape.name));
            }
        }
        tally.cases += did.len();
        stage.caught_up_after(&mut replicator, &did).await;
        compare(stage, &format!("change {} of each shape", round + 1), tally).await;
        verified(&replicator, &format!("change {} of each shape", round + 1), tally).await;
    }
    cut_over(&mut replicator).await;
    let sequences = compare_sequences(&stage.source_url(), &stage.target_url()).await.expect("sequences");
    tally.cases += sequences.sequences;
    tally.differences.extend(sequences.differing);
    compare(stage, "the cutover", tally).await;
    for shape in shapes {
        shape.run(&target, "after the cutover", &shape.after).await;
        for query in &shape.same {
            let path = format!("SET search_path = {}, public", shape.name);
            source.batch_execute(&path).await.expect("search path");
            target.batch_execute(&path).await.expect("search path");
            tally.cases += 1;
            if text(&source, query).await != text(&target, query).await {
                tally.differences.push(format!("{}: {query}", shape.name));
            }
        }
    }
}

/// The program's own comparison finds nothing either.
async fn verified(replicator: &Replicator, after: &str, tally: &mut Tally) {
    let report = verify(replicator, FAST).await;
    if report.outcome != "clean" {
        tally.differences.push(format!("verification after {after}: {report:#?}"));
    }
}

/// Row for row; a table's schema is its shape's name.
async fn compare(stage: &Stage, after: &str, tally: &mut Tally) {
    let (source, target) = (ComparedSide::now(stage.source_url()), ComparedSide::now(stage.target_url()));
    let comparison = compare_rows(&source, &target).await.expect("comparison");
    assert!(comparison.rows_compared > 0, "nothing to compare");
    for (table, difference) in comparison.differing_tables {
        tally.differences.push(format!("{table} after {after}: {difference:?}"));
    }
}

/// What cannot be migrated is named before anything is changed, each with what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_that_cannot_be_migrated_are_refused_by_name() {
    let pair = Pair::of(17, 18);
    for shape in shapes("refused", pair.source) {
        let stage = Stage::new(pair).await;
        let (source, target) = (stage.source_client().await, stage.target_client().await);
        source.batch_execute(EXTENSIONS).await.expect("extensions");
        shape.create(&source, &target).await;
        let mode = if shape.target.is_empty() { "" } else { "schema.mode = \"existing\"" };
        let mut refused = stage.command(mode).start().expect("the program");
        let status = refused.wait_for_end(Duration::from_secs(60)).await.expect("an end");
        let log = refused.log();
        assert_eq!(status.code(), Some(3), "{}: {log}", shape.name);
        assert!(!shape.says.is_empty(), "{}: nothing is expected of it", shape.name);
        for says in &shape.says {
            assert!(log.contains(says), "{}: does not say {says}: {log}", shape.name);
        }
    }
}
