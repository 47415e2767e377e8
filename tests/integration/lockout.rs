//! `cutover.lock_out`: whoever may write what no trigger refuses, large objects above all, is kept out of the side that was left,
//! and let in again when that side is the primary once more.

use std::time::Duration;

use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord};
use pgsluice::demo::cluster::LocalCluster;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::cleanup::{catalog, difference};
use crate::harness::clusters::connect;
use crate::harness::stage::{
    COPY_WAIT, Pair, Role, Stage, ask, cut_over, end_of, roll_back, streaming, text, way_back_is_open,
};
use crate::harness::wait::until;

const PAIR: Pair = Pair::of(14, 17);
/// By a superuser: one role that comes in as everybody does, and one that was let in by name and may let others in.
const ROLES: &str = "CREATE ROLE app LOGIN PASSWORD 'app'; CREATE ROLE \"Odd Name\" LOGIN PASSWORD 'odd';
    GRANT CONNECT ON DATABASE app TO \"Odd Name\" WITH GRANT OPTION";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY); GRANT ALL ON t TO PUBLIC";
const LARGE_OBJECT: &str = "SELECT lo_from_bytea(0, 'a large object')";
const CLIENTS: [(&str, &str); 2] = [("app", "app"), ("Odd Name", "odd")];

fn url(side: &LocalCluster, (role, password): (&str, &str)) -> String {
    side.url_as(&role.replace(' ', "%20"), password, "app")
}

async fn sessions(side: &LocalCluster) -> Vec<Client> {
    let mut sessions = Vec::new();
    for client in CLIENTS {
        sessions.push(connect(&url(side, client)).await);
    }
    sessions
}

/// What a role meets that connects now.
async fn refusal(side: &LocalCluster, client: (&str, &str)) -> Option<SqlState> {
    let refused = tokio_postgres::connect(&url(side, client), tokio_postgres::NoTls).await.err()?;
    Some(refused.code().expect("the server's answer").clone())
}

/// Those who had come in are out, and nobody comes in but the role that runs the migration.
async fn nobody_is_let_in(side: &LocalCluster, before: Vec<Client>) {
    for session in before {
        until("the end of a session", || async { session.is_closed() }).await;
        let met = session.batch_execute(LARGE_OBJECT).await.expect_err("its session is over");
        println!("a large object after the commit, by a session that was there: {met}");
    }
    for client in CLIENTS {
        let met = refusal(side, client).await;
        println!("a large object after the commit, by {} who comes anew: {met:?}", client.0);
        assert_eq!(met, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{client:?}");
    }
}

async fn everybody_is_let_in(side: &LocalCluster) {
    for client in CLIENTS {
        assert_eq!(refusal(side, client).await, None, "{client:?}");
    }
}

async fn scene(pair: Pair) -> Stage {
    let stage = Stage::new(pair).await;
    for side in [&stage.source, &stage.target] {
        let superuser = connect(&side.url("app")).await;
        superuser.batch_execute(ROLES).await.expect("roles");
        if pair.role == Role::Owner {
            superuser.batch_execute("GRANT pg_signal_backend TO mover").await.expect("a right");
        }
    }
    stage.source_client().await.batch_execute(TABLE).await.expect("a table");
    stage
}

pub(crate) async fn whoever_is_locked_out_is_let_in_again_by_a_rollback_and_by_cleanup(pair: Pair) {
    let stage = scene(pair).await;
    let before = catalog(&stage.source_client().await).await;
    let mut replicator = stage.streaming_with("cutover.lock_out = true\n").await;

    let (on_source, on_target) = (sessions(&stage.source).await, sessions(&stage.target).await);
    let done = cut_over(&mut replicator).await;
    nobody_is_let_in(&stage.source, on_source).await;
    everybody_is_let_in(&stage.target).await;
    let told = done.certificate.expect("a certificate")["lockout"].clone();
    assert_eq!((&told["sessions_ended"], &told["problem"]), (&2.into(), &serde_json::Value::Null), "{told}");
    on_target[0].batch_execute("INSERT INTO t VALUES (1)").await.expect("the target is open");

    // A process that knows nothing of it has to come in as well, and to keep the way back.
    replicator.signal(nix::sys::signal::Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    let mut replicator = stage.command("cutover.lock_out = true\n").start().expect("the program");
    until("the way back", || async {
        text(&stage.source_client().await, "SELECT count(*)::text FROM t").await == "1"
    })
    .await;
    nobody_is_let_in(&stage.source, Vec::new()).await;

    roll_back(&mut replicator).await;
    everybody_is_let_in(&stage.source).await;
    nobody_is_let_in(&stage.target, on_target).await;
    let on_source = sessions(&stage.source).await;
    on_source[0].batch_execute("INSERT INTO t VALUES (2)").await.expect("the source is open");

    streaming(&mut replicator).await;
    cut_over(&mut replicator).await;
    nobody_is_let_in(&stage.source, on_source).await;
    everybody_is_let_in(&stage.target).await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(10)).await.expect("an end");
    let kept = stage.run(&["cleanup"]);
    assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
    assert!(String::from_utf8_lossy(&kept.stdout).contains("lockout"), "{kept:?}");
    nobody_is_let_in(&stage.source, Vec::new()).await;
    let opened = stage.run(&["cleanup", "--unfence-source"]);
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    assert_eq!(difference(&before, &catalog(&stage.source_client().await).await), Vec::<String>::new());
    everybody_is_let_in(&stage.source).await;
}

/// What cannot be done is known before anybody waits: not half a lockout, and no cutover without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_lock_anybody_out_is_told_before_the_pause() {
    let stage = scene(Pair::owned(15, 17)).await;
    let superuser = connect(&stage.source.url("app")).await;
    let mut replicator = stage.streaming_with("cutover.lock_out = true\n").await;
    for (obstacle, remedy, said) in [
        (
            "ALTER DATABASE app OWNER TO postgres; GRANT CREATE ON DATABASE app TO mover",
            "ALTER DATABASE app OWNER TO mover",
            "belongs to postgres",
        ),
        (
            "REVOKE CONNECT ON DATABASE app FROM mover",
            "GRANT CONNECT ON DATABASE app TO mover",
            "mover itself could not connect",
        ),
        ("BEGIN; GRANT CONNECT ON DATABASE app TO app", "ROLLBACK", "changes the rights on the database"),
        (
            "SET ROLE \"Odd Name\"; GRANT CONNECT ON DATABASE app TO app; RESET ROLE",
            "SET ROLE \"Odd Name\"; REVOKE CONNECT ON DATABASE app FROM app; RESET ROLE",
            "granted by Odd Name",
        ),
    ] {
        superuser.batch_execute(obstacle).await.expect(obstacle);
        let accepted = ask(&replicator, CutoverModeRecord::Cutover, 20_000).await;
        let ended = end_of(&mut replicator, &accepted).await;
        assert_eq!(ended.outcome, "aborted", "{ended:#?}");
        let reason = ended.reason.unwrap_or_default();
        assert!(reason.contains(said), "{reason}");
        everybody_is_let_in(&stage.source).await;
        superuser.batch_execute(remedy).await.expect(remedy);
    }
    let on_source = sessions(&stage.source).await;
    cut_over(&mut replicator).await;
    nobody_is_let_in(&stage.source, on_source).await;
}

