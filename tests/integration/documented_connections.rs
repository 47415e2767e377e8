//! `docs/sizing.md` says how many connections a migration takes on each side. A whole migration is run, there and back, and the
//! servers' logs are compared with that page: how many sessions there were at once, and by which names.

use std::collections::BTreeSet;
use std::fs;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use pgsluice::control::dto::VerificationRequestRecord;
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::demo::replicator::Replicator;

use crate::documented_commands::pages;
use crate::harness::clusters::{connect, options};
use crate::harness::session_log::{Kind, LoggedSession, most_at_once, sessions, with_session_log};
use crate::harness::stage::{COPY_WAIT, Pair, Stage, cut_over, roll_back, text, way_back_is_open};
use crate::harness::wait::until;
use crate::verification::verify;

/// J, K and A of the page.
const JOBS: usize = 3;
const CONNECTIONS: usize = 2;
/// V: as it is by default.
const VERIFYING: usize = 1;
const SETTINGS: &str = "snapshot.jobs = 3\nsnapshot.chunk_bytes = \"1MiB\"\napply.connections = 2\n";
/// Sessions that come and go within milliseconds may or may not meet; the page counts that they do.
const SLACK: usize = 2;

const TABLES: &str = "CREATE TABLE a (id bigint PRIMARY KEY, v text); CREATE TABLE b (LIKE a INCLUDING ALL);
    CREATE TABLE c (LIKE a INCLUDING ALL); CREATE SEQUENCE numbers;
    INSERT INTO a SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 60000) g;
    INSERT INTO b SELECT * FROM a; INSERT INTO c SELECT * FROM a";

/// A row of the page's table of connections, evaluated.
#[derive(Debug)]
struct Row {
    name: String,
    source: usize,
    source_walsenders: usize,
    target: usize,
    target_walsenders: usize,
}

