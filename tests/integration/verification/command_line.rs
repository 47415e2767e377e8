//! `pgsluice verify` and the cutover that goes by it, as a person types them.

use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgsluice::demo::replicator::Replicator;

use crate::harness::stage::{Pair, Stage, way_back_is_open};
use crate::harness::two_tables::intruder;
use crate::harness::wait::until;

const TABLES: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, md5(i::text) FROM generate_series(1, 20000) i; ANALYZE orders";

struct Person {
    stage: Stage,
    replicator: Replicator,
}

impl Person {
    async fn begins() -> Self {
        let stage = Stage::new(Pair::of(14, 17)).await;
        stage.source_client().await.batch_execute(TABLES).await.expect("tables");
        let replicator = stage.streaming().await;
        stage.caught_up().await;
        Self { stage, replicator }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stage.command("").command(arguments);
        command.arg("--api").arg(self.replicator.api().base());
        command
    }

    fn types(&self, arguments: &[&str]) -> (Option<i32>, String) {
        told(&self.command(arguments).output().expect("the program"))
    }
}

fn told(output: &Output) -> (Option<i32>, String) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), said(&output.stdout) + &said(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cutover_begins_before_a_clean_verification_unless_that_is_overridden() {
    let mut person = Person::begins().await;
    let (code, said) = person.types(&["cutover", "--max-pause-ms", "20000"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the cutover did not begin: the rows were never verified"), "{said}");
    assert!(said.contains("`pgsluice verify`") && said.contains("--unverified"), "{said}");

    let target = intruder(&person.stage).await;
    target.batch_execute("UPDATE orders SET note = 'x' WHERE id = 77").await.expect("damage");
    let (code, said) = person.types(&["verify", "--share", "100"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("public.orders  differs  id=77  note"), "{said}");
    let (code, shown) = person.types(&["verify", "--show"]);
    assert_eq!((code, shown.contains("id=77")), (Some(3), true), "{shown}");
    let (_, status) = person.types(&["status"]);
    assert!(status.contains("1 of 20,000 rows DIFFER (`pgsluice verify --show`)"), "{status}");
    let (code, said) = person.types(&["cutover", "--max-pause-ms", "20000"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("found 1 row that is not the same"), "{said}");

    target.batch_execute("UPDATE orders SET note = md5('77') WHERE id = 77").await.expect("as it was");
    let (code, said) = person.types(&["verify", "--scope", "rows", "--share", "100"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Every one of 20,000 rows is the same on both sides."), "{said}");
    let (code, said) = person.types(&["cutover", "--max-pause-ms", "20000"]);
    assert_eq!(code, Some(0), "{said}");
    way_back_is_open(&mut person.replicator).await;
    let certificate =
        person.replicator.api().cutover().await.expect("a cutover").certificate.expect("it has ended");
    assert_eq!(certificate["verification"]["overridden"], serde_json::Value::Null, "{certificate:#}");
    assert_eq!(certificate["verification"]["last"]["rows_compared"], 20_000, "{certificate:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_is_in_the_certificate() {
    let mut person = Person::begins().await;
    let (code, said) = person.types(&["cutover", "--unverified", "--max-pause-ms", "20000"]);
    assert_eq!(code, Some(0), "{said}");
    way_back_is_open(&mut person.replicator).await;
    let certificate =
        person.replicator.api().cutover().await.expect("a cutover").certificate.expect("it has ended");
    assert_eq!(certificate["verification"]["overridden"], "the rows were never verified", "{certificate:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_of_structure_is_told_with_the_statement_that_ends_it() {
    let person = Person::begins().await;
    let index = "CREATE INDEX orders_note ON public.orders USING btree (note)";
    person.stage.source_client().await.batch_execute(index).await.expect("an index");
    let (code, said) = person.types(&["verify", "--share", "100"]);
    println!("{said}");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("verification 1: clean") && said.contains("Their structure is not."), "{said}");
    let statement =
        said.lines().find(|line| line.starts_with("CREATE INDEX")).unwrap_or_else(|| panic!("{said}"));
    person.stage.target_client().await.batch_execute(statement).await.expect("the statement");
    let (code, said) = person.types(&["verify", "--scope", "structure"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("The structure of both sides is the same."), "{said}");
}

/// The verification waits for a lock that somebody else has on the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_leaves_it_running_and_stop_ends_it() {
    let person = Person::begins().await;
    let holder = person.stage.source_client().await;
    holder.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let begins = person.command(&["verify"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let following = begins.expect("the program");
    let runs =
        || async { person.replicator.api().verification().await.is_ok_and(|seen| seen.outcome == "running") };
    until("a verification that runs", runs).await;
    let (code, said) = person.types(&["verify"]);
    assert_eq!((code, said.contains("a verification is running")), (Some(1), true), "{said}");
    let id = Pid::from_raw(i32::try_from(following.id()).expect("a process id"));
    nix::sys::signal::kill(id, Signal::SIGINT).expect("interrupted");
    let (code, said) = told(&following.wait_with_output().expect("an end"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("interrupted: verification 1 goes on") && said.contains("--stop"), "{said}");
    assert!(runs().await, "it goes on");
    let (code, said) = person.types(&["verify", "--show"]);
    assert_eq!((code, said.contains("It runs")), (Some(1), true), "{said}");
    let (code, said) = person.types(&["verify", "--stop"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Not everything could be compared: it was stopped."), "{said}");
    holder.batch_execute("ROLLBACK").await.expect("let go");
}
