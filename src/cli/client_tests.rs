//! The client commands against a served API; the test plays the migration task.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{
    ApiClient, ClientCommand, ClientError, Exit, Failure, OutputFormat, Rows, StatusView, VerificationAsked,
    Wait,
};
use crate::connection::Secret;
use crate::control::dto::VerificationRequestRecord;
use crate::control::fixture::{Fixture, TOKEN, paused_step, running};
use crate::control::serve;
use crate::cutover::{CutoverReport, Outcome};
use crate::join::{Outside, OutsideReason, Standing, TableStanding};
use crate::migration::{Command, CutoverMode, JoinNote, Refusal};
use crate::model::{Direction, TableName};
use crate::runtime::Shutdown;
use crate::verify::difference::DifferenceKind;
use crate::verify::{RowDifference, VerificationReport};

/// Serves an API whose operations end as `end` says, as soon as they were accepted.
async fn serve_one(
    end: impl Fn(&mut CutoverReport) + Send + 'static,
) -> (SocketAddr, Shutdown, JoinHandle<()>) {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let shutdown = fixture.shutdown.clone();
    let migration = tokio::spawn(async move {
        while let Some(command) = fixture.commands.recv().await {
            let (mode, reply) = match command {
                Command::StartCutover { request, reply } => (request.mode, reply),
                Command::AbortCutover { reply } | Command::ConfirmTraffic { reply } => {
                    (CutoverMode::Cutover, reply)
                }
                other => panic!("nobody asks for this here: {other:?}"),
            };
            let accepted = running(5, mode);
            let mut ended = accepted.clone();
            ended.steps = vec![paused_step("lock_tables", Duration::from_millis(12))];
            ended.pause = Some(Duration::from_millis(48));
            end(&mut ended);
            reply.send(Ok(accepted)).expect("somebody waits");
            fixture.board.update(|status| status.cutover = Some(ended));
        }
    });
    (address, shutdown, migration)
}

fn client(address: SocketAddr, output: OutputFormat) -> ApiClient {
    ApiClient::new(&address.to_string(), Some(Secret::new(TOKEN)), output).expect("client")
}

async fn run(client: &ApiClient, command: ClientCommand) -> (Result<Exit, ClientError>, String) {
    let mut printed = Vec::new();
    let exit = client.run(command, &mut printed).await;
    (exit, String::from_utf8(printed).expect("utf-8"))
}

#[tokio::test]
async fn a_rehearsal_is_followed_to_its_end_and_prints_the_forecast() {
    let (address, ..) = serve_one(|report| report.outcome = Outcome::Completed).await;
    let command = ClientCommand::Rehearse {
        schedule: crate::cli::Schedule { times: 1, every: Duration::ZERO },
        max_pause: Some(Duration::from_millis(500)),
    };
    let (exit, printed) = run(&client(address, OutputFormat::Table), command).await;
    assert_eq!(exit.expect("followed"), Exit::Success);
    assert!(printed.starts_with("rehearsal 5 accepted\n  lock_tables "), "{printed}");
    assert!(printed.contains("25 % of the pause"), "{printed}");
    assert!(printed.ends_with("this is the forecast. Writers waited 48.0 ms.\n"), "{printed}");
}

#[tokio::test]
async fn the_exit_tells_how_the_operation_ended() {
    let reason = || "a long transaction".to_owned();
    let (aborts, ..) =
        serve_one(move |report| report.outcome = Outcome::Aborted { reason: reason(), remedy: reason() })
            .await;
    let aborting = client(aborts, OutputFormat::Json);
    let (exit, printed) =
        run(&aborting, ClientCommand::Cutover { max_pause: None, rows: Rows::Verified }).await;
    assert_eq!(exit.expect("followed"), Exit::Failed);
    let document: serde_json::Value = serde_json::from_str(&printed).expect("one JSON document");
    assert_eq!(document["outcome"], "aborted");
    let (exit, printed) = run(&aborting, ClientCommand::Abort).await;
    assert_eq!(exit.expect("followed"), Exit::Success);
    let document: serde_json::Value = serde_json::from_str(&printed).expect("one JSON document");
    assert_eq!(document["outcome"], "aborted");

    let (doubts, ..) =
        serve_one(|report| report.outcome = Outcome::InDoubt { reason: "?".into(), remedy: "?".into() })
            .await;
    let doubting = client(doubts, OutputFormat::Table);
    assert_eq!(run(&doubting, ClientCommand::Confirm).await.0.expect("followed"), Exit::Decision);
}

