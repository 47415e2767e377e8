//! Connections as operators write them, against real servers: authentication, `sslmode`, channel binding, pinned
//! settings, and what is said when it does not work.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pgsluice::connection::{
    ConnectError, ConnectFailure, ConnectionSettings, PINNED_SETTINGS, SqlSession, WireConnection,
    connect_sql,
};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, PASSWORD, ServerTls};
use pgsluice::model::{Disposition, Side};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};

use crate::harness::clusters::{connect, options, start_with};

/// The oldest source and a current target.
const VERSIONS: [u32; 2] = [14, 17];

/// Who must authenticate how: the methods this program speaks, and roles that only get in with or without TLS.
const RULES: &str = "local all all trust
hostssl all tls_only 127.0.0.1/32 scram-sha-256
hostnossl all plain_only 127.0.0.1/32 scram-sha-256
host all md5_role 127.0.0.1/32 md5
host all clear_role 127.0.0.1/32 password
host all postgres,scram_role,no_login 127.0.0.1/32 scram-sha-256
";

/// A certificate authority, and a server's certificate signed by it, made out to `localhost` alone. The authority's
/// algorithm is that of the signature, which decides about channel binding.
struct Certificates {
    folder: tempfile::TempDir,
    server: ServerTls,
}

impl Certificates {
    fn new(authority_algorithm: &'static SignatureAlgorithm) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "throwaway authority");
        let authority_key = KeyPair::generate_for(authority_algorithm).expect("key");
        let authority_pem = authority.self_signed(&authority_key).expect("certificate").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("key");
        let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = server.signed_by(&key, &issuer).expect("certificate");
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("ca.crt"), authority_pem).expect("write");
        let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).expect("certificate");
        fs::write(folder.path().join("other.crt"), other.cert.pem()).expect("write");
        Self {
            folder,
            server: ServerTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() },
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn start(major: u32, options: ClusterOptions) -> LocalCluster {
    let mut cluster = start_with(major, options).await;
    let client = connect(&cluster.url("postgres")).await;
    client
        .batch_execute(&format!(
            "SET password_encryption = 'scram-sha-256';
             CREATE ROLE scram_role LOGIN REPLICATION PASSWORD '{PASSWORD}';
             CREATE ROLE tls_only LOGIN REPLICATION PASSWORD '{PASSWORD}';
             CREATE ROLE plain_only LOGIN REPLICATION PASSWORD '{PASSWORD}';
             CREATE ROLE clear_role LOGIN REPLICATION PASSWORD '{PASSWORD}';
             CREATE ROLE no_login PASSWORD '{PASSWORD}';
             SET password_encryption = 'md5';
             CREATE ROLE md5_role LOGIN REPLICATION PASSWORD '{PASSWORD}';"
        ))
        .await
        .expect("roles");
    fs::write(cluster.data_dir().join("pg_hba.conf"), RULES).expect("rules");
    cluster.restart().await.expect("restart");
    cluster
}

async fn start_secured(major: u32, certificates: &Certificates) -> LocalCluster {
    start(major, options().tls(certificates.server.clone())).await
}

fn settings(cluster: &LocalCluster, user: &str, host: &str, parameters: &str) -> ConnectionSettings {
    let port = cluster.port();
    let text = format!("postgres://{user}:{PASSWORD}@{host}:{port}/postgres?{parameters}");
    ConnectionSettings::parse(&text).expect("settings")
}

/// Whether the session is encrypted, as the server sees it; both kinds of connections must agree.
async fn encrypted(settings: &ConnectionSettings) -> Result<bool, ConnectError> {
    const QUESTION: &str =
        "SELECT ssl::text AS ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let session = connect_sql(settings, Side::Source, "test").await;
    let connection = WireConnection::connect_walsender(settings, Side::Source, "test", &[]).await;
    let (session, mut connection) = match (session, connection) {
        (Ok(session), Ok(connection)) => (session, connection),
        (Err(error), Err(other)) => {
            assert_eq!(error.to_string(), other.to_string(), "both kinds fail alike");
            return Err(error);
        }
        (session, connection) => panic!("only one kind connects: {session:?} {connection:?}"),
    };
    let by_sql: String = session.query_one(QUESTION, &[]).await.expect("query").get(0);
    let rows = connection.simple_query(QUESTION).await.expect("query");
    assert_eq!(rows[0].get("ssl"), Some(by_sql.as_str()));
    assert_eq!(connection.is_encrypted(), by_sql == "true");
    connection.close().await;
    session.close().await;
    Ok(by_sql == "true")
}

