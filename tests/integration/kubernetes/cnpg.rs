//! The target's CloudNativePG cluster, as the API double shows it (there is no operator here), beside real servers: how it is
//! reached is found in its Secrets, a change of its primary is waited for, a backup is asked for, and what happens is told as
//! Events.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use pgsluice::control::dto::{ClusterRecord, CutoverModeRecord, CutoverRequestRecord, StatusRecord};
use pgsluice::demo::cluster::ServerTls;
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};

use super::*;
use crate::harness::clusters::options;
use crate::harness::fleet::Fleet;
use crate::harness::secrets::OWNER_PASSWORD;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, cut_over, end_of, streaming, text};
use crate::harness::two_tables::{SCHEMA, confirmed};
use crate::harness::wait::until;

const PAIR: Pair = Pair::owned(15, 17);
/// What is documented and shipped for this.
const ROLES: [(&str, &str); 2] = [
    ("target.cnpg", "deploy/kustomize/components/cnpg/role.yaml"),
    ("target.cnpg without target.url", "deploy/kustomize/components/cnpg-secrets/role.yaml"),
];

/// The Cluster object of a healthy cluster, whose primary is `shop-1`.
pub(crate) fn put_cluster(api: &ApiDouble, system_identifier: &str) {
    api.put(
        "clusters",
        json!({
            "metadata": { "name": "shop", "uid": "6e0f" },
            "spec": { "instances": 1, "enableSuperuserAccess": false },
            "status": {
                "phase": "Cluster in healthy state", "currentPrimary": "shop-1", "targetPrimary": "shop-1",
                "timelineID": 1, "systemID": system_identifier, "instances": 1, "readyInstances": 1,
            },
        }),
    );
}

fn secret(name: &str, pairs: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> = pairs
        .iter()
        .map(|(key, value)| {
            let encoded = serde_json::to_value(ByteString(value.as_bytes().to_vec())).expect("base64");
            ((*key).to_owned(), encoded)
        })
        .collect();
    json!({ "metadata": { "name": name }, "data": data })
}

/// As the operator makes them, but that the servers here speak no TLS.
fn put_secrets(api: &ApiDouble, stage: &Stage, password: &str) {
    let uri = stage.target_url().replace(OWNER_PASSWORD, password) + "&sslmode=disable";
    let pairs = [("username", "mover"), ("password", password), ("dbname", "app"), ("fqdn-uri", &uri)];
    api.put("secrets", secret("shop-app", &pairs));
    api.put("secrets", secret("shop-ca", &[("ca.crt", "-----BEGIN CERTIFICATE-----\n")]));
}

pub(crate) async fn system_identifier(stage: &Stage) -> String {
    let target = connect_superuser(stage).await;
    text(&target, "SELECT system_identifier::text FROM pg_control_system()").await
}

async fn connect_superuser(stage: &Stage) -> tokio_postgres::Client {
    crate::harness::clusters::connect(&stage.target.url("app")).await
}

pub(crate) fn section(api: &ApiDouble, more: &str) -> String {
    format!("target.cnpg.cluster = \"shop\"\ntarget.cnpg.kubeconfig = {:?}\n{more}", api.kubeconfig())
}

/// The program, which is told of the target only which cluster it is.
fn without_url(stage: &Stage, configuration: &str) -> ReplicatorCommand {
    ReplicatorCommand { target_url: String::new(), ..stage.command(configuration) }
}

async fn status_with(
    replicator: &mut Replicator,
    what: &str,
    holds: impl Fn(&StatusRecord, &ClusterRecord) -> bool,
) -> StatusRecord {
    let seen = replicator
        .wait_for_status(what, COPY_WAIT, |status| {
            status.cluster.as_ref().is_some_and(|cluster| holds(status, cluster))
        })
        .await;
    seen.unwrap_or_else(|error| panic!("{what}: {error}\n{}", replicator.log()))
}