#[tokio::test]
async fn the_status_is_printed_once_unless_watched() {
    let (address, ..) = serve_one(|_| {}).await;
    let (exit, printed) =
        run(&client(address, OutputFormat::Table), ClientCommand::Status(StatusView::Once)).await;
    assert_eq!(exit.expect("answered"), Exit::Success);
    assert!(printed.starts_with("phase       starting since "), "{printed}");
}

#[tokio::test]
async fn refusals_and_unreachable_instances_say_what_to_do_and_how_to_exit() {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    let serving = tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let migration = async {
        let Some(Command::AbortCutover { reply }) = fixture.commands.recv().await else { panic!("no abort") };
        let refusal =
            Refusal::Conflict { message: "nothing is running".into(), remedy: "nothing to do".into() };
        reply.send(Err(refusal)).expect("somebody waits");
    };
    let asking = client(address, OutputFormat::Table);
    let ((refused, _), ()) = tokio::join!(run(&asking, ClientCommand::Abort), migration);
    let refused = refused.expect_err("refused");
    assert_eq!(
        (refused.exit(), refused.to_string().as_str(), refused.remedy().as_str()),
        (Exit::Failed, "nothing is running", "nothing to do")
    );

    let stranger = ApiClient::new(&format!("http://{address}"), None, OutputFormat::Table).expect("client");
    let (unauthorized, _) =
        run(&stranger, ClientCommand::Cutover { max_pause: None, rows: Rows::Verified }).await;
    assert_eq!(unauthorized.expect_err("no token").exit(), Exit::Usage);
    let (missing, _) = run(&asking, ClientCommand::Verify(VerificationAsked::Show)).await;
    let missing = missing.expect_err("none yet");
    assert!(missing.exit() == Exit::Failed && missing.remedy().contains("pgsluice verify"), "{missing}");

    fixture.shutdown.request();
    serving.await.expect("no panic").expect("no error");
    let (gone, _) = run(&asking, ClientCommand::Status(StatusView::Once)).await;
    let gone = gone.expect_err("nobody is there");
    assert_eq!(gone.exit(), Exit::Usage);
    assert!(gone.remedy().contains("--api"), "{gone}");
}

#[tokio::test]
async fn what_may_have_moved_the_primary_is_not_told_as_a_mere_failure() {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let asking = client(address, OutputFormat::Table);
    let migration = async {
        let Some(command) = fixture.commands.recv().await else { panic!("no abort") };
        command.refuse(Refusal::PastThePointOfNoReturn { message: "too late".into(), remedy: "wait".into() });
        // The next command is never answered: its reply is dropped.
        drop(fixture.commands.recv().await);
    };
    let asked = async {
        let late = run(&asking, ClientCommand::Abort).await.0.expect_err("refused");
        (late, run(&asking, ClientCommand::Abort).await.0.expect_err("unanswered"))
    };
    let ((late, unanswered), ()) = tokio::join!(asked, migration);
    assert_eq!(late.failure(), Failure::new(Exit::Decision, "too late", "wait"));
    assert!(matches!(&unanswered, ClientError::Refused(problem) if problem.status == 503), "{unanswered:?}");
    assert_eq!(unanswered.exit(), Exit::Decision);
}

#[tokio::test]
async fn an_address_that_is_none_is_named_and_secrets_in_it_are_not_repeated() {
    for address in ["", "ftp://host", "http://", "::::"] {
        let error = ApiClient::new(address, None, OutputFormat::Table).expect_err("no address");
        assert_eq!(error.exit(), Exit::Usage, "{address}");
    }
    let error = ApiClient::new("http://me:hunter2@host", None, OutputFormat::Table).expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// The migration that takes tables in: `outcome` is what becomes of them on the board.
async fn serve_tables(outcome: impl Fn(&mut crate::migration::Status) + Send + 'static) -> SocketAddr {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    tokio::spawn(async move {
        while let Some(command) = fixture.commands.recv().await {
            let Command::AddTables { tables, reply } = command else {
                panic!("another command: {command:?}")
            };
            assert_eq!(tables, ["public.late"]);
            fixture.board.update(|status| status.standings = vec![standing(Standing::Joining)]);
            reply.send(Ok(vec![TableName::new("public", "late")])).expect("somebody waits");
            fixture.board.update(&outcome);
        }
    });
    address
}

