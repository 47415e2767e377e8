//! Two servers, the program between them, and the questions that every test asks.

use std::process::Output;
use std::time::{Duration, Instant};

use pgsluice::control::dto::{CutoverModeRecord, CutoverRecord, CutoverRequestRecord};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, SUPERUSER};
use pgsluice::demo::compare::{ComparedSide, Comparison, compare_rows, compare_selected, compare_sequences};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tokio_postgres::Client;

use super::clusters::{connect, installation, options, start_with};
use super::secrets::{Folder, OWNER_PASSWORD};
use super::wait::until;

/// Longest way from nothing to streaming, on a busy machine.
pub(crate) const COPY_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for the target to have what the source has.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
const CUTOVER_WAIT: Duration = Duration::from_secs(60);

/// Major versions of source and target, and who the program and the clients are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) source: u32,
    pub(crate) target: u32,
    pub(crate) role: Role,
}

/// Who owns everything and runs the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Superuser,
    /// As on RDS and Neon: owns the database, has REPLICATION, and may set `session_replication_role`.
    Owner,
}

impl Pair {
    pub(crate) const fn of(source: u32, target: u32) -> Self {
        Self { source, target, role: Role::Superuser }
    }

    pub(crate) const fn owned(source: u32, target: u32) -> Self {
        Self { source, target, role: Role::Owner }
    }
}

const OWNER: &str = "mover";

/// A test's servers. The database on both sides is called `app`.
pub(crate) struct Stage {
    pub(crate) source: LocalCluster,
    pub(crate) target: LocalCluster,
    folder: Folder,
    target_major: u32,
    role: Role,
}

impl Stage {
    pub(crate) async fn new(pair: Pair) -> Self {
        Self::with_options(pair, options(), options()).await
    }

    pub(crate) async fn with_options(pair: Pair, source: ClusterOptions, target: ClusterOptions) -> Self {
        let (source, target) = tokio::join!(start_with(pair.source, source), start_with(pair.target, target));
        for cluster in [&source, &target] {
            let client = connect(&cluster.url("postgres")).await;
            if pair.role == Role::Owner {
                let role = format!(
                    "CREATE ROLE {OWNER} LOGIN REPLICATION PASSWORD '{OWNER_PASSWORD}';
                     GRANT SET ON PARAMETER session_replication_role TO {OWNER}"
                );
                client.batch_execute(&role).await.expect("role");
            }
            let owner = if pair.role == Role::Owner { OWNER } else { SUPERUSER };
            client.batch_execute(&format!("CREATE DATABASE app OWNER {owner}")).await.expect("database");
        }
        Self { source, target, folder: Folder::new(), target_major: pair.target, role: pair.role }
    }

    pub(crate) fn source_url(&self) -> String {
        self.url_of(&self.source)
    }

    pub(crate) fn target_url(&self) -> String {
        self.url_of(&self.target)
    }

    fn url_of(&self, cluster: &LocalCluster) -> String {
        match self.role {
            Role::Superuser => cluster.url("app"),
            Role::Owner => cluster.url_as(OWNER, OWNER_PASSWORD, "app"),
        }
    }

    pub(crate) async fn source_client(&self) -> Client {
        connect(&self.source_url()).await
    }

    pub(crate) async fn target_client(&self) -> Client {
        connect(&self.target_url()).await
    }

    /// The program with the usual configuration and `more` of it.
    pub(crate) fn command(&self, more: &str) -> ReplicatorCommand {
        ReplicatorCommand {
            binary: env!("CARGO_BIN_EXE_pgsluice").into(),
            directory: self.folder.path().to_owned(),
            source_url: self.source_url(),
            target_url: self.target_url(),
            postgres_bin_dir: installation(self.target_major).bindir,
            more_configuration: more.to_owned(),
        }
    }

    /// Where `pg_dump` is.
    pub(crate) fn tools(&self) -> std::path::PathBuf {
        installation(self.target_major).bindir
    }

