//! The crash matrix: every action of a cutover, and of a rollback, struck before it, after it and between it and its
//! repetition, by the death of the program, of either server, and of the network. However it goes, the end is *completed*
//! or *as before*: one side takes writes and the other refuses them, and every transaction that a client saw committed is
//! there exactly once.

mod program;
mod saboteur;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice::cutover::Action;
use pgsluice::demo::ledger;
use pgsluice::demo::store;
use pgsluice::demo::workload::Workload;
use pgsluice::migration::CutoverMode;
use pgsluice::model::Direction;
use tokio_postgres::error::SqlState;

use self::program::{Ended, Program};
use self::saboteur::{Cell, Moment, Place, Saboteur, Victim};
use crate::harness::clusters::connect;
use crate::harness::proxy::Proxy;
use crate::harness::seed;
use crate::harness::stage::{Pair, Stage, text};
use crate::harness::wait::until;
use crate::whole_migration::{SMALL, load};

/// Cells run one after the other on the same servers; the rows of both sides are compared after so many.
const CELLS_PER_COMPARISON: usize = 24;
/// Set to `whole`, every cell is struck; otherwise every eighth, beginning at a random one.
const EXTENT: &str = "PGSLUICE_CRASH_MATRIX";
const PART: usize = 8;

/// Whether clients may connect: exactly where no fence is committed.
async fn are_let_in(client: &tokio_postgres::Client) -> bool {
    let may = "SELECT has_database_privilege('somebody', current_database(), 'CONNECT')::text";
    let may = text(client, may).await == "true";
    let is_armed = text(client, "SELECT (to_regclass('pgsluice.fence') IS NOT NULL)::text").await == "true";
    let is_fenced =
        is_armed && text(client, "SELECT EXISTS (SELECT FROM pgsluice.fence)::text").await == "true";
    assert_eq!(may, !is_fenced, "clients are locked out exactly where it is fenced");
    may
}

/// Servers, clients and the program, for as many cells as there are.
struct Scene {
    stage: Arc<tokio::sync::Mutex<Stage>>,
    source_url: String,
    target_url: String,
    workload: Workload,
    program: Program,
    saboteur: Arc<Saboteur>,
}

impl Scene {
    async fn new(pair: Pair) -> Self {
        let stage = Stage::new(pair).await;
        store::create(&stage.source_url(), SMALL).await.expect("store");
        for side in [&stage.source, &stage.target] {
            connect(&side.url("app"))
                .await
                .batch_execute("CREATE ROLE somebody LOGIN")
                .await
                .expect("a role");
        }
        let (source_url, target_url) = (stage.source_url(), stage.target_url());
        let (source_port, target_port) = (stage.source.port(), stage.target.port());
        let (source, target) = (Proxy::start(source_port).await, Proxy::start(target_port).await);
        let through =
            (source.in_front_of(&source_url, source_port), target.in_front_of(&target_url, target_port));
        let workload = load(source_url.clone(), 77);
        let tools = stage.tools();
        let stage = Arc::new(tokio::sync::Mutex::new(stage));
        let saboteur = Arc::new(Saboteur::new(Arc::clone(&stage), [source, target]));
        let program = Program::new(through, &tools, Arc::clone(&saboteur));
        let mut scene = Self { stage, source_url, target_url, workload, program, saboteur };
        scene.program.start();
        scene.program.settles().await;
        scene
    }

    async fn more_traffic(&self) {
        let before = self.workload.acknowledged();
        until("clients' commits", || async { self.workload.acknowledged() >= before + 5 }).await;
    }