fn standing(standing: Standing) -> TableStanding {
    let outside = (standing != Standing::Joined).then(|| Outside {
        reason: OutsideReason::Joining,
        explanation: "It is being copied.".into(),
        remedy: "Wait.".into(),
        blocks_cutover: true,
    });
    TableStanding { table: TableName::new("public", "late"), standing, rows_copied: Some(7), outside }
}

fn add(wait: Wait) -> ClientCommand {
    ClientCommand::AddTables { tables: vec!["public.late".into()], wait }
}

#[tokio::test]
async fn adding_a_table_waits_until_it_has_joined() {
    let address = serve_tables(|status| status.standings = vec![standing(Standing::Joined)]).await;
    let (exit, printed) = run(&client(address, OutputFormat::Table), add(Wait::UntilJoined)).await;
    assert_eq!(exit.expect("followed"), Exit::Success);
    assert!(printed.contains("public.late") && printed.contains("joined"), "{printed}");
}

#[tokio::test]
async fn adding_a_table_that_cannot_join_yet_says_why_and_fails() {
    let address = serve_tables(|status| {
        let note = JoinNote {
            message: "type mood is missing".into(),
            remedy: "Create it.".into(),
            is_failure: true,
        };
        status.join_notes.insert(TableName::new("public", "late"), note);
    })
    .await;
    let (exit, printed) = run(&client(address, OutputFormat::Table), add(Wait::UntilJoined)).await;
    assert_eq!(exit.expect("followed"), Exit::Failed);
    assert!(printed.contains("type mood is missing") && printed.contains("Create it."), "{printed}");
}

#[tokio::test]
async fn tables_are_listed_with_reason_and_remedy() {
    let address = serve_tables(|_| {}).await;
    let listing = client(address, OutputFormat::Json);
    let (exit, _) = run(&listing, add(Wait::No)).await;
    assert_eq!(exit.expect("accepted"), Exit::Success);
    let (_, printed) = run(&listing, ClientCommand::Tables).await;
    assert!(printed.contains("\"reason\": \"joining\""), "{printed}");
}

/// What stands at an address and is no instance of this version: answers each request like this.
async fn stranger(status: u16, headers: &'static str, body: &'static str) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// A redirected POST becomes a GET, whose answer is some earlier operation.
#[tokio::test]
async fn a_redirect_is_not_followed_and_an_answer_of_another_version_may_have_done_it() {
    let cutover = || ClientCommand::Cutover { max_pause: None, rows: Rows::Verified };
    let redirecting = stranger(301, "location: https://elsewhere.example/v1/cutover\r\n", "").await;
    let (refused, _) = run(&client(redirecting, OutputFormat::Table), cutover()).await;
    let error = refused.expect_err("sent elsewhere");
    assert!(error.to_string().contains("https://elsewhere.example/v1/cutover"), "{error}");
    assert_eq!(error.exit(), Exit::Usage);
    for (status, exit) in [(202, Exit::Decision), (504, Exit::Decision), (403, Exit::Usage)] {
        let address = stranger(status, "", "<html>").await;
        let (refused, _) = run(&client(address, OutputFormat::Table), cutover()).await;
        assert_eq!(refused.expect_err("no record").exit(), exit, "{status}");
    }
    let address = stranger(200, "", "<html>").await;
    let (refused, _) =
        run(&client(address, OutputFormat::Table), ClientCommand::Status(StatusView::Once)).await;
    assert_eq!(refused.expect_err("no record").exit(), Exit::Usage, "a question changes nothing");
}

