//! Writers that try everything while the fence is held and after it is committed. Whatever the source acknowledged is on
//! the target; whatever is not was refused, and its writer was told where to go.

use std::time::Duration;

use futures_util::SinkExt as _;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRecord};
use pgsluice::demo::replicator::Replicator;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::stage::{COPY_WAIT, Pair, Role, Stage, ask, cut_over, end_of, text};
use crate::harness::threshold::Threshold;
use crate::harness::wait::until;

const FOREVER_MS: u64 = 300_000;

const SCHEMA: &str = "
    CREATE TABLE attacked (id bigserial PRIMARY KEY, who text UNIQUE);
    CREATE TABLE emptied (id int PRIMARY KEY); INSERT INTO emptied VALUES (1), (2);
    CREATE TABLE parted (id int, who text, PRIMARY KEY (id, who)) PARTITION BY LIST (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE SEQUENCE tickets;
    CREATE FUNCTION sneak(who text) RETURNS void LANGUAGE sql SECURITY DEFINER
      AS 'INSERT INTO attacked (who) VALUES (who)';
";
/// By a superuser: a role that neither owns nor may do anything else.
const SOMEBODY: &str = "CREATE ROLE app LOGIN PASSWORD 'app';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;";
/// What only an event trigger refuses, which only a superuser can make.
const DEFINITIONS: [&str; 4] =
    ["a partition and a row in it", "a new column", "CREATE INDEX", "disable the trigger"];

/// Who writes, and how. `{}` stands for the attack's own name, so that what was written can be found.
const ATTACKS: [(&str, &str); 18] = [
    ("plain insert", "INSERT INTO attacked (who) VALUES ('{}')"),
    ("BEGIN READ WRITE", "BEGIN READ WRITE; INSERT INTO attacked (who) VALUES ('{}'); COMMIT"),
    (
        "default_transaction_read_only = off",
        "SET default_transaction_read_only = off; INSERT INTO attacked (who) VALUES ('{}')",
    ),
    ("serializable", "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO attacked (who) VALUES ('{}'); COMMIT"),
    (
        "session_replication_role = replica",
        "SET session_replication_role = replica; INSERT INTO attacked (who) VALUES ('{}')",
    ),
    ("security definer", "SELECT sneak('{}')"),
    (
        "savepoint and retry",
        "DO $$ BEGIN INSERT INTO attacked (who) VALUES ('{}'); EXCEPTION WHEN read_only_sql_transaction THEN RAISE; END $$",
    ),
    ("upsert", "INSERT INTO attacked (who) VALUES ('{}') ON CONFLICT (who) DO UPDATE SET who = excluded.who"),
    (
        "MERGE by CTE",
        "WITH new AS (INSERT INTO attacked (who) VALUES ('{}') RETURNING id) SELECT count(*) FROM new",
    ),
    ("into a partition", "INSERT INTO parted_1 VALUES (1, '{}')"),
    ("by the partitioned table", "INSERT INTO parted VALUES (1, '{}')"),
    ("TRUNCATE", "TRUNCATE emptied"),
    (
        "a partition and a row in it",
        "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2); INSERT INTO parted_2 VALUES (2, '{}')",
    ),
    ("a new column", "ALTER TABLE attacked ADD COLUMN more int"),
    ("CREATE INDEX", "CREATE INDEX ON attacked (who)"),
    ("nextval", "SELECT nextval('tickets')"),
    (
        "SELECT FOR UPDATE and write",
        "BEGIN; SELECT * FROM attacked FOR UPDATE; INSERT INTO attacked (who) VALUES ('{}'); COMMIT",
    ),
    (
        "disable the trigger",
        "BEGIN; ALTER TABLE attacked DISABLE TRIGGER ALL; INSERT INTO attacked (who) VALUES ('{}'); COMMIT",
    ),
];

/// What became of an attack.
struct Met {
    name: &'static str,
    during: String,
    after: String,
}

fn said(outcome: Result<(), tokio_postgres::Error>) -> String {
    match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => match error.as_db_error() {
            Some(error) => format!("{} {}", error.code().code(), error.message()),
            None => error.to_string(),
        },
    }
}

