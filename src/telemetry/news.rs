//! What is worth telling somebody who watches the cluster and not us: phases, problems, how a cutover, rehearsal, rollback or verification went. Pure
//! is what is made of two statuses, one after the other; the task beside it tells it as Events of the target's cluster.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cutover::{CutoverReport, Outcome};
use crate::kubernetes::cnpg::ClusterWatch;
use crate::kubernetes::{EventAbout, EventKind, EventRecorder};
use crate::migration::{Blocking, CutoverMode, Phase, Status, StatusBoard};
use crate::model::{Direction, counted};
use crate::runtime::Shutdown;
use crate::verify::{VerificationOutcome, VerificationReport};

/// The same thing is not told again within this time.
const REPEATED_AFTER: Duration = Duration::from_secs(600);
/// How long telling why it stops may take.
const LAST_WORDS_BOUND: Duration = Duration::from_secs(2);
/// What was told lately is remembered, as much as this (INV-11).
const REMEMBERED_MAX: usize = 64;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    kind: EventKind,
    /// One word in camel case.
    reason: String,
    message: String,
}

/// What was told of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    phase: Phase,
    problem: Option<String>,
    /// Epoch and outcome.
    operation: Option<(i64, &'static str)>,
    /// Number and outcome.
    verification: Option<(i64, &'static str)>,
}

impl Seen {
    fn of(status: &Status) -> Self {
        Self {
            phase: status.phase,
            problem: status.problem.as_ref().map(|problem| problem.message.clone()),
            operation: status.cutover.as_ref().map(|report| (report.epoch, report.outcome.as_str())),
            verification: status.verification.as_ref().map(|report| (report.number, report.outcome.as_str())),
        }
    }
}

/// What is new in `status`.
fn news(before: &Seen, status: &Status) -> Vec<News> {
    let mut news = Vec::new();
    if status.phase != before.phase {
        let kind = if status.phase == Phase::Halted { EventKind::Warning } else { EventKind::Normal };
        let message = format!("The migration is in phase {}.", status.phase.as_str().replace('_', " "));
        news.push(News { kind, reason: "PhaseEntered".into(), message });
    }
    let seen = Seen::of(status);
    if let Some(problem) = status.problem.as_ref().filter(|_| seen.problem != before.problem) {
        let reason = match problem.blocking {
            Blocking::Retrying => "Retrying",
            Blocking::WaitingForOperator => "WaitsForOperator",
            Blocking::Halted => "Halted",
        };
        let message = format!("{} {}", sentence(&problem.message), problem.remedy);
        news.push(News { kind: EventKind::Warning, reason: reason.into(), message });
    }
    if status.problem.is_none() && before.problem.is_some() {
        let message = "The migration goes on.".to_owned();
        news.push(News { kind: EventKind::Normal, reason: "ProblemOver".into(), message });
    }
    // One that ended before this process began was told by the one that ended it.
    let is_ours = |report: &&CutoverReport| report.ended_at.is_none_or(|at| at >= status.started_at);
    let operation = status.cutover.as_ref().filter(|_| seen.operation != before.operation);
    if let Some(report) = operation.filter(is_ours) {
        news.push(of_operation(report));
    }
    let is_ours = |report: &&VerificationReport| report.ended_at.is_some_and(|at| at >= status.started_at);
    let verification = status.verification.as_ref().filter(|_| seen.verification != before.verification);
    news.extend(verification.filter(is_ours).and_then(of_verification));
    news
}

/// Only the end is told: one may begin by itself every few hours.
fn of_verification(report: &VerificationReport) -> Option<News> {
    let rows = report.rows_compared;
    let (kind, ending, message) = match &report.outcome {
        VerificationOutcome::Running => return None,
        VerificationOutcome::Clean => {
            let objects = match report.structural_differences() {
                0 => String::new(),
                objects => format!(
                    " Of the structure {} not the same.",
                    counted(objects, "object is", "objects are")
                ),
            };
            let kind = if objects.is_empty() { EventKind::Normal } else { EventKind::Warning };
            (
                kind,
                "Clean",
                format!("Every row that was compared ({rows}) is the same on both sides.{objects}"),
            )
        }
        VerificationOutcome::Differences => {
            let message = format!(
                "{} not the same on both sides, of {rows}: see `pgsluice verify --show`.",
                counted(report.differences, "row is", "rows are")
            );
            (EventKind::Warning, "Differences", message)
        }
        VerificationOutcome::Incomplete { reason, remedy } => {
            let message = format!("Not everything could be compared: {} {remedy}", sentence(reason));
            (EventKind::Warning, "Incomplete", message)
        }
    };
    Some(News { kind, reason: format!("Verification{ending}"), message })
}

fn of_operation(report: &CutoverReport) -> News {
    let (word, what) = match (report.mode, report.direction) {
        (CutoverMode::Rehearsal, _) => ("Rehearsal", "rehearsal"),
        (CutoverMode::Cutover, Direction::Forward) => ("Cutover", "cutover"),
        (CutoverMode::Cutover, Direction::Back) => ("Rollback", "rollback"),
    };
    let pause = report
        .pause
        .map_or_else(String::new, |pause| format!(" Writers waited {:.1} ms.", pause.as_secs_f64() * 1000.0));
    let (kind, ending, message) = match &report.outcome {
        Outcome::Running => (EventKind::Normal, "Started", format!("A {what} has begun.")),
        Outcome::Completed => (EventKind::Normal, "Completed", format!("The {what} is completed.{pause}")),
        Outcome::Aborted { reason, remedy } => {
            let message = format!("The {what} was rolled back: {} {remedy}", sentence(reason));
            (EventKind::Warning, "Aborted", message)
        }
        Outcome::InDoubt { reason, remedy } => {
            let message =
                format!("The {what} is in doubt, neither side is opened: {} {remedy}", sentence(reason));
            (EventKind::Warning, "InDoubt", message)
        }
    };
    News { kind, reason: format!("{word}{ending}"), message }
}

fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// What was told lately.
#[derive(Debug, Default)]
struct Told(VecDeque<(News, Instant)>);

impl Told {
    /// Whether it was not, which it is from now on. Progress is told each time; only problems come back again and again.
    fn is_news(&mut self, news: &News, now: Instant) -> bool {
        while self.0.front().is_some_and(|(_, at)| now.duration_since(*at) >= REPEATED_AFTER) {
            self.0.pop_front();
        }
        let repeats = matches!(news.reason.as_str(), "Retrying" | "WaitsForOperator" | "ProblemOver");
        if repeats && self.0.iter().any(|(told, _)| told == news) {
            return false;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((news.clone(), now));
        true
    }
}

/// Tells what happens as Events of the cluster, until shutdown.
pub async fn tell_cluster(
    board: StatusBoard,
    cluster: ClusterWatch,
    recorder: EventRecorder,
    shutdown: Shutdown,
) {
    let mut changes = board.subscribe();
    let mut teller = Teller { seen: board.with(Seen::of), told: Told::default(), cluster, recorder };
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
        let status = changes.borrow_and_update().clone();
        tokio::select! {
            () = shutdown.requested() => break,
            () = teller.tell(&status) => {}
        }
    }
    // Why it stops is worth the most.
    let _ = tokio::time::timeout(LAST_WORDS_BOUND, teller.tell(&board.read())).await;
}

/// Tells what is new, and remembers that it was.
struct Teller {
    seen: Seen,
    told: Told,
    cluster: ClusterWatch,
    recorder: EventRecorder,
}

impl Teller {
    async fn tell(&mut self, status: &Status) {
        let Some(about) = about(&self.cluster) else { return };
        for item in news(&self.seen, status) {
            if self.told.is_news(&item, Instant::now()) {
                self.recorder.tell(&about, item.kind, &item.reason, &item.message).await;
            }
        }
        self.seen = Seen::of(status);
    }
}

/// The Cluster object, once it was seen.
fn about(cluster: &ClusterWatch) -> Option<EventAbout> {
    let state = cluster.sight().state?;
    Some(EventAbout {
        api_version: "postgresql.cnpg.io/v1",
        kind: "Cluster",
        namespace: state.namespace,
        name: state.name,
        uid: state.uid,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::migration::Problem;

    fn status(change: impl FnOnce(&mut Status)) -> Status {
        let board = StatusBoard::new(Timestamp::now());
        board.update(change);
        board.read()
    }

    fn problem(message: &str) -> Problem {
        Problem {
            message: message.into(),
            remedy: "Wait.".into(),
            at: Timestamp::now(),
            blocking: Blocking::Retrying,
        }
    }

    #[test]
    fn a_phase_is_told_once_when_it_is_entered() {
        let (before, after) = (status(|_| {}), status(|status| status.phase = Phase::RollbackWindow));
        let told = news(&Seen::of(&before), &after);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].message, "The migration is in phase rollback window.");
        assert_eq!(news(&Seen::of(&after), &after), []);
    }

    #[test]
    fn a_problem_is_told_with_its_remedy_and_so_is_its_end() {
        let (well, ill) = (status(|_| {}), status(|status| status.problem = Some(problem("it broke"))));
        let told = news(&Seen::of(&well), &ill);
        assert_eq!((told[0].kind, told[0].reason.as_str()), (EventKind::Warning, "Retrying"));
        assert_eq!(told[0].message, "it broke. Wait.");
        assert_eq!(news(&Seen::of(&ill), &well)[0].reason, "ProblemOver");
    }

    #[test]
    fn a_verification_is_told_when_it_has_ended() {
        use crate::verify::Scope;
        let begun = VerificationReport::begun(3, Direction::Forward, Scope::Rows, Timestamp::now());
        let before = Seen::of(&status(|_| {}));
        let told =
            |report: VerificationReport| news(&before, &status(|status| status.verification = Some(report)));
        assert_eq!(told(begun.clone()), []);
        let end = |change: fn(&mut VerificationReport)| {
            let mut report = VerificationReport { rows_compared: 20, ..begun.clone() };
            change(&mut report);
            report.end(Timestamp::now() + Duration::from_secs(1), None);
            let told = told(report);
            assert_eq!(told.len(), 1);
            (told[0].kind, told[0].reason.clone(), told[0].message.clone())
        };
        let clean = end(|_| {});
        let message = "Every row that was compared (20) is the same on both sides.".to_owned();
        assert_eq!(clean, (EventKind::Normal, "VerificationClean".into(), message));
        let differs = end(|report| report.differences = 1);
        let message = "1 row is not the same on both sides, of 20: see `pgsluice verify --show`.".to_owned();
        assert_eq!(differs, (EventKind::Warning, "VerificationDifferences".into(), message));
        let (_, reason, _) = end(|report| report.rows_compared = 0);
        assert_eq!(reason, "VerificationIncomplete");
    }

    #[test]
    fn an_operation_is_told_when_it_begins_and_how_it_ended() {
        let report = |outcome| CutoverReport {
            epoch: 7,
            mode: CutoverMode::Cutover,
            direction: Direction::Forward,
            idempotency_key: None,
            state: "x",
            outcome,
            started_at: Timestamp::now(),
            ended_at: None,
            steps: Vec::new(),
            pause: Some(Duration::from_micros(41_270)),
            certificate: None,
        };
        let before = Seen::of(&status(|_| {}));
        let told = |outcome| {
            let status = status(|status| status.cutover = Some(report(outcome)));
            let told = news(&before, &status);
            assert_eq!(told.len(), 1);
            (told[0].reason.clone(), told[0].message.clone())
        };
        assert_eq!(told(Outcome::Running).0, "CutoverStarted");
        let completed = told(Outcome::Completed);
        assert_eq!(
            completed,
            ("CutoverCompleted".into(), "The cutover is completed. Writers waited 41.3 ms.".into())
        );
        let aborted = told(Outcome::Aborted { reason: "too slow".into(), remedy: "Try again.".into() });
        assert_eq!(aborted.0, "CutoverAborted");
        assert!(aborted.1.ends_with("rolled back: too slow. Try again."), "{}", aborted.1);
    }

    #[test]
    fn what_flaps_is_told_once_in_a_while_and_progress_each_time() {
        let (mut told, begin) = (Told::default(), Instant::now());
        let retrying =
            News { kind: EventKind::Warning, reason: "Retrying".into(), message: "it broke".into() };
        let phase = News { kind: EventKind::Normal, reason: "PhaseEntered".into(), message: "copy".into() };
        assert!(told.is_news(&retrying, begin) && told.is_news(&phase, begin));
        assert!(!told.is_news(&retrying, begin + Duration::from_secs(60)));
        assert!(told.is_news(&phase, begin + Duration::from_secs(60)));
        assert!(told.is_news(&retrying, begin + REPEATED_AFTER));
        for _ in 0..1_000 {
            told.is_news(&phase, begin + REPEATED_AFTER);
        }
        assert!(told.0.len() <= REMEMBERED_MAX);
    }
}