    /// Where the database is, found by writing on both sides: exactly one takes it.
    async fn primary(&self) -> Direction {
        let mut writable = Vec::new();
        for (direction, url) in [(Direction::Forward, &self.source_url), (Direction::Back, &self.target_url)]
        {
            let write = "UPDATE customers SET name = name WHERE id = 1";
            let client = connect(url).await;
            let let_in = are_let_in(&client).await;
            match client.batch_execute(write).await {
                Ok(()) => {
                    assert!(let_in, "{direction}: it takes writes, and nobody may connect");
                    writable.push(direction);
                }
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{error:?}");
                }
            }
        }
        assert_eq!(writable.len(), 1, "writable: {writable:?}");
        writable[0]
    }

    /// An operation in the direction that is possible now; it must complete.
    async fn undisturbed(&mut self) {
        for _ in 0..5 {
            if self.program.operate(CutoverMode::Cutover).await == Ended::Completed {
                return self.follow().await;
            }
        }
        panic!("no undisturbed operation completed: {:#?}", self.program.report());
    }

    /// Sends the clients to where the database is.
    async fn follow(&self) {
        match self.primary().await {
            Direction::Forward => self.workload.redirect(self.source_url.clone()),
            Direction::Back => self.workload.redirect(self.target_url.clone()),
        }
        self.more_traffic().await;
    }

    /// Strikes one cell; in the end the database is where it was before the cell, ready for the next.
    async fn strike(&mut self, cell: Cell, from: Direction) -> Ended {
        self.saboteur.arm(cell);
        let ended = self.program.operate(CutoverMode::Cutover).await;
        assert!(self.saboteur.has_struck(), "{cell:?} was not reached: {:#?}", self.program.report());
        let primary = self.primary().await;
        let moved = primary != from;
        assert_eq!(ended == Ended::Completed, moved, "{cell:?}: {ended:?}, and it is at {primary}");
        self.follow().await;
        if moved {
            self.undisturbed().await;
        }
        ended
    }

    async fn both_sides_hold_the_same_rows(&self) {
        let stage = self.stage.lock().await;
        // Written on both sides, or on its way to the other.
        self.workload.limit(Some(0.1));
        let mut last = None;
        for _ in 0..100 {
            let comparison = stage.compare().await;
            if comparison.rows_are_identical() {
                self.workload.limit(Some(200.0));
                return;
            }
            last = Some(comparison);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{last:#?}");
    }
}

/// Every cell of some actions, from the side that `from` leaves.
async fn matrix(pair: Pair, name: &str, from: Direction, actions: &[Action]) {
    let mut scene = Scene::new(pair).await;
    if from == Direction::Back {
        scene.undisturbed().await;
    }
    let begun = Instant::now();
    let mut outcomes: BTreeMap<(Place, Moment, Victim), Ended> = BTreeMap::new();
    let (first, step) = match std::env::var(EXTENT).as_deref() {
        Ok("whole") => (0, 1),
        _ => (usize::try_from(seed::random("crash matrix").1).unwrap_or_default() % PART, PART),
    };
    let mut number = 0;
    for (place, action) in actions.iter().enumerate() {
        for moment in Moment::ALL {
            for victim in Victim::ALL {
                number += 1;
                // Another victim in every row.
                if !(number + place + first).is_multiple_of(step) {
                    continue;
                }
                let cell = Cell { action: *action, moment, victim };
                let ended = scene.strike(cell, from).await;
                outcomes.insert((Place(place), moment, victim), ended);
                if outcomes.len().is_multiple_of(CELLS_PER_COMPARISON) {
                    scene.both_sides_hold_the_same_rows().await;
                }
            }
        }
    }
    scene.both_sides_hold_the_same_rows().await;
    let restarts = scene.program.restarts();
    let Scene { workload, source_url, target_url, program, .. } = scene;
    let record = workload.stop().await;
    let url = if from == Direction::Forward { source_url } else { target_url };
    let check = ledger::check(&url, &record).await.expect("ledger");
    drop(program);
    let mut text = format!("\n{name}: what became of the operation\n{:<18}", "action");
    for (moment, victim) in Moment::ALL.iter().flat_map(|moment| Victim::ALL.map(|victim| (moment, victim))) {
        let _ = write!(text, " {:>9}", format!("{}/{}", moment.short(), victim.short()));
    }
    for (place, action) in actions.iter().enumerate() {
        let _ = write!(text, "\n{:<18}", action.as_str());
        for moment in Moment::ALL {
            for victim in Victim::ALL {
                let ended = outcomes.get(&(Place(place), moment, victim));
                let _ = write!(text, " {:>9}", ended.map_or("", |ended| ended.short()));
            }
        }
    }
    let completed = outcomes.values().filter(|ended| **ended == Ended::Completed).count();
    println!(
        "{text}\n{} cells: {completed} completed, {} as before; {} restarts of the program; {} transactions acknowledged, \
         {} missing, {} twice; {:.0} s",
        outcomes.len(),
        outcomes.len() - completed,
        restarts,
        check.acknowledged,
        check.missing,
        check.duplicates,
        begun.elapsed().as_secs_f64()
    );
    assert_eq!((check.missing, check.duplicates), (0, 0));
}

/// Before the point of no return, and what undoes it.
const BEFORE: [Action; 9] = [
    Action::Arm,
    Action::PauseTraffic,
    Action::TakeFence,
    Action::AwaitMarker,
    Action::AlignSequences,
    Action::SecureTarget,
    Action::ReleaseFence,
    Action::UndoTraffic,
    Action::Disarm,
];
/// The point of no return, and what follows.
const AFTER: [Action; 5] = [
    Action::CommitFence,
    Action::ReadTruth,
    Action::OpenTarget,
    Action::RetargetTraffic,
    Action::ResumeTraffic,
];

#[test]
fn every_action_is_in_the_matrix() {
    let all: std::collections::HashSet<_> = BEFORE.into_iter().chain(AFTER).collect();
    assert_eq!(all, Action::ALL.into_iter().collect());
}

pub(crate) async fn a_cutover_struck_before_its_commit(pair: Pair) {
    matrix(pair, "cutover", Direction::Forward, &BEFORE).await;
}

pub(crate) async fn a_cutover_struck_at_its_commit_and_after(pair: Pair) {
    matrix(pair, "cutover", Direction::Forward, &AFTER).await;
}

pub(crate) async fn a_rollback_struck_before_its_commit(pair: Pair) {
    matrix(pair, "rollback", Direction::Back, &BEFORE).await;
}

pub(crate) async fn a_rollback_struck_at_its_commit_and_after(pair: Pair) {
    matrix(pair, "rollback", Direction::Back, &AFTER).await;
}