/// Reasons of the Events so far, with their messages.
fn events(api: &ApiDouble) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let requests = api.all_requests();
    let made = requests.iter().filter(|asked| asked.verb == "create" && asked.resource == "events");
    made.map(|asked| (text(&asked.body["reason"]), text(&asked.body["message"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_is_found_in_the_clusters_secrets_and_a_new_password_needs_no_restart() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    put_secrets(&api, &stage, OWNER_PASSWORD);
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = without_url(&stage, &section(&api, "")).start().expect("the program");
    streaming(&mut replicator).await;
    let status = status_with(&mut replicator, "the cluster", |_, cluster| cluster.seen_at.is_some()).await;
    let cluster = status.cluster.expect("the cluster");
    assert_eq!((cluster.name.as_str(), cluster.current_primary.as_deref()), ("shop/shop", Some("shop-1")));
    assert_eq!((cluster.changing, cluster.problem, cluster.has_backup), (None, None, Some(false)));
    let told = events(&api);
    assert!(
        told.iter().any(|(reason, message)| reason == "PhaseEntered" && message.contains("streaming")),
        "{told:?}"
    );
    let about = &api.all_requests().into_iter().find(|asked| asked.resource == "events").expect("one").body;
    assert_eq!(about["involvedObject"]["uid"], "6e0f");

    let superuser = connect_superuser(&stage).await;
    let rotated = "another-password-of-the-owner";
    superuser.batch_execute(&format!("ALTER ROLE mover PASSWORD '{rotated}'")).await.expect("SQL");
    put_secrets(&api, &stage, rotated);
    superuser
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mover'")
        .await
        .expect("SQL");
    stage.source_client().await.batch_execute("INSERT INTO other VALUES (9001, 'later')").await.expect("SQL");
    stage.caught_up().await;
    let there = text(&superuser, "SELECT count(*)::text FROM other WHERE id = 9001").await;
    let log = replicator.log();
    assert_eq!(there, "1", "{log}");
    assert!(!log.contains(rotated), "{log}");
    assert!(log.contains("a secret was replaced"), "{log}");
}

/// A certificate for `localhost` that is its own authority.
pub(crate) fn server_tls() -> ServerTls {
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("certificate");
    ServerTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// By every session and by `pg_dump` and `psql`; and by the new authority once the operator has replaced the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_is_checked_against_the_operators_authority_also_after_it_was_replaced() {
    let (api, first) = (ApiDouble::start().await, server_tls());
    let stage = Stage::with_options(PAIR, options(), options().tls(first.clone())).await;
    put_cluster(&api, &system_identifier(&stage).await);
    let uri = format!("postgresql://mover:{OWNER_PASSWORD}@localhost:{}/app", stage.target.port());
    let pairs = [("username", "mover"), ("password", OWNER_PASSWORD), ("dbname", "app"), ("uri", &uri)];
    api.put("secrets", secret("shop-app", &pairs));
    let authority = |pem: &str| api.put("secrets", secret("shop-ca", &[("ca.crt", pem)]));
    authority(&server_tls().certificate_pem);
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let command = without_url(&stage, &section(&api, ""));
    let mut refused = command.start().expect("the program");
    refused.wait_for_end(COPY_WAIT).await.expect("an end");
    assert!(refused.log().contains("certificate"), "{}", refused.log());

    authority(&first.certificate_pem);
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    let superuser = connect_superuser(&stage).await;
    let plain = "SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                  WHERE usename = 'mover' AND application_name LIKE 'pgsluice%' AND NOT ssl";
    assert_eq!(text(&superuser, plain).await, "0");

    let second = server_tls();
    for (name, pem) in [("server.crt", &second.certificate_pem), ("server.key", &second.key_pem)] {
        // Written over: the owner and the permissions stay.
        fs::write(stage.target.data_dir().join(name), pem).expect("written");
    }
    authority(&second.certificate_pem);
    let restart =
        "SELECT pg_reload_conf(), pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mover'";
    superuser.batch_execute(restart).await.expect("SQL");
    source.batch_execute("INSERT INTO other VALUES (9003, 'renewed')").await.expect("SQL");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let log = replicator.log();
    assert!(log.contains("the authority of the target's certificates was replaced"), "{log}");
}

/// The operator chooses another primary, and the old one commits what the new one, which has `kept`, will lack.
async fn written_while_it_changes(api: &ApiDouble, fleet: &Fleet, replicator: &mut Replicator, kept: &str) {
    api.change("clusters", "shop", &json!({ "status": { "targetPrimary": "shop-2" } }));
    status_with(replicator, "the change", |_, cluster| cluster.changing.is_some()).await;
    let write = "INSERT INTO other SELECT 5000 + i, repeat('x', 2000) FROM generate_series(1, 500) i";
    fleet.stage.source_client().await.batch_execute(write).await.expect("SQL");
    fleet.primary_gets_beyond(kept, 500_000).await;
}

/// What the old primary commits meanwhile is not confirmed to the source, so that it comes again when the new one lacks it; with
/// `durability = "local"`, for which a failover without warning is the end of the migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_primary_that_is_announced_is_waited_for_and_loses_nothing() {
    let (api, mut fleet) = (ApiDouble::start().await, Fleet::new(Pair::of(14, 17)).await);
    put_cluster(&api, &system_identifier(&fleet.stage).await);
    let source = fleet.stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let configuration = section(&api, "target.durability = \"local\"\ntarget.cnpg.backup = \"ignored\"\n");
    let mut replicator = fleet.streaming(&configuration).await;
    let begun = Instant::now();
    source.batch_execute("INSERT INTO other VALUES (4999, 'x')").await.expect("SQL");
    fleet.stage.caught_up().await;
    let usual = begun.elapsed();
    let kept = fleet.leave_the_standby_behind().await;
    written_while_it_changes(&api, &fleet, &mut replicator, &kept).await;
    // Longer than it takes otherwise.
    let applied = Instant::now();
    while applied.elapsed() < 2 * usual + Duration::from_secs(2) {
        let told = confirmed(&source).await;
        let is_kept = text(&source, &format!("SELECT (pg_lsn '{kept}' >= pg_lsn '{told}')::text")).await;
        assert_eq!(is_kept, "true", "{told} is confirmed, and the new primary will have {kept} only");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let request = CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Rehearsal),
        max_pause_ms: Some(500),
        unverified: true,
    };
    let refused =
        replicator.api().start_cutover(request, "rehearse").await.expect_err("it changes").to_string();
    assert!(refused.contains("from shop-1 to shop-2"), "{refused}");

    fleet.fail_over().await;
    let waits = |status: &StatusRecord, _: &ClusterRecord| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("from shop-1 to shop-2"))
    };
    let status = status_with(&mut replicator, "the wait", waits).await;
    let remedy = &status.problem.as_ref().expect("a problem").remedy;
    assert!(remedy.contains("Nothing is lost"), "{remedy}");
    let target = fleet.stage.target_client().await;
    let ours = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'pgsluice apply%'";
    assert_eq!(text(&target, ours).await, "0");

    let settled = json!({ "status": { "currentPrimary": "shop-2", "timelineID": 2 } });
    api.change("clusters", "shop", &settled);
    fleet.stage.caught_up().await;
    fleet.stage.assert_same_rows().await;
    let status = status_with(&mut replicator, "the end", |_, cluster| cluster.changing.is_none()).await;
    assert_eq!(status.cluster.expect("the cluster").timeline, Some(2));
    cut_over(&mut replicator).await;
    for reason in ["Retrying", "ProblemOver", "CutoverStarted", "CutoverCompleted"] {
        until(reason, || async { events(&api).iter().any(|(told, _)| told == reason) }).await;
    }
}