#[tokio::test]
async fn an_operation_of_another_kind_is_not_taken_for_the_one_that_was_asked_for() {
    let record = crate::control::dto::CutoverRecord::from(&running(7, CutoverMode::Rehearsal));
    let body: &'static str = serde_json::to_string(&record).expect("JSON").leak();
    let address = stranger(202, "content-type: application/json\r\n", body).await;
    let (refused, _) = run(
        &client(address, OutputFormat::Table),
        ClientCommand::Cutover { max_pause: None, rows: Rows::Verified },
    )
    .await;
    let error = refused.expect_err("another operation");
    assert!(error.to_string().contains("rehearsal where a cutover was asked for"), "{error}");
    assert_eq!(error.exit(), Exit::Decision);
}

#[test]
fn whoever_names_an_authority_means_https_and_passwords_are_never_repeated() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error =
        ApiClient::trusting(Some(file.path()), "http://h:80", None, OutputFormat::Table).expect_err("plain");
    assert!(error.to_string().contains("--ca-file"), "{error}");
    for address in ["ftp://u:hunter2@h", "http://u:hunter2@h:99999", "u:hunter2@h", "http://u:hunter2@h"] {
        let error = ApiClient::new(address, None, OutputFormat::Table).expect_err(address);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

/// The migration that verifies: `steps` is what becomes of the verification, one after the other, until it is stopped.
async fn serve_verification(
    steps: Vec<fn(&mut VerificationReport)>,
) -> (SocketAddr, Shutdown, JoinHandle<()>) {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let shutdown = fixture.shutdown.clone();
    let migration = tokio::spawn(async move {
        while let Some(command) = fixture.commands.recv().await {
            let board = &fixture.board;
            match command {
                Command::StartVerification { request, reply } => {
                    assert_eq!(request.jobs, Some(3));
                    let mut report = VerificationReport::begun(
                        7,
                        Direction::Forward,
                        request.scope,
                        jiff::Timestamp::now(),
                    );
                    board.update(|status| status.verification = Some(report.clone()));
                    reply.send(Ok(report.clone())).expect("somebody waits");
                    for step in &steps {
                        step(&mut report);
                        board.update(|status| status.verification = Some(report.clone()));
                    }
                }
                Command::StopVerification { reply } => {
                    let report = board.with(|status| status.verification.clone()).expect("one runs");
                    reply.send(Ok(report)).expect("somebody waits");
                    board.update(|status| {
                        let report = status.verification.as_mut().expect("one runs");
                        report.end(jiff::Timestamp::now(), Some(("it was stopped".into(), "Again.".into())));
                    });
                }
                other => panic!("nobody asks for this here: {other:?}"),
            }
        }
    });
    (address, shutdown, migration)
}

fn start_verification() -> ClientCommand {
    ClientCommand::Verify(VerificationAsked::Start(VerificationRequestRecord {
        scope: None,
        share_percent: Some(50),
        jobs: Some(3),
        repair: false,
    }))
}

fn compared(report: &mut VerificationReport) {
    report.tables_total = 1;
    report.tables_compared = 1;
    report.rows_compared = 20_000;
}

fn ended(report: &mut VerificationReport) {
    report.end(jiff::Timestamp::now(), None);
}

#[tokio::test]
async fn a_verification_is_followed_to_its_end_and_told() {
    let (address, ..) = serve_verification(vec![compared, ended]).await;
    let (exit, printed) = run(&client(address, OutputFormat::Table), start_verification()).await;
    assert_eq!(exit.expect("followed"), Exit::Success);
    assert!(printed.starts_with("verification 7 begins\nverification 7: clean\n"), "{printed}");
    assert!(printed.ends_with("Every one of 20,000 rows is the same on both sides.\n"), "{printed}");
    let (exit, printed) =
        run(&client(address, OutputFormat::Json), ClientCommand::Verify(VerificationAsked::Show)).await;
    assert_eq!(exit.expect("shown"), Exit::Success);
    let document: serde_json::Value = serde_json::from_str(&printed).expect("one JSON document");
    assert_eq!((&document["number"], &document["outcome"]), (&7.into(), &"clean".into()));
}

#[tokio::test]
async fn differences_are_told_by_table_and_key_and_by_the_exit_code() {
    fn found(report: &mut VerificationReport) {
        let table = TableName::new("public", "orders");
        let row = RowDifference {
            table: table.clone(),
            kind: DifferenceKind::Differs,
            key: vec![("id".into(), "77".into())],
            columns: vec!["note".into()],
            count: 1,
        };
        report.found(&table, vec![row], 1);
    }
    let (address, ..) = serve_verification(vec![compared, found, ended]).await;
    let (exit, printed) = run(&client(address, OutputFormat::Table), start_verification()).await;
    assert_eq!(exit.expect("followed"), Exit::Blocker);
    assert!(printed.contains("public.orders  differs  id=77  note\n"), "{printed}");
    let (_, printed) =
        run(&client(address, OutputFormat::Table), ClientCommand::Status(StatusView::Once)).await;
    assert!(
        printed.contains("verified    just now: 1 of 20,000 rows DIFFER (`pgsluice verify --show`)"),
        "{printed}"
    );
}

#[tokio::test]
async fn an_interrupted_command_leaves_the_verification_running_and_says_so() {
    let (address, ..) = serve_verification(vec![compared]).await;
    let following = client(address, OutputFormat::Table);
    let begun = async {
        // Until it is known to run.
        while !matches!(
            run(&following, ClientCommand::Verify(VerificationAsked::Show)).await.0,
            Ok(Exit::Failed)
        ) {}
    };
    let (followed, ()) = tokio::join!(
        async {
            let command = run(&following, start_verification());
            tokio::time::timeout(Duration::from_secs(1), command).await
        },
        begun
    );
    assert!(followed.is_err(), "it runs for ever");
    let error = following
        .follow_verification(7, std::future::ready(()), &mut Vec::new())
        .await
        .expect_err("interrupted");
    let told = error.failure();
    let remedy = "`pgsluice verify --show` tells how far it is, `pgsluice verify --stop` ends it.";
    assert_eq!(told, Failure::new(Exit::Failed, "interrupted: verification 7 goes on", remedy));

    let (exit, printed) = run(&following, ClientCommand::Verify(VerificationAsked::Stop)).await;
    assert_eq!(exit.expect("stopped"), Exit::Success, "that is what was asked for");
    assert!(printed.starts_with("verification 7 is stopped\nverification 7: incomplete\n"), "{printed}");
}

#[tokio::test]
async fn a_verification_that_is_gone_or_another_one_is_not_taken_for_ones_own() {
    let (address, ..) = serve_verification(vec![compared, ended]).await;
    let following = client(address, OutputFormat::Table);
    let (exit, _) = run(&following, start_verification()).await;
    assert_eq!(exit.expect("followed"), Exit::Success);
    for (number, reason) in [(8, "started again"), (6, "verification 7 has begun meanwhile")] {
        let lost = following.follow_verification(number, std::future::pending(), &mut Vec::new()).await;
        let error = lost.expect_err("lost");
        assert!(error.exit() == Exit::Failed && error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_cutover_that_nothing_vouches_for_is_refused_with_the_way_out_and_can_be_overridden() {
    let mut fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let asking = client(address, OutputFormat::Table);
    let migration = async {
        for wanted in [false, true] {
            let Some(Command::StartCutover { request, reply }) = fixture.commands.recv().await else {
                panic!("no cutover")
            };
            assert_eq!(request.unverified, wanted);
            let refusal = Refusal::NotReady {
                message: "the cutover did not begin: the rows were never verified".into(),
                remedy: "Run `pgsluice verify`".into(),
            };
            reply.send(Err(refusal)).expect("somebody waits");
        }
    };
    let asked = async {
        let cutover = |rows| ClientCommand::Cutover { max_pause: None, rows };
        let refused = run(&asking, cutover(Rows::Verified)).await.0.expect_err("refused");
        assert_eq!(refused.exit(), Exit::Failed);
        assert!(refused.to_string().contains("never verified"), "{refused}");
        assert!(refused.remedy().contains("pgsluice verify"), "{refused}");
        run(&asking, cutover(Rows::Unverified)).await.0.expect_err("refused");
    };
    tokio::join!(asked, migration);
}
