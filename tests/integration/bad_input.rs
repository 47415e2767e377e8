//! What an operator can get wrong: each ends with a short error, its remedy and the right exit code, and changes nothing
//! on either side.

use std::process::Output;

use pgsluice::demo::cluster::ClusterOptions;
use pgsluice::demo::replicator::ReplicatorCommand;

use crate::harness::clusters::{connect, options};
use crate::harness::stage::{Pair, Stage};

const PAIR: Pair = Pair::of(14, 17);
/// A paragraph, not a page.
const MESSAGE_CHARS_MAX: usize = 1_500;

struct Fixture {
    stage: Stage,
    before: String,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(
            options(),
            "CREATE TABLE shop (id int PRIMARY KEY, v text); INSERT INTO shop VALUES (1, 'x')",
        )
        .await
    }

    async fn with(source: ClusterOptions, schema: &str) -> Self {
        let stage = Stage::with_options(PAIR, source, options()).await;
        stage.source_client().await.batch_execute(schema).await.expect("schema");
        let before = everything(&stage).await;
        Self { stage, before }
    }

    /// Runs the program to its end and checks exit code, words and that nothing was changed.
    async fn refused(&self, command: &ReplicatorCommand, code: i32, words: &[&str]) {
        command.write_configuration(1).expect("configuration");
        self.refused_as_written(command, code, words).await;
    }

    async fn refused_as_written(&self, command: &ReplicatorCommand, code: i32, words: &[&str]) {
        for verb in ["check", "run"] {
            let output = ended(command, verb).await;
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            // Log lines are not the message.
            let message: String =
                said.lines().filter(|line| !line.starts_with('{')).collect::<Vec<_>>().join("\n");
            assert_eq!(output.status.code(), Some(code), "{verb}: {said}");
            for word in words {
                assert!(message.contains(word), "{verb}: {word:?} is not in: {message}");
            }
            assert!(message.chars().count() <= MESSAGE_CHARS_MAX, "{verb} says too much: {message}");
            assert!(!said.contains("throwaway") && !said.contains("swordfish"), "a password is in: {said}");
        }
        assert_eq!(everything(&self.stage).await, self.before, "something was changed");
    }
}

async fn ended(command: &ReplicatorCommand, verb: &str) -> Output {
    let mut command = command.command(&[verb]);
    // On a port that is free for sure: nobody is to answer there.
    command.env("PGSLUICE_API__LISTEN", "127.0.0.1:0");
    let child = tokio::process::Command::from(command).kill_on_drop(true).output();
    tokio::time::timeout(std::time::Duration::from_secs(60), child)
        .await
        .expect("an end")
        .expect("the program")
}

/// The schema of both sides and all slots: a migration that was refused has left no trace.
async fn everything(stage: &Stage) -> String {
    let mut all = stage.dump_source_schema() + &stage.slots().await;
    for url in [stage.source_url(), stage.target_url()] {
        let query = "SELECT coalesce(string_agg(kind || name, ',' ORDER BY kind, name), '') FROM (
            SELECT 'schema ' AS kind, nspname::text AS name FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
            UNION ALL SELECT 'table ', relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'publication ', pubname FROM pg_publication
            UNION ALL SELECT 'origin ', roname FROM pg_replication_origin) AS objects";
        all += &crate::harness::stage::text(&connect(&url).await, query).await;
    }
    all
}

#[tokio::test]
async fn a_wrong_password_is_named_as_such() {
    let fixture = Fixture::new().await;
    for side in ["source", "target"] {
        let mut command = fixture.stage.command("");
        let url = if side == "source" { &mut command.source_url } else { &mut command.target_url };
        *url = url.replace("throwaway", "swordfish");
        fixture.refused(&command, 2, &["password", side]).await;
    }
}