/// The cells of all rows that begin with a cell of this heading's table.
fn rows_below(heading: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(pages::root().join("docs/sizing.md")).expect("readable");
    let (_, table) = page.split_once(heading).unwrap_or_else(|| panic!("docs/sizing.md has no {heading}"));
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// `J + 2 or A + 5`: the larger one.
fn evaluate(formula: &str) -> usize {
    let term = |term: &str| match term.trim() {
        // `snapshot.index_jobs` is as `snapshot.jobs` where it is not set.
        "J" | "K" => JOBS,
        "V" => VERIFYING,
        "A" => CONNECTIONS,
        number => number.parse().unwrap_or_else(|_| panic!("{formula} is not understood")),
    };
    let sums = formula.split(" or ").map(|sum| sum.split('+').map(term).sum());
    sums.max().expect("a formula")
}

fn table_of_connections() -> Vec<Row> {
    let rows = rows_below("| while | source | its walsenders | target | its walsenders |");
    let row = |cells: Vec<String>| Row {
        name: cells[0].clone(),
        source: evaluate(&cells[1]),
        source_walsenders: evaluate(&cells[2]),
        target: evaluate(&cells[3]),
        target_walsenders: evaluate(&cells[4]),
    };
    rows.into_iter().map(row).collect()
}

/// What each side's sessions may be called, by the page.
fn names_on(side: &str) -> BTreeSet<String> {
    let rows = rows_below("| name | on | what for |");
    let here = rows.iter().filter(|cells| cells[1] == "both" || cells[1] == side);
    here.flat_map(|cells| cells[0].split(", ").map(|name| format!("pgsluice {}", name.trim_matches('`'))))
        .collect()
}

/// A part of the migration, by the clock of the machine that everything runs on.
struct Span {
    row: &'static str,
    from: Timestamp,
    to: Timestamp,
}

struct Course {
    spans: Vec<Span>,
    since: Timestamp,
}

impl Course {
    fn done(&mut self, row: &'static str) {
        let to = Timestamp::now();
        self.spans.push(Span { row, from: self.since, to });
        self.since = to;
    }
}

async fn stop(mut replicator: Replicator) {
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
}

/// Everything that the page has a row for.
async fn run(stage: &Stage) -> Vec<Span> {
    let source = stage.source_client().await;
    source.batch_execute(TABLES).await.expect("tables");
    stage.command(SETTINGS).write_configuration(1).expect("a configuration");
    let mut course = Course { spans: Vec::new(), since: Timestamp::now() };
    assert!(stage.run(&["check"]).status.success());
    course.done("`pgsluice check`");
    let replicator = stage.streaming_with(SETTINGS).await;
    course.done("schema, copy and indexes beside the stream");
    settles_as(stage, "streaming").await;
    course.since = Timestamp::now();
    assert_eq!(verify(&replicator, VerificationRequestRecord::default()).await.outcome, "clean");
    course.done("a verification (`pgsluice verify`) beside it");
    stop(replicator).await;
    source.batch_execute("UPDATE a SET v = v || '!'; UPDATE b SET v = v || '!'").await.expect("a backlog");
    course.since = Timestamp::now();
    let mut replicator = stage.streaming_with(SETTINGS).await;
    stage.caught_up().await;
    course.done("beginning again with a backlog that is read in bulk");
    let late = "CREATE TABLE late (LIKE a INCLUDING ALL); INSERT INTO late SELECT * FROM a";
    source.batch_execute(late).await.expect("a table");
    let mut add = stage.command(SETTINGS).command(&["tables", "add", "public.late"]);
    let added = add.arg("--api").arg(replicator.api().base()).output().expect("the program");
    assert!(added.status.success(), "{added:?}");
    course.done("a table joins (`pgsluice tables add`, partitions)");
    settles_as(stage, "streaming").await;
    course.since = Timestamp::now();
    cut_over(&mut replicator).await;
    course.done("rehearsal, cutover");
    way_back_is_open(&mut replicator).await;
    settles_as(stage, "the way back is open").await;
    course.since = Timestamp::now();
    roll_back(&mut replicator).await;
    course.done("rollback");
    stop(replicator).await;
    course.since = Timestamp::now();
    assert!(stage.run(&["cleanup", "--unfence-target"]).status.success());
    course.done("`pgsluice cleanup`");
    course.spans
}

/// Waits until there are exactly as many as the page says: those that were there for a moment only have gone.
async fn settles_as(stage: &Stage, name: &str) {
    let rows = table_of_connections();
    let row = rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    let now =
        "SELECT count(*) || ' ' || count(*) FILTER (WHERE backend_type = 'walsender') FROM pg_stat_activity
                WHERE application_name LIKE 'pgsluice %'";
    for (cluster, all, walsenders) in [
        (&stage.source, row.source, row.source_walsenders),
        (&stage.target, row.target, row.target_walsenders),
    ] {
        let session = connect(&cluster.url("app")).await;
        let wanted = format!("{all} {walsenders}");
        until(&format!("{name}: {wanted}"), || async { text(&session, now).await == wanted }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_takes_the_connections_that_the_page_says() {
    let logged = || with_session_log(options());
    let stage = Stage::with_options(Pair::of(14, 17), logged(), logged()).await;
    let spans = run(&stage).await;
    for row in table_of_connections() {
        let Some(span) = spans.iter().find(|span| span.row == row.name) else {
            // Compared exactly while it ran.
            assert!(
                ["streaming", "the way back is open"].contains(&row.name.as_str()),
                "{row:?} was not tried"
            );
            continue;
        };
        compare(span, "source", &stage.source, row.source, row.source_walsenders);
        compare(span, "target", &stage.target, row.target, row.target_walsenders);
    }
    for (side, cluster) in [("source", &stage.source), ("target", &stage.target)] {
        // The way back exchanges the sides.
        let known: BTreeSet<String> = names_on("source").union(&names_on("target")).cloned().collect();
        let seen: BTreeSet<String> = ours(cluster).into_iter().map(|session| session.application).collect();
        let unknown: Vec<_> = seen.difference(&known).collect();
        assert!(unknown.is_empty(), "sessions on the {side} that docs/sizing.md does not name: {unknown:?}");
    }
}

fn ours(cluster: &LocalCluster) -> Vec<LoggedSession> {
    let all = sessions(cluster).into_iter();
    all.filter(|session| session.application.starts_with("pgsluice ")).collect()
}

fn compare(span: &Span, side: &str, cluster: &LocalCluster, all: usize, walsenders: usize) {
    let sessions = ours(cluster);
    let most = most_at_once(sessions.iter(), span.from, span.to);
    let senders = sessions.iter().filter(|session| session.kind == Kind::Walsender);
    let most_senders = most_at_once(senders, span.from, span.to);
    println!("{}: {side} {most} of {all}, walsenders {most_senders} of {walsenders}", span.row);
    assert!(
        most <= all && most + SLACK >= all,
        "{}: {most} at once on the {side}, the page says {all}",
        span.row
    );
    assert_eq!(most_senders, walsenders, "{}: walsenders on the {side}", span.row);
}

/// The page names what there is, and the program knows every name of the page.
#[test]
fn every_name_of_the_page_is_one_of_the_programs() {
    let mut sources = String::new();
    read_sources(&pages::root().join("src"), &mut sources);
    for name in names_on("source").union(&names_on("target")) {
        let purpose = name.strip_prefix("pgsluice ").expect("the prefix");
        assert!(sources.contains(&format!("\"{purpose}\"")), "no session is called {name}");
    }
}

fn read_sources(folder: &std::path::Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}