/// What was taken is not forgotten as long as it could not be given back: neither a rollback nor a cleanup says that it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_cannot_be_let_in_again_are_not_forgotten() {
    let stage = scene(Pair::owned(15, 17)).await;
    let superuser = connect(&stage.source.url("app")).await;
    let mut replicator = stage.streaming_with("cutover.lock_out = true\n").await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    let taken_away = "ALTER DATABASE app OWNER TO postgres; GRANT CONNECT, CREATE ON DATABASE app TO mover";
    superuser.batch_execute(taken_away).await.expect(taken_away);
    let request = CutoverRequestRecord { mode: None, max_pause_ms: Some(20_000), unverified: true };
    let accepted = replicator.api().start_rollback(request).await.expect("accepted");
    let ended = end_of(&mut replicator, &accepted).await;
    let reason = ended.reason.unwrap_or_default();
    assert!(ended.outcome == "aborted" && reason.contains("cannot be let in again"), "{reason}");
    everybody_is_let_in(&stage.target).await;

    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(10)).await.expect("an end");
    let refused = stage.run(&["cleanup", "--unfence-source"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("cannot be let in again"), "{said}");
    assert_eq!(text(&superuser, "SELECT count(*)::text FROM pgsluice.locked_out").await, "2");
    superuser.batch_execute("ALTER DATABASE app OWNER TO mover").await.expect("the owner again");
    let opened = stage.run(&["cleanup", "--unfence-source"]);
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    everybody_is_let_in(&stage.source).await;
}

/// A process that died between the commit and the end of the sessions leaves it to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_were_left_are_ended_by_the_next_start() {
    let stage = scene(PAIR).await;
    let mut replicator = stage.streaming_with("cutover.lock_out = true\n").await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    replicator.signal(nix::sys::signal::Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    // As if they had never been ended: let in by hand, and shut out again.
    let superuser = connect(&stage.source.url("app")).await;
    superuser.batch_execute("GRANT CONNECT ON DATABASE app TO app").await.expect("let in");
    let session = connect(&url(&stage.source, CLIENTS[0])).await;
    superuser.batch_execute("REVOKE CONNECT ON DATABASE app FROM app").await.expect("shut out");
    session.batch_execute("SELECT 1").await.expect("it is still there");
    // Whatever the configuration says by now.
    let _replicator = stage.command("").start().expect("the program");
    until("the end of the session", || async { session.is_closed() }).await;
}
