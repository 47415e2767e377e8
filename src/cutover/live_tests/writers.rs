//! Writers in the fence's way: those that do not end, those that wait for each other and for the fence, those that began
//! before it was armed. None of them meets an error unless the fence is committed, and none is missed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::rig::{Rig, client, run};
use super::{PAUSE, error_of};
use crate::cutover::{Action, Again, Nonce, Outcome, Probe};
use crate::migration::CutoverMode;
use crate::model::Side;
use crate::source::fence::{self, ArmBound, FenceError, FenceTerms};

/// A writer that inserts and keeps its transaction open until told.
async fn open_writer(url: &str) -> Client {
    let writer = client(url).await;
    writer
        .batch_execute(
            "SET application_name = 'slow shop'; BEGIN; INSERT INTO public.orders (note) VALUES ('slow')",
        )
        .await
        .expect("a write");
    writer
}

/// A writer that begins once everything is armed, right before the pause.
#[derive(Debug)]
pub(super) struct Latecomer {
    url: String,
    writer: Mutex<Option<Client>>,
}

impl Latecomer {
    pub(super) fn of(rig: &mut Rig) -> Arc<Self> {
        let latecomer = Arc::new(Self { url: rig.old_url(), writer: Mutex::new(None) });
        rig.ctx.probe = Some(Arc::clone(&latecomer) as _);
        latecomer
    }

    pub(super) async fn writer(&self) -> Client {
        self.writer.lock().await.take().expect("it came")
    }
}

#[async_trait]
impl Probe for Latecomer {
    async fn before(&self, action: Action) {
        if action == Action::PauseTraffic {
            *self.writer.lock().await = Some(open_writer(&self.url).await);
        }
    }

    async fn after(&self, _: Action) -> Again {
        Again::No
    }
}

fn terms() -> FenceTerms {
    FenceTerms {
        epoch: 9,
        nonce: Nonce::random(),
        publication: "pgsluice".into(),
        moved_to: "elsewhere".into(),
        max_pause: PAUSE,
        on_writers: crate::config::OnWriters::Wait,
        lock_out: false,
    }
}

#[tokio::test]
async fn a_writer_that_does_not_end_makes_the_cutover_roll_back_and_is_named() {
    let mut rig = Rig::quick(&[]).await;
    let latecomer = Latecomer::of(&mut rig);
    let other = client(&rig.old_url()).await;
    let allowed = Duration::from_millis(700);
    let (_, mut running) = rig.start(CutoverMode::Cutover, allowed).await.expect("accepted");
    let blocked = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for _ in 0..300 {
            let began = Instant::now();
            other
                .batch_execute("INSERT INTO items (note) VALUES ('busy')")
                .await
                .expect("no error for writers");
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        longest
    });
    let report = running.finished().await;
    let Outcome::Aborted { reason, remedy } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("700 ms") && reason.contains("(slow shop), idle in transaction"), "{reason}");
    assert!(remedy.contains("accepts writes as before"), "{remedy}");
    let pause = report.pause.expect("measured");
    assert!(pause >= allowed && pause < allowed + Duration::from_secs(1), "{pause:?}");
    latecomer
        .writer()
        .await
        .batch_execute("INSERT INTO items (note) VALUES ('still here'); COMMIT")
        .await
        .expect("the writer goes on");
    let longest = blocked.await.expect("no writer met an error");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    println!("longest wait of a writer over the tries: {longest:?}");
}

#[tokio::test]
async fn an_abort_while_the_locks_are_waited_for_frees_everybody_at_once() {
    let mut rig = Rig::quick(&[]).await;
    let latecomer = Latecomer::of(&mut rig);
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "fencing").await;
    let began = Instant::now();
    running.abort().expect("before the point of no return");
    let report = running.finished().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(matches!(report.outcome, Outcome::Aborted { .. }), "{report:#?}");
    run(&rig.old_url(), "SET lock_timeout = 100; INSERT INTO items (note) VALUES ('free'); TRUNCATE items")
        .await;
    latecomer.writer().await.batch_execute("COMMIT").await.expect("goes on");
}