/// The old primary lives on, cut off from the operator, say, and commits what it is given; nobody says so but the operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_still_answers_is_left_once_there_is_another_one() {
    let (api, mut fleet) = (ApiDouble::start().await, Fleet::new(Pair::of(14, 17)).await);
    put_cluster(&api, &system_identifier(&fleet.stage).await);
    let source = fleet.stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let configuration = section(&api, "target.durability = \"local\"\ntarget.cnpg.backup = \"ignored\"\n");
    let mut replicator = fleet.streaming(&configuration).await;
    fleet.stage.caught_up().await;
    let kept = fleet.leave_the_standby_behind().await;
    written_while_it_changes(&api, &fleet, &mut replicator, &kept).await;
    fleet.replace_the_primary().await;
    let settled = json!({ "status": { "currentPrimary": "shop-2", "timelineID": 2 } });
    api.change("clusters", "shop", &settled);
    fleet.stage.caught_up().await;
    fleet.stage.assert_same_rows().await;
    assert!(
        replicator.log().contains("another primary than the one that was connected to"),
        "{}",
        replicator.log()
    );
    cut_over(&mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_while_the_primary_changes_waits_instead_of_ending() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    api.change("clusters", "shop", &json!({ "status": { "targetPrimary": "pending" } }));
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.command(&section(&api, "")).start().expect("the program");
    let waits = |status: &StatusRecord, _: &ClusterRecord| {
        status
            .problem
            .as_ref()
            .is_some_and(|problem| problem.message.contains("has given up its primary shop-1"))
    };
    status_with(&mut replicator, "the wait", waits).await;
    assert_eq!(
        text(&connect_superuser(&stage).await, "SELECT to_regnamespace('pgsluice')::text IS NULL::text")
            .await,
        "true"
    );
    api.change("clusters", "shop", &json!({ "status": { "targetPrimary": "shop-1" } }));
    streaming(&mut replicator).await;
    stage.assert_same_rows().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_waits_for_the_first_backup_and_a_rehearsal_does_not() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.streaming_with(&section(&api, "")).await;
    let request = |mode| CutoverRequestRecord { mode: Some(mode), max_pause_ms: None, unverified: true };
    let asked = replicator.api().start_cutover(request(CutoverModeRecord::Cutover), "too early").await;
    let refused = asked.expect_err("no backup").to_string();
    assert!(refused.contains("has had no backup that succeeded"), "{refused}");
    assert!(refused.contains("kubectl cnpg backup shop -n shop"), "{refused}");
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    assert_eq!(end_of(&mut replicator, &accepted).await.outcome, "completed");

    let backup = |phase: &str| json!({ "metadata": { "name": "first" }, "spec": { "cluster": { "name": "shop" } }, "status": { "phase": phase } });
    api.put("backups", backup("failed"));
    api.put("backups", backup("completed"));
    status_with(&mut replicator, "the backup", |_, cluster| cluster.has_backup == Some(true)).await;
    // Once there was one there is one, whatever becomes of the API server.
    api.be_out_of_order(true);
    let blind = status_with(&mut replicator, "no sight", |_, cluster| cluster.problem.is_some()).await;
    assert_eq!(blind.cluster.expect("the cluster").current_primary.as_deref(), Some("shop-1"));
    stage.source_client().await.batch_execute("INSERT INTO other VALUES (9002, 'blind')").await.expect("SQL");
    stage.caught_up().await;
    cut_over(&mut replicator).await;
    let log = replicator.log();
    assert_eq!(log.matches("cannot be looked at; the migration goes on").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_what_the_operator_knows_and_what_is_to_be_granted() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, "1");
    put_secrets(&api, &stage, OWNER_PASSWORD);
    connect_superuser(&stage)
        .await
        .batch_execute(
            "ALTER ROLE mover NOREPLICATION; REVOKE SET ON PARAMETER session_replication_role FROM mover",
        )
        .await
        .expect("SQL");
    without_url(&stage, &section(&api, "")).write_configuration(0).expect("written");
    let check = || {
        let command =
            without_url(&stage, "").command(&["check", "--output", "json"]).output().expect("the program");
        let said: Value = serde_json::from_slice(&command.stdout).unwrap_or_default();
        (
            command.status.code(),
            said["findings"].clone(),
            String::from_utf8_lossy(&command.stderr).into_owned(),
        )
    };
    let (code, findings, complaint) = check();
    assert_eq!(code, Some(3), "{findings:#} {complaint}");
    let of = |findings: &Value, id: &str| -> Vec<String> {
        let all = findings.as_array().cloned().unwrap_or_default();
        all.iter().filter(|finding| finding["id"] == id).map(ToString::to_string).collect()
    };
    assert!(
        of(&findings, "target.cluster").iter().any(|text| text.contains("another cluster")),
        "{findings:#}"
    );
    assert!(of(&findings, "target.cluster_backup").len() == 1, "{findings:#}");
    let grants = of(&findings, "target.cluster_grants");
    assert!(
        grants.iter().any(|text| text.contains("kubectl cnpg psql shop -n shop -- -d app -c")),
        "{grants:?}"
    );

    api.forbid("get", "clusters");
    let (_, findings, _) = check();
    let told = of(&findings, "target.cluster");
    assert!(told.iter().any(|text| text.contains("resourceNames") && text.contains("clusters")), "{told:?}");
    api.allow_everything();
    api.delete("secrets", "shop-app");
    let (code, _, complaint) = check();
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("there is no secret shop/shop-app"), "{complaint}");
}