    /// Where the program's files are, which are searched for secrets in the end.
    pub(crate) const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Runs a command that ends by itself (`check`, `cleanup`), with the configuration of the last start.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command("").command(arguments).output().expect("the program");
        for said in [&output.stdout, &output.stderr] {
            self.folder.has_no_secret(&arguments.join(" "), &String::from_utf8_lossy(said));
        }
        output
    }

    /// A running program that streams.
    pub(crate) async fn streaming(&self) -> Replicator {
        self.streaming_with("").await
    }

    pub(crate) async fn streaming_with(&self, more: &str) -> Replicator {
        let mut replicator = self.command(more).start().expect("the program");
        streaming(&mut replicator).await;
        replicator
    }

    /// Waits until everything committed on the source before this call is durable on the target, by what the program has
    /// confirmed to the source (INV-3).
    pub(crate) async fn caught_up(&self) {
        let client = self.source_client().await;
        let end: String = text(&client, "SELECT pg_current_wal_lsn()::text").await;
        let query = format!(
            "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false)::text \
             FROM pg_replication_slots WHERE database = 'app'"
        );
        until(&format!("confirmation of {end}"), || async { text(&client, &query).await == "true" }).await;
    }

    /// As [`Self::caught_up`], and fails at once when the program ended or says that it needs a person. `did` is what the
    /// source was asked to do.
    pub(crate) async fn caught_up_after(&self, replicator: &mut Replicator, did: &[String]) {
        let client = self.source_client().await;
        let end = text(&client, "SELECT pg_current_wal_lsn()::text").await;
        let query = format!(
            "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false)::text \
             FROM pg_replication_slots WHERE database = 'app'"
        );
        let begun_at = Instant::now();
        let mut looked_at = begun_at;
        while text(&client, &query).await != "true" {
            let waited = begun_at.elapsed();
            assert!(waited < CATCH_UP_MAX, "not there after {waited:?}: {did:#?}\n{}", replicator.log());
            if looked_at.elapsed() > Duration::from_millis(500) {
                looked_at = Instant::now();
                assert!(replicator.ended().is_none(), "after {did:#?}\n{}", replicator.log());
                let problem = replicator.api().status().await.expect("status").problem;
                if let Some(problem) = problem.filter(|problem| problem.blocking == "waiting_for_operator") {
                    panic!("{} {}\nafter {did:#?}", problem.message, problem.remedy);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Both sides as they are now.
    pub(crate) async fn compare(&self) -> Comparison {
        let (source, target) = (ComparedSide::now(self.source_url()), ComparedSide::now(self.target_url()));
        compare_rows(&source, &target).await.expect("comparison")
    }

    /// Both sides as they are now, without a table that is not migrated.
    pub(crate) async fn compare_without(&self, table: &str) -> Comparison {
        let (source, target) = (ComparedSide::now(self.source_url()), ComparedSide::now(self.target_url()));
        let comparison = compare_selected(&source, &target, |name| name.name != table).await;
        comparison.expect("comparison")
    }

    /// Fails unless both sides hold the same rows, and there are any.
    pub(crate) async fn assert_same_rows(&self) {
        let comparison = self.compare().await;
        assert!(comparison.rows_are_identical(), "{comparison:#?}");
    }

    pub(crate) async fn assert_same_sequences(&self) {
        let comparison = compare_sequences(&self.source_url(), &self.target_url()).await.expect("sequences");
        assert!(comparison.differing.is_empty() && comparison.sequences > 0, "{comparison:?}");
    }

    /// The schema of the source, as `pg_dump` prints it: what a migration that is over must not have changed.
    pub(crate) fn dump_source_schema(&self) -> String {
        let output = std::process::Command::new(installation(self.target_major).program("pg_dump"))
            .args(["--schema-only", "--dbname", &self.source_url()])
            .output()
            .expect("pg_dump");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dump = String::from_utf8(output.stdout).expect("utf-8");
        // These two lines carry a random word.
        dump.lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// Names of the logical slots on the source.
    pub(crate) async fn slots(&self) -> String {
        let query = "SELECT coalesce(string_agg(slot_name, ','), '') FROM pg_replication_slots";
        text(&self.source_client().await, query).await
    }
}

/// Waits until it streams and knows its lag: what an operator waits for before a cutover.
pub(crate) async fn streaming(replicator: &mut Replicator) {
    let outcome = replicator
        .wait_for_status("streaming with a known lag", COPY_WAIT, |status| {
            status.phase == "streaming" && status.lag.bytes.is_some()
        })
        .await;
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Asks for an operation; returns it as accepted.
pub(crate) async fn ask(
    replicator: &Replicator,
    mode: CutoverModeRecord,
    max_pause_ms: u64,
) -> CutoverRecord {
    let request =
        CutoverRequestRecord { mode: Some(mode), max_pause_ms: Some(max_pause_ms), unverified: true };
    let key = format!("test-{:08x}", rand::random::<u32>());
    replicator
        .api()
        .start_cutover(request, &key)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", replicator.log()))
}

/// Waits for the end of the operation that was asked for last.
pub(crate) async fn end_of(replicator: &mut Replicator, accepted: &CutoverRecord) -> CutoverRecord {
    let epoch = accepted.epoch;
    let status = replicator
        .wait_for_status("the end of the operation", CUTOVER_WAIT, |status| {
            status.cutover.as_ref().is_some_and(|seen| seen.epoch == epoch && seen.outcome != "running")
        })
        .await;
    match status {
        Ok(status) => status.cutover.expect("checked above"),
        Err(error) => panic!("{error}"),
    }
}

/// A cutover that must complete; tried again when it rolled back, as an operator would.
pub(crate) async fn cut_over(replicator: &mut Replicator) -> CutoverRecord {
    let mut last = None;
    for _ in 0..3 {
        let accepted = ask(replicator, CutoverModeRecord::Cutover, 20_000).await;
        let ended = end_of(replicator, &accepted).await;
        if ended.outcome == "completed" {
            return ended;
        }
        last = Some(ended);
    }
    panic!("no cutover completed: {last:#?}\n{}", replicator.log());
}

/// Waits until what is written on the target goes back to the source, and the lag of that is known.
pub(crate) async fn way_back_is_open(replicator: &mut Replicator) {
    let outcome = replicator
        .wait_for_status("the way back", COPY_WAIT, |status| {
            status.phase == "rollback_window" && status.lag.bytes.is_some()
        })
        .await;
    if let Err(error) = outcome {
        panic!("{error}\n{}", replicator.log());
    }
}

/// A rollback that must complete; tried again when it was aborted, as an operator would.
pub(crate) async fn roll_back(replicator: &mut Replicator) -> CutoverRecord {
    let mut last = None;
    for _ in 0..3 {
        way_back_is_open(replicator).await;
        let request = CutoverRequestRecord { mode: None, max_pause_ms: Some(20_000), unverified: true };
        let accepted = replicator
            .api()
            .start_rollback(request)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", replicator.log()));
        let ended = end_of(replicator, &accepted).await;
        if ended.outcome == "completed" {
            return ended;
        }
        last = Some(ended);
    }
    panic!("no rollback completed: {last:#?}\n{}", replicator.log());
}

/// The one value of a query, as text.
pub(crate) async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}