#[tokio::test]
async fn writers_in_the_way_are_terminated_when_the_operator_says_so() {
    let rig = Rig::quick(&[("PGSLUICE_CUTOVER__ON_WRITERS", "terminate")]).await;
    let writer = open_writer(&rig.old_url()).await;
    let elsewhere = client(&rig.old_url()).await;
    elsewhere.batch_execute("BEGIN; INSERT INTO unpublished DEFAULT VALUES").await.expect("a write");
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(writer.batch_execute("COMMIT").await.is_err());
    assert!(elsewhere.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn a_writer_that_waits_for_the_fence_with_a_transaction_id_does_not_hang_it() {
    let rig = Rig::quick(&[]).await;
    // Writes elsewhere first, then wants a fenced table: it would wait for us while we wait for it.
    let url = rig.old_url();
    let writers = tokio::spawn(async move {
        let session = client(&url).await;
        for _ in 0..400 {
            session
                .batch_execute("BEGIN; INSERT INTO unpublished DEFAULT VALUES; SELECT nextval('untouched'); INSERT INTO orders (note) VALUES ('x'); UPDATE items SET note = 'y'; COMMIT")
                .await
                .expect("no error for writers");
        }
    });
    let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    println!("{:?}", report.steps.iter().find(|step| step.name == "fence_source"));
    writers.await.expect("no writer met an error");
}

#[tokio::test]
async fn a_writer_that_began_before_it_was_armed_is_waited_for_before_the_pause_and_named() {
    let rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    let writer = open_writer(&rig.old_url()).await;
    let control = rig.session(Side::Source).await;
    let plan = fence::read_plan(&control, "pgsluice").await.expect("a plan");
    let armed = fence::arm(&control, &plan, &terms(), ArmBound(Duration::from_millis(300))).await;
    let Err(error @ FenceError::OlderWriter { .. }) = armed else { panic!("{armed:?}") };
    assert!(error.to_string().contains("slow shop"), "{error}");
    // Nobody waits meanwhile, and it goes on itself.
    run(&rig.old_url(), "SET lock_timeout = 100; INSERT INTO orders (note) VALUES ('free'); TRUNCATE items")
        .await;
    writer.batch_execute("INSERT INTO items (note) VALUES ('goes on'); COMMIT").await.expect("goes on");
    fence::arm(&control, &plan, &terms(), ArmBound(Duration::from_secs(5))).await.expect("armed");
}

/// Without the wait its first row would be committed after the fence: the second is refused, and it forgives that.
#[tokio::test]
async fn a_writer_that_forgives_the_refusal_commits_nothing_that_the_fence_does_not_know() {
    let mut rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    let writer = open_writer(&rig.old_url()).await;
    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        assert_eq!(running.report().state, "arming", "it waits for the writer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writer.batch_execute("SAVEPOINT s").await.expect("a savepoint");
    writer.batch_execute("INSERT INTO items (note) VALUES ('second')").await.expect("nobody holds it up");
    writer.batch_execute("COMMIT").await.expect("committed before the fence");
    rig.until(|report| report.state == "draining").await;
    rig.let_the_stream_run();
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_snapshot_from_before_the_fence_does_not_hide_it() {
    let mut rig = Rig::quick(&[]).await;
    rig.stall_the_stream().await;
    let mut readers = Vec::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let session = client(&rig.old_url()).await;
        session
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders"))
            .await
            .expect("a snapshot");
        readers.push((level, session));
    }
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    let waiting: Vec<_> = readers
        .into_iter()
        .map(|(level, session)| {
            let writes =
                async move { error_of(&session, "INSERT INTO orders (note) VALUES ('late')").await.0 };
            (level, tokio::spawn(writes))
        })
        .collect();
    let all = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgsluice.turnstile'::regclass";
    let old = client(&rig.old_url()).await;
    while super::value(&old, all).await < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.let_the_stream_run();
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
    for (level, writer) in waiting {
        assert_eq!(writer.await.expect("it ends"), "25006", "{level}");
    }
    assert_eq!(super::value(&old, "SELECT count(*) FROM orders").await, 0);
}

/// Whatever the order in which they take their tables and sequences, one try is enough.
#[tokio::test]
async fn writers_in_opposite_orders_are_fenced_at_once() {
    let rig = Rig::quick(&[]).await;
    let orders = [
        "BEGIN; INSERT INTO orders (note) VALUES ('a'); SELECT pg_sleep(0.005); UPDATE items SET note = 'b' WHERE id = 0; \
         INSERT INTO events VALUES (now(), (random() * 1e9)::int) ON CONFLICT DO NOTHING; COMMIT",
        "BEGIN; INSERT INTO events VALUES (now(), (random() * 1e9)::int) ON CONFLICT DO NOTHING; SELECT pg_sleep(0.005); \
         INSERT INTO items (note) VALUES ('b'); INSERT INTO orders (note) VALUES ('a'); COMMIT",
    ];
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..6 {
        let (url, stop) = (rig.old_url(), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let session = client(&url).await;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                session.batch_execute(orders[number % 2]).await.expect("no error for writers");
            }
        }));
    }
    for _ in 0..5 {
        let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        let fenced = report.steps.iter().find(|step| step.name == "fence_source").expect("a fence");
        println!("{:?} {:?}", fenced.duration, fenced.detail);
        assert!(fenced.detail.as_deref().is_some_and(|detail| detail.ends_with(", 1 try")), "{fenced:?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no writer met an error");
    }
}