async fn copy(session: &Client, who: &str) -> Result<(), tokio_postgres::Error> {
    let sink = session.copy_in("COPY attacked (who) FROM STDIN").await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from(format!("{who}\n"))).await?;
    sink.finish().await.map(|_| ())
}

/// Begins a cutover whose marker cannot be applied, because of a lock on the target: the fence is held until that is gone.
async fn held_in_the_blackout(
    stage: &Stage,
    replicator: &mut Replicator,
    threshold: &Threshold,
) -> (CutoverRecord, Client) {
    let accepted = ask(replicator, CutoverModeRecord::Cutover, FOREVER_MS).await;
    threshold.reached().await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE attacked IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let source = stage.source_client().await;
    source.batch_execute("INSERT INTO attacked (who) VALUES ('before the fence') ON CONFLICT DO NOTHING; UPDATE attacked SET who = who").await.expect("a write");
    threshold.open();
    let draining = replicator
        .wait_for_status("the fence", COPY_WAIT, |status| {
            status
                .cutover
                .as_ref()
                .is_some_and(|cutover| cutover.epoch == accepted.epoch && cutover.state == "draining")
        })
        .await;
    draining.expect("the fence is held");
    (accepted, target)
}

async fn waiting(client: &Client) -> String {
    text(
        client,
        "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'app'",
    )
    .await
}

/// All of them wait while the fence is held, and are refused when it is committed; those who come later are refused at once.
pub(crate) async fn whatever_they_try_nothing_that_was_acknowledged_is_lost(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let superuser = crate::harness::clusters::connect(&stage.source.url("app")).await;
    superuser.batch_execute(SOMEBODY).await.expect("a role");
    let threshold = Threshold::new();
    let more = format!("cutover.moved_to = \"the new one\"\n{}", threshold.configuration());
    let mut replicator = stage.streaming_with(&more).await;
    let (accepted, target) = held_in_the_blackout(&stage, &mut replicator, &threshold).await;

    let mut under_way: Vec<(&str, JoinHandle<String>)> = Vec::new();
    let is_possible = |name: &str| pair.role == Role::Superuser || !DEFINITIONS.contains(&name);
    for (name, statement) in ATTACKS.into_iter().filter(|(name, _)| is_possible(name)) {
        let session = stage.source_client().await;
        let statement = statement.replace("{}", &format!("{name}, during"));
        under_way.push((name, tokio::spawn(async move { said(session.batch_execute(&statement).await) })));
    }
    let session = stage.source_client().await;
    under_way.push(("COPY", tokio::spawn(async move { said(copy(&session, "COPY, during").await) })));
    // Not a superuser's, and not the owner's.
    let app = crate::harness::clusters::connect(&stage.source.url_as("app", "app", "app")).await;
    let statement = "INSERT INTO attacked (who) VALUES ('another role, during')";
    under_way.push(("another role", tokio::spawn(async move { said(app.batch_execute(statement).await) })));
    let expected = under_way.len().to_string();
    // Only a superuser sees what another role waits for.
    until("all of them waiting", || async { waiting(&superuser).await == expected }).await;
    target.batch_execute("COMMIT").await.expect("unlock");
    let ended = end_of(&mut replicator, &accepted).await;
    assert_eq!(ended.outcome, "completed", "{ended:#?}");

    let mut table = Vec::new();
    for (name, attack) in under_way {
        let during = attack.await.expect("it ends");
        let session = stage.source_client().await;
        let after = match ATTACKS.iter().find(|(known, _)| *known == name) {
            Some((_, statement)) => {
                let statement = statement.replace("{}", &format!("{name}, after"));
                said(session.batch_execute(&statement).await)
            }
            None if name == "COPY" => said(copy(&session, "COPY, after").await),
            None => {
                let app = crate::harness::clusters::connect(&stage.source.url_as("app", "app", "app")).await;
                said(app.batch_execute("INSERT INTO attacked (who) VALUES ('another role, after')").await)
            }
        };
        table.push(Met { name, during, after });
    }
    println!("{:<36} | {:<62} | after the commit", "attack", "while the fence was held");
    for Met { name, during, after } in &table {
        println!("{name:<36} | waited, then {during:<49} | {after}");
    }
    let refused = "25006 pgsluice: this database has moved to the new one";
    for Met { name, during, after } in &table {
        match *name {
            // Values drawn from a sequence of the old side are worth nothing: whoever writes them is refused.
            "nextval" => {}
            _ => assert_eq!((during.as_str(), after.as_str()), (refused, refused), "{name}"),
        }
    }
    let target = stage.target_client().await;
    let there = text(&target, "SELECT string_agg(who, '; ' ORDER BY id) FROM attacked").await;
    assert_eq!(there, "before the fence");
    assert_eq!(text(&target, "SELECT count(*)::text FROM emptied").await, "2");
    assert_eq!(
        text(&source, "SELECT string_agg(who, '; ' ORDER BY id) FROM attacked").await,
        "before the fence"
    );
}