/// The remedy for a target that is lost must not need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_can_be_cleaned_without_the_cluster_that_is_lost() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    api.change("clusters", "shop", &json!({ "status": { "lastSuccessfulBackup": "2026-11-30T02:00:00Z" } }));
    put_secrets(&api, &stage, OWNER_PASSWORD);
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let command = without_url(&stage, &section(&api, ""));
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    cut_over(&mut replicator).await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    assert!(source.batch_execute("INSERT INTO other VALUES (9100, 'x')").await.is_err(), "it is fenced");

    for secret in ["shop-app", "shop-ca"] {
        api.delete("secrets", secret);
    }
    api.delete("clusters", "shop");
    let arguments = ["cleanup", "--without-target", "--unfence-source"];
    let cleaned = command.command(&arguments).output().expect("the program");
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    source.batch_execute("INSERT INTO other VALUES (9100, 'x')").await.expect("it is open again");
}

/// An API server that is away when the pod starts is waited for, and a signal to stop is heard meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_at_the_start_is_waited_for() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    put_secrets(&api, &stage, OWNER_PASSWORD);
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    api.be_out_of_order(true);
    let command = without_url(&stage, &section(&api, ""));
    let mut stopped = command.start().expect("the program");
    until("it to wait", || async { stopped.log().contains("waiting for the Kubernetes API") }).await;
    stopped.signal(nix::sys::signal::Signal::SIGTERM);
    let status = stopped.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    assert_eq!(status.code(), Some(0), "{}", stopped.log());

    let mut replicator = command.start().expect("the program");
    until("it to wait", || async { replicator.log().contains("waiting for the Kubernetes API") }).await;
    api.be_out_of_order(false);
    streaming(&mut replicator).await;
}