#[tokio::test]
async fn an_unreachable_host_is_named_with_its_address() {
    let fixture = Fixture::new().await;
    for side in ["source", "target"] {
        let mut command = fixture.stage.command("");
        let url = if side == "source" { &mut command.source_url } else { &mut command.target_url };
        *url = "postgres://postgres:swordfish@127.0.0.1:9/app?sslmode=disable".into();
        fixture.refused(&command, 2, &["127.0.0.1", "9", side]).await;
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_with_what_was_probably_meant() {
    let fixture = Fixture::new().await;
    fixture
        .refused(&fixture.stage.command("cutover.max_pause = 500\n"), 2, &["max_pause", "max_pause_ms"])
        .await;
}

#[tokio::test]
async fn a_missing_url_is_asked_for() {
    let fixture = Fixture::new().await;
    let command = fixture.stage.command("");
    command.write_configuration(1).expect("configuration");
    std::fs::write(command.configuration_path(), format!("source.url = {:?}\n", command.source_url))
        .expect("file");
    fixture.refused_as_written(&command, 2, &["target.url"]).await;
}

#[tokio::test]
async fn a_wal_level_below_logical_is_a_blocker() {
    let schema = "CREATE TABLE shop (id int PRIMARY KEY)";
    let fixture = Fixture::with(options().setting("wal_level", "replica"), schema).await;
    fixture.refused(&fixture.stage.command(""), 3, &["wal_level", "logical", "restart"]).await;
}

#[tokio::test]
async fn no_free_slot_is_a_blocker() {
    let schema = "CREATE TABLE shop (id int PRIMARY KEY)";
    let mut fixture = Fixture::with(options().setting("max_replication_slots", "1"), schema).await;
    let source = fixture.stage.source_client().await;
    source.query("SELECT pg_create_physical_replication_slot('taken')", &[]).await.expect("slot");
    fixture.before = everything(&fixture.stage).await;
    fixture.refused(&fixture.stage.command(""), 3, &["max_replication_slots"]).await;
}

/// Trap 19.
#[tokio::test]
async fn a_table_without_replica_identity_is_a_blocker_and_goes_on_working() {
    let schema = "CREATE TABLE shop (id int PRIMARY KEY); CREATE TABLE \"no Key\" (v text); INSERT INTO \"no Key\" VALUES ('a')";
    let fixture = Fixture::with(options(), schema).await;
    fixture.refused(&fixture.stage.command(""), 3, &["no Key", "REPLICA IDENTITY"]).await;
    let source = fixture.stage.source_client().await;
    source
        .batch_execute("UPDATE \"no Key\" SET v = 'b'; DELETE FROM \"no Key\"")
        .await
        .expect("the source's own writes");
}

#[tokio::test]
async fn a_target_with_rows_in_it_is_a_blocker() {
    let mut fixture = Fixture::new().await;
    let target = fixture.stage.target_client().await;
    target
        .batch_execute("CREATE TABLE shop (id int PRIMARY KEY, v text); INSERT INTO shop VALUES (7, 'mine')")
        .await
        .expect("rows");
    fixture.before = everything(&fixture.stage).await;
    for mode in ["copy", "existing"] {
        let command = fixture.stage.command(&format!("schema.mode = {mode:?}\n"));
        fixture.refused(&command, 3, &["shop"]).await;
    }
}

#[tokio::test]
async fn a_table_that_the_target_does_not_have_is_a_blocker() {
    let fixture = Fixture::new().await;
    fixture.refused(&fixture.stage.command("schema.mode = \"existing\"\n"), 3, &["public.shop"]).await;
}

#[tokio::test]
async fn a_source_and_target_that_are_the_same_database_are_refused() {
    let fixture = Fixture::new().await;
    let mut command = fixture.stage.command("");
    command.target_url.clone_from(&command.source_url);
    fixture.refused(&command, 2, &["same database"]).await;
}

/// Arguments that are no text, and an output that nobody reads, are no reason to panic (exit code 101).
#[test]
fn arguments_that_are_no_text_and_a_closed_output_end_in_good_order() {
    use std::os::unix::ffi::OsStrExt as _;
    let program = || std::process::Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    for arguments in [vec![no_text], vec![std::ffi::OsStr::new("--output=json"), no_text]] {
        let output = program().args(&arguments).output().expect("the program");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    for command in ["config-reference", "completions bash"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = program().args(command.split(' ')).stdout(writer).output().expect("the program");
        assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