async fn failure(settings: &ConnectionSettings) -> ConnectError {
    match encrypted(settings).await {
        Ok(_) => panic!("{settings} connects"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn every_password_method_works_on_both_kinds_of_connections() {
    for major in VERSIONS {
        let cluster = start(major, options()).await;
        for user in ["scram_role", "md5_role", "clear_role"] {
            let plain = encrypted(&settings(&cluster, user, "127.0.0.1", "")).await;
            assert!(!plain.expect(user), "{user} on {major}: nothing to encrypt with");
        }
    }
}

#[tokio::test]
async fn every_sslmode_means_what_it_means_to_libpq() {
    for major in VERSIONS {
        let certificates = Certificates::new(&rcgen::PKCS_ECDSA_P256_SHA256);
        let cluster = start_secured(major, &certificates).await;
        let (ca, other) = (certificates.path("ca.crt"), certificates.path("other.crt"));
        let (ca, other) =
            (format!("&sslrootcert={}", ca.display()), format!("&sslrootcert={}", other.display()));
        for (user, host, mode, roots, expected) in [
            ("scram_role", "localhost", "disable", "", Some(false)),
            ("scram_role", "localhost", "allow", "", Some(false)),
            ("scram_role", "localhost", "prefer", "", Some(true)),
            ("scram_role", "localhost", "require", "", Some(true)),
            ("scram_role", "localhost", "require", &*ca, Some(true)),
            ("scram_role", "localhost", "require", &*other, None),
            ("scram_role", "localhost", "verify-ca", "", None),
            ("scram_role", "localhost", "verify-ca", &*ca, Some(true)),
            ("scram_role", "127.0.0.1", "verify-ca", &*ca, Some(true)),
            ("scram_role", "localhost", "verify-ca", &*other, None),
            ("scram_role", "localhost", "verify-full", &*ca, Some(true)),
            ("scram_role", "127.0.0.1", "verify-full", &*ca, None),
            ("scram_role", "localhost", "verify-full", &*other, None),
            ("scram_role", "localhost", "verify-full", "", None),
            // `allow` and `prefer` try the other way when the first is not let in.
            ("tls_only", "localhost", "allow", "", Some(true)),
            ("tls_only", "localhost", "disable", "", None),
            ("plain_only", "localhost", "prefer", "", Some(false)),
            ("plain_only", "localhost", "require", "", None),
        ] {
            let result = encrypted(&settings(&cluster, user, host, &format!("sslmode={mode}{roots}"))).await;
            assert_eq!(result.ok(), expected, "{user}@{host} sslmode={mode}{roots} on {major}");
        }
        let direct = settings(&cluster, "scram_role", "localhost", "sslmode=require&sslnegotiation=direct");
        assert_eq!(encrypted(&direct).await.ok(), (major >= 17).then_some(true), "direct TLS on {major}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_used_plain_by_prefer_and_refused_by_require() {
    let cluster = start(17, options()).await;
    assert!(
        !encrypted(&settings(&cluster, "scram_role", "localhost", "sslmode=prefer")).await.expect("plain")
    );
    let error = failure(&settings(&cluster, "scram_role", "localhost", "sslmode=require")).await;
    assert!(matches!(error.failure(), ConnectFailure::TlsNotOffered { .. }), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_its_own_root() {
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate().expect("key");
    let certificate = parameters.self_signed(&key).expect("certificate").pem();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("server.crt");
    fs::write(&path, &certificate).expect("write");
    let tls = ServerTls { certificate_pem: certificate, key_pem: key.serialize_pem() };
    let cluster = start(17, options().tls(tls)).await;
    // As `openssl req -x509` makes them: an authority, without alternative names. libpq accepts its common name.
    let parameters = format!("sslmode=verify-full&sslrootcert={}", path.display());
    assert!(
        encrypted(&settings(&cluster, "scram_role", "localhost", &parameters)).await.expect("verify-full")
    );
    assert!(encrypted(&settings(&cluster, "scram_role", "127.0.0.1", &parameters)).await.is_err());
}

#[tokio::test]
async fn channel_binding_is_used_when_required_and_nothing_weaker_is_accepted() {
    for (major, algorithm) in [(14, &rcgen::PKCS_ECDSA_P256_SHA256), (17, &rcgen::PKCS_ECDSA_P384_SHA384)] {
        let certificates = Certificates::new(algorithm);
        let cluster = start_secured(major, &certificates).await;
        let with = |user, parameters| settings(&cluster, user, "localhost", parameters);
        let required = "sslmode=require&channel_binding=require";
        assert!(encrypted(&with("scram_role", required)).await.expect("SCRAM-SHA-256-PLUS"));
        for weaker in [
            with("scram_role", "sslmode=disable&channel_binding=require"),
            with("md5_role", required),
            with("clear_role", required),
        ] {
            let error = failure(&weaker).await;
            assert!(matches!(error.failure(), ConnectFailure::ChannelBindingUnavailable), "{error}");
        }
        assert!(
            encrypted(&with("scram_role", "sslmode=require&channel_binding=disable"))
                .await
                .expect("plain SCRAM")
        );
    }
}

#[tokio::test]
async fn a_certificate_without_defined_channel_binding_connects_without_it() {
    let certificates = Certificates::new(&rcgen::PKCS_ED25519);
    let cluster = start_secured(17, &certificates).await;
    assert!(
        encrypted(&settings(&cluster, "scram_role", "localhost", "sslmode=require")).await.expect("SCRAM")
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_remedy_and_without_the_password() {
    let cluster = start(17, options()).await;
    let port = cluster.port();
    let wrong = |text: String| ConnectionSettings::parse(&text).expect("settings");
    let cases = [
        (format!("postgres://scram_role:hunter2@127.0.0.1:{port}/postgres"), Some("28P01"), "password_file"),
        (format!("postgres://md5_role:hunter2@127.0.0.1:{port}/postgres"), Some("28P01"), "password_file"),
        (format!("postgres://scram_role@127.0.0.1:{port}/postgres"), None, "password_file"),
        (format!("postgres://nobody:hunter2@127.0.0.1:{port}/postgres"), Some("28000"), "pg_hba.conf"),
        (format!("postgres://no_login:{PASSWORD}@127.0.0.1:{port}/postgres"), Some("28000"), "LOGIN"),
        (format!("postgres://scram_role:{PASSWORD}@127.0.0.1:{port}/missing"), Some("3D000"), "source.url"),
    ];
    for (text, sqlstate, remedy) in cases {
        let error = failure(&wrong(text.clone())).await;
        assert_eq!(error.sqlstate(), sqlstate, "{text}: {error}");
        assert!(error.remedy().contains(remedy), "{text}: {}", error.remedy());
        assert!(matches!(error.disposition(), Disposition::WaitForOperator { .. }), "{error}");
        assert!(!format!("{error} {error:?} {}", error.remedy()).contains("hunter2"));
    }
    let refused = failure(&wrong("postgres://u:x@127.0.0.1:1/postgres".into())).await;
    assert!(matches!(refused.failure(), ConnectFailure::Refused { .. }), "{refused}");
    assert_eq!(refused.disposition(), Disposition::Retry);
    let dns = failure(&wrong("postgres://u:x@no-such-host.invalid/postgres".into())).await;
    assert!(matches!(dns.failure(), ConnectFailure::Dns { .. }), "{dns}");
    let socket = failure(&wrong("host=/nonexistent user=u dbname=d".into())).await;
    assert!(matches!(socket.failure(), ConnectFailure::Refused { .. }), "{socket}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_the_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    let text = format!("postgres://u:x@127.0.0.1:{port}/d?connect_timeout=1&sslmode=disable");
    let settings = ConnectionSettings::parse(&text).expect("settings");
    let started = std::time::Instant::now();
    let error = failure(&settings).await;
    assert!(matches!(error.failure(), ConnectFailure::Timeout { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn psql_connects_as_we_do_by_the_environment_alone() {
    let certificates = Certificates::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let cluster = start_secured(17, &certificates).await;
    let roots = certificates.path("ca.crt");
    let parameters = format!("sslmode=verify-full&channel_binding=require&sslrootcert={}", roots.display());
    let settings = settings(&cluster, "scram_role", "localhost", &parameters);
    let output = std::process::Command::new(cluster.installation().program("psql"))
        .args(["-XAtc", "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .env_clear()
        .envs(settings.libpq_environment())
        .output()
        .expect("psql");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim(), "scram_role|t", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_first_host_that_fits_is_used() {
    let cluster = start(17, options()).await;
    let port = cluster.port();
    let text = |role: &str| {
        format!(
            "postgres://scram_role:{PASSWORD}@127.0.0.1:1,127.0.0.1:{port}/postgres?target_session_attrs={role}"
        )
    };
    let primary = ConnectionSettings::parse(&text("read-write")).expect("settings");
    assert!(!encrypted(&primary).await.expect("the second host"));
    let standby = failure(&ConnectionSettings::parse(&text("standby")).expect("settings")).await;
    assert!(matches!(standby.failure(), ConnectFailure::WrongRole { .. }), "{standby}");
}

#[tokio::test]
async fn pinned_settings_win_over_those_of_role_and_database() {
    for major in VERSIONS {
        let cluster = start(major, options()).await;
        let client = connect_as_superuser(&cluster).await;
        client
            .batch_execute(
                "ALTER ROLE scram_role SET datestyle = 'German';
                 ALTER ROLE scram_role SET search_path = 'public';
                 ALTER ROLE scram_role SET default_transaction_isolation = 'serializable';
                 ALTER ROLE scram_role SET idle_session_timeout = '77s';
                 ALTER ROLE scram_role SET statement_timeout = '77s';
                 ALTER DATABASE postgres SET timezone = 'Asia/Tokyo';
                 ALTER DATABASE postgres SET extra_float_digits = -5;
                 ALTER DATABASE postgres SET default_transaction_read_only = on;",
            )
            .await
            .expect("settings of role and database");
        let settings = settings(&cluster, "scram_role", "127.0.0.1", "options=-c%20work_mem%3D5MB");
        let session = connect_sql(&settings, Side::Target, "apply").await.expect("session");
        let mut connection = WireConnection::connect_walsender(
            &settings,
            Side::Source,
            "stream",
            &[("wal_sender_timeout", "5s")],
        )
        .await
        .expect("connection");
        let mut backend =
            WireConnection::connect_backend(&settings, Side::Source, "copy").await.expect("connection");
        let others = [("work_mem", "5MB"), ("idle_session_timeout", "0"), ("is_superuser", "off")];
        for (name, value) in PINNED_SETTINGS.iter().chain(&others) {
            let question = format!("SELECT pg_catalog.current_setting('{name}') AS setting");
            let by_sql: String = session.query_one(&question, &[]).await.expect("query").get(0);
            assert_eq!(by_sql, *value, "{name} of an SQL session on {major}");
            let rows = connection.simple_query(&question).await.expect("query");
            assert_eq!(rows[0].get("setting"), Some(*value), "{name} of a walsender on {major}");
            let rows = backend.simple_query(&question).await.expect("query");
            assert_eq!(rows[0].get("setting"), Some(*value), "{name} of a backend on {major}");
        }
        let rows = connection.simple_query("SHOW wal_sender_timeout").await.expect("query");
        assert_eq!(rows[0].get("wal_sender_timeout"), Some("5s"));
        let names: Vec<String> = client
            .query(
                "SELECT application_name FROM pg_stat_activity WHERE usename = 'scram_role' ORDER BY 1",
                &[],
            )
            .await
            .expect("query")
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(names, ["pgsluice apply", "pgsluice copy", "pgsluice stream"]);
        assert_eq!(session.server_version().major(), major);
    }
}

async fn connect_as_superuser(cluster: &LocalCluster) -> SqlSession {
    let settings = ConnectionSettings::parse(&cluster.url("postgres")).expect("settings");
    connect_sql(&settings, Side::Source, "test").await.expect("session")
}

#[tokio::test]
async fn a_statement_is_cancelled_over_the_same_kind_of_connection() {
    let certificates = Certificates::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let cluster = start_secured(17, &certificates).await;
    let settings = settings(&cluster, "scram_role", "localhost", "sslmode=require");
    let session = connect_sql(&settings, Side::Source, "test").await.expect("session");
    let handle = session.cancel_handle();
    let cancelling = async {
        let watcher = connect_as_superuser(&cluster).await;
        let running = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'";
        crate::harness::wait::until("the statement to run", || async {
            watcher.query_one(running, &[&session.backend_pid()]).await.expect("query").get::<_, i64>(0) == 1
        })
        .await;
        handle.cancel().await.expect("cancel");
    };
    let (result, ()) = tokio::join!(session.batch_execute("SELECT pg_catalog.pg_sleep(60)"), cancelling);
    let error = result.expect_err("cancelled");
    assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("57014"));
}

#[tokio::test]
async fn a_dropped_session_is_rolled_back_and_a_terminated_one_notices() {
    let cluster = start(17, options()).await;
    let watcher = connect_as_superuser(&cluster).await;
    let gone = |pid: i32| {
        let watcher = &watcher;
        async move {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
            watcher.query_one(running, &[&pid]).await.expect("query").get::<_, i64>(0) == 0
        }
    };
    let session = connect_as_superuser(&cluster).await;
    session.batch_execute("BEGIN; CREATE TABLE public.half (id int)").await.expect("transaction");
    let pid = session.backend_pid();
    drop(session);
    crate::harness::wait::until("the dropped session's end", || gone(pid)).await;
    let exists: bool = watcher
        .query_one("SELECT pg_catalog.to_regclass('public.half') IS NOT NULL", &[])
        .await
        .expect("query")
        .get(0);
    assert!(!exists, "what was open is rolled back");

    let session = connect_as_superuser(&cluster).await;
    watcher.execute("SELECT pg_terminate_backend($1)", &[&session.backend_pid()]).await.expect("terminate");
    tokio::time::timeout(Duration::from_secs(30), session.closed()).await.expect("closed");
    assert!(session.is_closed());
}