/// A prepared transaction can be committed by anybody at any time: with one there is no cutover, and one that is made under
/// the fence cannot hold anything of it.
pub(crate) async fn commit_prepared_meets_no_fence_because_there_is_none_beside_it(pair: Pair) {
    let options = || crate::harness::clusters::options().setting("max_prepared_transactions", "5");
    let stage = Stage::with_options(pair, options(), options()).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.streaming().await;
    source
        .batch_execute("BEGIN; INSERT INTO attacked (who) VALUES ('prepared'); PREPARE TRANSACTION 'later'")
        .await
        .expect("prepared");
    let request = pgsluice::control::dto::CutoverRequestRecord {
        mode: None,
        max_pause_ms: Some(1_000),
        unverified: true,
    };
    let refused = replicator.api().start_cutover(request, "prepared").await.expect_err("refused");
    assert!(refused.to_string().contains("later"), "{refused}");
    println!("with a prepared transaction: {refused}");
    source.batch_execute("COMMIT PREPARED 'later'").await.expect("committed");
    cut_over(&mut replicator).await;
    let target = stage.target_client().await;
    assert_eq!(text(&target, "SELECT string_agg(who, '; ') FROM attacked").await, "prepared");
}

/// A table that is made inside the blackout is on nobody's list: what is written to it would be left behind.
pub(crate) async fn a_table_that_is_made_inside_the_blackout_ends_the_cutover(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let threshold = Threshold::new();
    let mut replicator = stage.streaming_with(&threshold.configuration()).await;
    for statement in [
        "CREATE TABLE made_inside (id int PRIMARY KEY); INSERT INTO made_inside VALUES (1)",
        "CREATE TABLE made_inside AS SELECT 1 AS id",
        "SELECT lo_from_bytea(4711, 'a large object')",
        "CREATE SEQUENCE made_inside_too; SELECT nextval('made_inside_too')",
    ] {
        let (accepted, target) = held_in_the_blackout(&stage, &mut replicator, &threshold).await;
        let session = stage.source_client().await;
        let made = tokio::spawn(async move { session.batch_execute(statement).await });
        let is_made =
            tokio::time::timeout(Duration::from_millis(500), async { made.await.expect("it ends") }).await;
        target.batch_execute("COMMIT").await.expect("unlock");
        let ended = end_of(&mut replicator, &accepted).await;
        println!(
            "{statement}: {is_made:?}; {} ({})",
            ended.outcome,
            ended.reason.clone().unwrap_or_default()
        );
        assert_eq!(ended.outcome, "aborted", "{statement}: {ended:#?}");
        threshold.close();
        let undo = "DROP TABLE IF EXISTS made_inside; DROP SEQUENCE IF EXISTS made_inside_too";
        source.batch_execute(undo).await.expect("as before");
        source.batch_execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata").await.expect("as before");
    }
    threshold.open();
    source.batch_execute("INSERT INTO attacked (who) VALUES ('goes on')").await.expect("the source goes on");
    cut_over(&mut replicator).await;
    stage.assert_same_rows().await;
}