/// What the program stops for is the last thing that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_is_told_as_an_event_before_the_program_ends() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(Pair::of(14, 17)).await);
    put_cluster(&api, &system_identifier(&stage).await);
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming_with(&section(&api, "")).await;
    let intruder = crate::harness::two_tables::intruder(&stage).await;
    intruder.batch_execute("DELETE FROM t WHERE id = 1").await.expect("SQL");
    source.batch_execute("UPDATE t SET v = 'after' WHERE id = 1").await.expect("SQL");
    crate::harness::two_tables::halted(replicator).await;
    let told = events(&api);
    assert!(told.iter().any(|(reason, _)| reason == "Halted"), "{told:?}");
}

/// Everything is asked for by names, but what has none: the list of backups, and the Events that are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_is_asked_for_than_what_the_role_for_it_allows() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    put_cluster(&api, &system_identifier(&stage).await);
    put_secrets(&api, &stage, OWNER_PASSWORD);
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = without_url(&stage, &section(&api, "")).start().expect("the program");
    streaming(&mut replicator).await;
    until("Secrets to be read again", || async {
        api.all_requests().iter().filter(|asked| asked.name == "shop-app").count() > 1
    })
    .await;
    let asked = documented::calls_of(&api.all_requests());
    let listed: BTreeSet<_> = ROLES.iter().flat_map(|(section, _)| documented::documented(section)).collect();
    assert_eq!(asked, listed);
    for (section, role) in ROLES {
        assert_eq!(documented::documented(section), documented::allowed_by(role), "{section}");
    }
    assert!(asked.len() >= 5, "{asked:?}");
}