#[tokio::test]
async fn who_only_reads_is_not_in_the_way_and_a_definition_under_way_is_named() {
    let rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    // As pg_dump does with every table there is, ours among them.
    let reader = client(&rig.old_url()).await;
    reader
        .batch_execute("BEGIN; LOCK TABLE orders, pgsluice.turnstile, pgsluice.fence IN ACCESS SHARE MODE")
        .await
        .expect("a reader");
    rig.rehearse().await;
    reader.batch_execute("COMMIT").await.expect("ends");
    let other = client(&rig.old_url()).await;
    other
        .batch_execute(
            "SET application_name = 'a builder'; BEGIN; LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE",
        )
        .await
        .expect("a lock");
    let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    let Outcome::Aborted { reason, .. } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("public.orders") && reason.contains("a builder"), "{reason}");
    assert_eq!(report.pause, None, "no writer has waited");
}

/// What stays after a rehearsal costs writers next to nothing: they pass no turnstile any more.
#[tokio::test]
async fn after_an_operation_the_turnstile_is_out_of_the_way() {
    let rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    let session = client(&rig.old_url()).await;
    session.batch_execute("BEGIN; INSERT INTO orders (note) VALUES ('x')").await.expect("a write");
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'pgsluice.turnstile'::regclass";
    assert_eq!(super::value(&session, held).await, 0);
}

/// As by a process that died while it was tidying up, whose statement comes late.
#[tokio::test]
async fn a_turnstile_that_was_taken_out_of_the_way_meanwhile_ends_it_before_the_pause() {
    let rig = Rig::quick(&[]).await;
    let control = rig.session(Side::Source).await;
    let plan = fence::read_plan(&control, "pgsluice").await.expect("a plan");
    fence::arm(&control, &plan, &terms(), ArmBound(Duration::from_secs(5))).await.expect("armed");
    let plan = fence::read_plan(&control, "pgsluice").await.expect("a plan");
    let mut held = fence::Fence::prepare(rig.session(Side::Source).await, plan).await.expect("a fence");
    fence::stand_down(&control).await.expect("out of the way");
    let bypassed = held.take(&control, &terms()).await;
    assert!(matches!(bypassed, Err(FenceError::Bypassed)), "{bypassed:?}");
    held.release(&control).await.expect("released");
    // Under the fence it cannot be taken out of the way.
    fence::arm(&control, &held_plan(&control).await, &terms(), ArmBound(Duration::from_secs(5)))
        .await
        .expect("armed");
    held.take(&control, &terms()).await.expect("fenced");
    fence::stand_down(&control).await.expect_err("it waits for the fence");
    run(&rig.old_url(), "SET lock_timeout = 100; SELECT count(*) FROM orders").await;
    let late = client(&rig.old_url()).await;
    let (code, ..) =
        error_of(&late, "SET lock_timeout = 100; INSERT INTO orders (note) VALUES ('late')").await;
    assert_eq!(code, "55P03", "it waits");
}

async fn held_plan(control: &Client) -> fence::FencePlan {
    fence::read_plan(control, "pgsluice").await.expect("a plan")
}
