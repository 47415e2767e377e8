//! What operators write, and what they read when it is wrong.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::config::{
    Address, BackupGate, BinaryMode, Durability, EventsMode, KubernetesAccess, ServiceShape, SessionPools,
    SpoolConfig, StreamInProgress, TrafficConfig, Workload, WorkloadKind,
};

const MINIMAL: &str =
    "[source]\nurl = \"host=old dbname=shop user=app\"\n[target]\nurl = \"host=new dbname=shop user=app\"\n";

fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(file.path()), variables)
}

fn refused(text: &str, variables: &[(&str, &str)]) -> String {
    match load_text(text, variables) {
        Ok(_) => panic!("accepted: {text} {variables:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn two_variables_are_a_whole_configuration() {
    let variables = [
        ("PGSLUICE_SOURCE__URL", "postgres://app:secret@old/shop"),
        ("PGSLUICE_TARGET__URL", "postgres://app:secret@new/shop"),
    ];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = load(None, variables).unwrap();
    assert_eq!((config.source.slot.as_str(), config.source.publication.as_str()), ("pgsluice", "pgsluice"));
    assert_eq!(config.target.durability, Durability::Local);
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.cutover.max_pause, Duration::from_secs(1));
    assert_eq!(config.apply.max_batch_bytes, 16 << 20);
    assert!((2..=4).contains(&config.snapshot.jobs));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn variables_win_over_the_file_and_service_variables_of_kubernetes_are_left_alone() {
    let config = load_text(
        &format!("{MINIMAL}[snapshot]\njobs = 3\n"),
        &[
            ("PGSLUICE_PORT", "tcp://10.0.0.1:8080"),
            ("PGSLUICE_SERVICE_PORT_HTTP", "8080"),
            ("PGSLUICE_SNAPSHOT__JOBS", "7"),
            ("PGSLUICE_SOURCE__TABLES__EXCLUDE", "[\"public.audit_*\"]"),
            ("PGSLUICE_APPLY__MAX_BATCH_BYTES", "1048576"),
            ("PGSLUICE_CUTOVER__REVERSE", "false"),
            ("PGSLUICE_SOURCE__SLOT", "12"),
        ],
    )
    .unwrap();
    assert_eq!(config.snapshot.jobs, 7);
    assert_eq!(config.apply.max_batch_bytes, 1 << 20);
    assert_eq!(config.source.slot, "12");
    assert!(!config.cutover.reverse);
    assert!(!config.source.tables.selects(&crate::model::TableName::new("public", "audit_1")));
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest_known_one() {
    let error = refused(&format!("{MINIMAL}[cutover]\nmax_pause = 5\n"), &[]);
    assert!(error.contains("`cutover.max_pause`") && error.contains("did you mean `cutover.max_pause_ms`?"));
    let error = refused(&format!("{MINIMAL}[sauce]\n"), &[]);
    assert!(error.contains("did you mean `source`?"));
    let error = refused(MINIMAL, &[("PGSLUICE_SNAPSHOT__JOBB", "3")]);
    assert!(error.contains("environment variable PGSLUICE_SNAPSHOT__JOBB"));
    assert!(error.contains("did you mean `snapshot.jobs`?"), "{error}");
    let error = refused(&format!("{MINIMAL}[source.tables]\nonly = []\n"), &[]);
    assert!(error.contains("source.tables.include"), "{error}");
}

#[test]
fn no_error_quotes_a_value() {
    for (text, variables) in [
        ("[source]\nurl = 'hunter2'\n".to_owned(), vec![]),
        ("[source]\nurl = \"hunter2\nhunter2".to_owned(), vec![]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_SOURCE__URL", "postgres://a:hunter2@h:port/x")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_SNAPSHOT__JOBS", "hunter2")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_API__LISTEN", "hunter2")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_SOURCE__SLOT", "Hunter2 hunter2")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_APPLY__MAX_BATCH_BYTES", "hunter2")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_CUTOVER__ON_WRITERS", "hunter2")]),
        (MINIMAL.to_owned(), vec![("PGSLUICE_SNAPSHOT__JOBS", "1\nhunter2 = 2")]),
        (format!("{MINIMAL}[snapshot]\njobs = 'hunter2'\n"), vec![]),
        (format!("{MINIMAL}[[traffic]]\nadapter = 'hunter2'\n"), vec![]),
    ] {
        let error = load_text(&text, &variables).unwrap_err();
        let printed = format!("{error} {error:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.contains("Hunter2"), "{printed}");
    }
}

#[test]
fn values_of_the_wrong_kind_say_what_is_allowed() {
    assert!(refused(&format!("{MINIMAL}[snapshot]\njobs = 'three'\n"), &[]).contains("a whole number"));
    assert!(refused(&format!("{MINIMAL}[snapshot]\njobs = -1\n"), &[]).contains("a negative number"));
    assert!(refused(&format!("{MINIMAL}[snapshot]\njobs = 65\n"), &[]).contains("1 to 64"));
    assert!(
        refused(&format!("{MINIMAL}[snapshot]\njobs = 99999999999\n"), &[]).contains("too large a number")
    );
    assert!(refused(&format!("{MINIMAL}[cutover]\non_writers = 'kill'\n"), &[]).contains("\"terminate\""));
    assert!(refused(&format!("{MINIMAL}[apply]\nmax_batch_bytes = '16 apples'\n"), &[]).contains("64MiB"));
    assert!(
        refused(&format!("{MINIMAL}[apply]\nmax_batch_bytes = '1GB'\n"), &[]).contains("64KiB to 256MiB")
    );
    assert!(refused(&format!("{MINIMAL}[cutover]\nmax_pause_ms = 5\n"), &[]).contains("10 to 600000"));
    assert!(
        refused(&format!("{MINIMAL}[source.tables]\ninclude = ['orders']\n"), &[]).contains("schema.table")
    );
    assert!(
        refused(&format!("{MINIMAL}[source.tables]\ninclude = 'public.*'\n"), &[])
            .contains("a list of strings")
    );
    assert!(refused("[source]\nurl = 'host=a'\nurl = 'host=b'\n", &[]).contains("line 3"));
}

#[test]
fn the_copy_is_unlimited_unless_asked_and_limits_that_would_stop_it_are_refused() {
    let snapshot = load_text(&format!("{MINIMAL}[snapshot]\njobs = 3\n"), &[]).unwrap().snapshot;
    assert_eq!((snapshot.index_jobs, snapshot.max_bytes_per_second), (3, None));
    assert_eq!((snapshot.max_wal_retained_bytes, snapshot.max_standby_lag_bytes), (None, None));

    let limits = "max_bytes_per_second = '64kB'\nmax_standby_lag_bytes = '1GB'\nindex_jobs = 1\n";
    let snapshot = load_text(&format!("{MINIMAL}[snapshot]\njobs = 3\n{limits}"), &[]).unwrap().snapshot;
    assert_eq!(snapshot.max_bytes_per_second.map(std::num::NonZero::get), Some(65536));
    assert_eq!((snapshot.max_standby_lag_bytes, snapshot.index_jobs), (Some(1 << 30), 1));

    for (wrong, said) in [
        ("max_bytes_per_second = 65535", "at least 64KiB"),
        ("max_standby_lag_bytes = 0", "snapshot.max_standby_lag_bytes"),
        ("max_wal_retained_bytes = 0", "snapshot.max_wal_retained_bytes"),
        ("index_jobs = 0", "snapshot.index_jobs"),
    ] {
        let error = refused(&format!("{MINIMAL}[snapshot]\n{wrong}\n"), &[]);
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn a_missing_url_says_which_variable_would_do() {
    let error = refused("", &[]);
    assert!(error.contains("`source.url`") && error.contains("PGSLUICE_SOURCE__URL"));
}

#[test]
fn source_and_target_must_differ() {
    let text = "[source]\nurl = 'host=db dbname=a user=x'\n[target]\nurl = 'postgres://y@db:5432/a'\n";
    assert!(refused(text, &[]).contains("the same database"));
}

#[test]
fn secrets_are_read_from_files_without_their_line_break() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "s3cret \n").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let file = path.display().to_string();
    let config =
        load_text(MINIMAL, &[("PGSLUICE_SOURCE__PASSWORD_FILE", &file), ("PGSLUICE_API__TOKEN_FILE", &file)]);
    // A blank is fine in a password, and not in a token.
    assert!(config.unwrap_err().to_string().contains("api.token_file"));
    let config = load_text(MINIMAL, &[("PGSLUICE_SOURCE__PASSWORD_FILE", &file)]).unwrap();
    let environment = config.source.connection.libpq_environment();
    assert!(environment.contains(&("PGPASSWORD".to_owned(), "s3cret ".to_owned())));

    std::fs::write(&path, "\n").unwrap();
    assert!(refused(MINIMAL, &[("PGSLUICE_SOURCE__PASSWORD_FILE", &file)]).contains("it is empty"));
    let missing = directory.path().join("missing").display().to_string();
    assert!(refused(MINIMAL, &[("PGSLUICE_SOURCE__PASSWORD_FILE", &missing)]).contains("cannot be read"));
    let both =
        [("PGSLUICE_SOURCE__PASSWORD_FILE", file.as_str()), ("PGSLUICE_SOURCE__URL", "postgres://a:b@old/x")];
    assert!(refused(MINIMAL, &both).contains("not clear which is meant"));
}

#[test]
fn traffic_adapters_are_read_in_order_and_keys_of_others_refused() {
    let text = format!(
        "{MINIMAL}[[traffic]]\nadapter = 'exec'\ncommand = ['/bin/move', 'now']\n[[traffic]]\nadapter = 'webhook'\nurl = 'http://127.0.0.1:9/x'\ntimeout_ms = 500\n[[traffic]]\nadapter = 'manual'\n"
    );
    let config = load_text(&text, &[]).unwrap();
    assert!(matches!(&config.traffic[0], TrafficConfig::Exec { command, .. } if command.len() == 2));
    assert!(
        matches!(&config.traffic[1], TrafficConfig::Webhook { timeout, .. } if *timeout == Duration::from_millis(500))
    );
    assert!(matches!(&config.traffic[2], TrafficConfig::Manual { .. }));

    let error = refused(&format!("{MINIMAL}[[traffic]]\nadapter = 'exec'\nurl = 'http://x'\n"), &[]);
    assert!(error.contains("traffic[0].url"));
    assert!(refused(&format!("{MINIMAL}[[traffic]]\ncommand = ['x']\n"), &[]).contains("adapter"));
    assert!(
        refused(&format!("{MINIMAL}[[traffic]]\nadapter = 'webhook'\nurl = 'ftp://x'\n"), &[])
            .contains("http")
    );
}

#[test]
fn the_pgbouncer_adapter_is_read_and_what_it_lacks_is_named() {
    let entry = |keys: &str| format!("{MINIMAL}[[traffic]]\nadapter = 'pgbouncer'\n{keys}");
    let consoles =
        "consoles = ['postgresql://admin:hunter2@a:6432/pgbouncer', 'host=b port=6432 user=admin']\n";
    let text = entry(&format!(
        "{consoles}config_file = '/etc/pgbouncer/pgbouncer.ini'\nsource_address = '[::1]:5433'\ntarget_address = 'new:5432'\nsession_pools = 'wait'\n"
    ));
    let config = load_text(&text, &[]).unwrap();
    let TrafficConfig::Pgbouncer(pgbouncer) = &config.traffic[0] else { panic!("another adapter") };
    assert_eq!(pgbouncer.consoles.len(), 2);
    assert!(pgbouncer.consoles.iter().all(|console| console.database() == "pgbouncer"));
    assert_eq!(pgbouncer.source_address, Some(Address { host: "::1".into(), port: 5433 }));
    assert_eq!(pgbouncer.session_pools, SessionPools::Wait);
    assert!(!format!("{config:?}").contains("hunter2"));

    let file = "config_file = 'x'\n";
    for (keys, named) in [
        (file.to_owned(), "traffic[0].consoles"),
        ("consoles = []\nconfig_file = 'x'\n".to_owned(), "traffic[0].consoles"),
        (consoles.to_owned(), "traffic[0].config_file"),
        (format!("{consoles}{file}command = ['y']\n"), "traffic[0].command"),
        (format!("{consoles}{file}databases = []\n"), "traffic[0].databases"),
        (format!("{consoles}{file}target_address = 'new'\n"), "traffic[0].target_address"),
        (format!("{consoles}{file}target_address = ':5432'\n"), "traffic[0].target_address"),
        (format!("{consoles}{file}source_address = 'a b:5432'\n"), "traffic[0].source_address"),
        (format!("{consoles}{file}url = 'http://x'\n"), "traffic[0].url"),
        (
            format!("{file}consoles = ['postgresql://admin@a:6432/shop']\n"),
            "the admin console is `pgbouncer`",
        ),
        (format!("{file}consoles = ['hunter2']\n"), "no connection string"),
    ] {
        let error = refused(&entry(&keys), &[]);
        assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn standbys_and_durability_must_agree() {
    let with = |extra: &str| {
        format!("[source]\nurl = 'host=old user=a'\n[target]\nurl = 'host=new user=a'\n{extra}")
    };
    let config = load_text(&with("durability = 'standbys'\nstandbys = 2\n"), &[]).unwrap();
    assert!(matches!(config.target.durability, Durability::Standbys(count) if count.get() == 2));
    assert!(refused(&with("durability = 'standbys'\n"), &[]).contains("`target.standbys` is not set"));
    assert!(refused(&with("standbys = 2\n"), &[]).contains("target.durability"));
    assert!(refused(&with("durability = 'standbys'\nstandbys = 0\n"), &[]).contains("it is 0"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Some(Path::new("/nonexistent/pgsluice.toml")), std::iter::empty()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/pgsluice.toml"));
}

#[test]
fn commands_for_a_running_instance_need_only_the_api_section() {
    let variables = [("PGSLUICE_API__LISTEN".to_owned(), "127.0.0.1:9999".to_owned())];
    let api = load_api(None, variables.into_iter()).unwrap();
    assert_eq!(api.listen.port(), 9999);
}

#[test]
fn transactions_in_progress_are_kept_in_a_directory_that_exists_and_within_bounds() {
    let with = |extra: &str| {
        format!("[source]\nurl = 'host=old user=a'\n{extra}[target]\nurl = 'host=new user=a'\n")
    };
    let config = load_text(&with("spool_dir = '/nonexistent'\n"), &[]).unwrap();
    assert_eq!(config.source.stream_in_progress, StreamInProgress::Off);
    let directory = tempfile::tempdir().unwrap();
    let on = format!(
        "stream_in_progress = 'on'\nspool_dir = '{}'\nmax_spool_bytes = '1MiB'\nbinary = 'off'\n",
        directory.path().display()
    );
    let config = load_text(&with(&on), &[]).unwrap();
    let spool = SpoolConfig { directory: directory.path().to_owned(), max_bytes: 1 << 20 };
    assert_eq!(config.source.stream_in_progress, StreamInProgress::On(spool));
    assert_eq!(config.source.binary, BinaryMode::Off);
    assert!(refused(&with("max_spool_bytes = 0\n"), &[]).contains("at least 1MiB"));
    let missing = "stream_in_progress = 'on'\nspool_dir = '/nonexistent'\n";
    assert!(refused(&with(missing), &[]).contains("is not a directory"));
    assert!(refused(&with("stream_in_progress = 'parallel'\n"), &[]).contains("\"off\", \"on\""));
}

#[test]
fn the_kubernetes_service_adapter_is_read_and_what_it_lacks_is_named() {
    let entry = |keys: &str| format!("{MINIMAL}[[traffic]]\nadapter = 'kubernetes-service'\n{keys}");
    let text = entry(
        "service = 'shop-db'\nnamespace = 'shop'\nsource_selector = ['app=postgres', 'a.b/role=']\ntarget_external_name = 'shop-rw.shop.svc'\n",
    );
    let config = load_text(&text, &[]).unwrap();
    let TrafficConfig::KubernetesService(service) = &config.traffic[0] else { panic!("another adapter") };
    let labels = [("app", "postgres"), ("a.b/role", "")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(service.source, ServiceShape::Selector(labels.into()));
    assert_eq!(service.target, ServiceShape::ExternalName("shop-rw.shop.svc".into()));
    assert_eq!(service.access, KubernetesAccess { kubeconfig: None, namespace: Some("shop".into()) });
    load_text(&entry("service = 'a'\nsource_selector = []\ntarget_external_name = 'b'\n"), &[]).unwrap();

    let (old, new) = ("source_selector = ['a=b']\n", "target_selector = ['c=d']\n");
    for (keys, named) in [
        (format!("{old}{new}"), "traffic[0].service"),
        (format!("service = 'a/b'\n{old}{new}"), "traffic[0].service"),
        (format!("service = '..'\n{old}{new}"), "traffic[0].service"),
        (format!("service = 'a'\nnamespace = 'A'\n{old}{new}"), "traffic[0].namespace"),
        (format!("service = 'a'\n{new}"), "traffic[0].source_selector"),
        (format!("service = 'a'\n{old}"), "traffic[0].target_selector"),
        (format!("service = 'a'\n{old}{new}source_external_name = 'b'\n"), "traffic[0].source_external_name"),
        (format!("service = 'a'\n{old}target_external_name = 'b:5432'\n"), "traffic[0].target_external_name"),
        (format!("service = 'a'\n{new}source_selector = ['a']\n"), "traffic[0].source_selector"),
        (format!("service = 'a'\n{new}source_selector = ['a=b', 'a=c']\n"), "traffic[0].source_selector"),
        (format!("service = 'a'\n{old}target_selector = []\n"), "traffic[0].target_selector"),
        (format!("service = 'a'\n{new}source_selector = []\n"), "would stay beside the target's"),
        (format!("service = 'a'\n{old}target_selector = ['a=b']\n"), "looks the same on both sides"),
        (format!("service = 'a'\n{old}{new}workloads = ['deployment/web']\n"), "traffic[0].workloads"),
    ] {
        let error = refused(&entry(&keys), &[]);
        assert!(error.contains(named), "{keys}: {error}");
    }
}

#[test]
fn the_kubernetes_scale_and_cnpg_pooler_adapters_are_read_and_what_they_lack_is_named() {
    let scale = |keys: &str| format!("{MINIMAL}[[traffic]]\nadapter = 'kubernetes-scale'\n{keys}");
    let text = scale("workloads = ['deployment/web', 'statefulset/worker']\nkubeconfig = '/k'\n");
    let config = load_text(&text, &[]).unwrap();
    let TrafficConfig::KubernetesScale(read) = &config.traffic[0] else { panic!("another adapter") };
    assert_eq!(read.workloads[1], Workload { kind: WorkloadKind::StatefulSet, name: "worker".into() });
    assert_eq!(read.timeout, Duration::from_secs(60));
    for keys in [
        "",
        "workloads = []\n",
        "workloads = ['web']\n",
        "workloads = ['job/web']\n",
        "workloads = ['deployment/']\n",
        "workloads = ['deployment/a/scale']\n",
        "workloads = ['deployment/web', 'deployment/web']\n",
    ] {
        let error = refused(&scale(keys), &[]);
        assert!(error.contains("traffic[0].workloads"), "{keys}: {error}");
    }

    let pooler = |keys: &str| format!("{MINIMAL}[[traffic]]\nadapter = 'cnpg-pooler'\n{keys}");
    let config = load_text(&pooler("pooler = 'shop'\nsession_pools = 'wait'\n"), &[]).unwrap();
    let TrafficConfig::CnpgPooler(read) = &config.traffic[0] else { panic!("another adapter") };
    assert_eq!((read.metrics_port, read.session_pools), (9127, SessionPools::Wait));
    for (keys, named) in [
        ("", "traffic[0].pooler"),
        ("pooler = ''\n", "traffic[0].pooler"),
        ("pooler = 'a'\nmetrics_port = 0\n", "traffic[0].metrics_port"),
        ("pooler = 'a'\nmetrics_port = 70000\n", "traffic[0].metrics_port"),
        ("pooler = 'a'\nservice = 'b'\n", "traffic[0].service"),
    ] {
        let error = refused(&pooler(keys), &[]);
        assert!(error.contains(named), "{keys}: {error}");
    }
}

#[test]
fn an_object_of_kubernetes_is_changed_by_one_adapter_only() {
    let service = "adapter = 'kubernetes-service'\nservice = 'a'\nsource_selector = ['a=b']\ntarget_selector = ['c=d']\n";
    let scale = "adapter = 'kubernetes-scale'\nworkloads = ['deployment/b', 'deployment/a']\n";
    let pooler = "adapter = 'cnpg-pooler'\npooler = 'a'\n";
    let all = |entries: &[&str]| {
        let entries: String = entries.iter().map(|entry| format!("[[traffic]]\n{entry}")).collect();
        format!("{MINIMAL}{entries}")
    };
    load_text(&all(&[service, scale, pooler]), &[]).unwrap();
    let again = "adapter = 'kubernetes-scale'\nworkloads = ['statefulset/a', 'deployment/a']\n";
    for (first, second, key, object) in [
        (service, service, "traffic[2].service", "service/a"),
        (scale, again, "traffic[2].workloads", "deployment/a"),
        (pooler, pooler, "traffic[2].pooler", "pooler/a"),
    ] {
        let between = "adapter = 'manual'\n";
        let error = refused(&all(&[first, between, second]), &[]);
        assert!(error.contains(key) && error.contains(object) && error.contains("traffic[0]"), "{error}");
        // Which namespace one is in that names none is not known here.
        let elsewhere = format!("{second}namespace = 'elsewhere'\n");
        let error = refused(&all(&[first, between, &elsewhere]), &[]);
        assert!(error.contains(key) && error.contains("name the `namespace` in both"), "{error}");
        let here = format!("{first}namespace = 'here'\n");
        load_text(&all(&[&here, between, &elsewhere]), &[]).unwrap();
    }
}

#[test]
fn a_certificate_and_its_key_are_given_together_and_belong_together() {
    let authority = crate::control::tls_fixture::Authority::new();
    authority.issue();
    let files = authority.files();
    let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
    let tls = |certificate: &str, key: &str| {
        format!("{MINIMAL}[api]\ntls_cert_file = {certificate:?}\ntls_key_file = {key:?}\n")
    };
    let config = load_text(&tls(&certificate, &key), &[]).unwrap();
    assert_eq!(config.api.tls, Some(files.clone()));

    let only = refused(MINIMAL, &[("PGSLUICE_API__TLS_CERT_FILE", &certificate)]);
    assert!(only.starts_with("`api.tls_key_file` is not set: `api.tls_cert_file` is"), "{only}");
    let only = refused(MINIMAL, &[("PGSLUICE_API__TLS_KEY_FILE", &key)]);
    assert!(only.starts_with("`api.tls_cert_file` is not set"), "{only}");
    let away = refused(&tls("/nowhere/tls.crt", &key), &[]);
    assert!(away.contains("/nowhere/tls.crt") && away.contains("`api.tls_cert_file`"), "{away}");
    // A common slip: the two exchanged.
    let exchanged = refused(&tls(&key, &certificate), &[]);
    assert!(exchanged.contains("there is no certificate in it"), "{exchanged}");

    let old_key = std::fs::read(&files.key).unwrap();
    authority.issue();
    std::fs::write(&files.key, old_key).unwrap();
    let mismatch = refused(&tls(&certificate, &key), &[]);
    assert!(
        mismatch.contains("is not that of the certificate") && mismatch.contains(&certificate),
        "{mismatch}"
    );
    assert!(!mismatch.contains("PRIVATE"), "{mismatch}");
    // Who only talks to a running instance does not read them.
    let variables = [("PGSLUICE_API__TLS_CERT_FILE", "/nowhere"), ("PGSLUICE_API__TLS_KEY_FILE", "/nowhere")];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert!(load_api(None, variables).unwrap().tls.is_some());
}

#[test]
fn the_lease_has_a_name_that_an_object_can_have_or_there_is_none() {
    assert_eq!(load_text(MINIMAL, &[]).unwrap().kubernetes.lease, None);
    let text = format!("{MINIMAL}[kubernetes]\nlease = \"pgsluice\"\nnamespace = \"shop\"\n");
    let kubernetes = load_text(&text, &[]).unwrap().kubernetes;
    assert_eq!(kubernetes.lease.as_deref(), Some("pgsluice"));
    assert_eq!(kubernetes.access, KubernetesAccess { kubeconfig: None, namespace: Some("shop".into()) });
    // An empty variable is none.
    assert_eq!(load_text(&text, &[("PGSLUICE_KUBERNETES__LEASE", "")]).unwrap().kubernetes.lease, None);
    for (key, value) in [("LEASE", "pg_sluice"), ("LEASE", "../secrets/x"), ("NAMESPACE", "Shop")] {
        let error = refused(&text, &[(&format!("PGSLUICE_KUBERNETES__{key}"), value)]);
        assert!(error.contains("cannot be the name of an object") && !error.contains(value), "{error}");
    }
}

#[test]
fn the_cluster_that_the_target_is_may_say_how_it_is_reached() {
    let written = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(Some(file.path()), std::iter::empty())
    };
    let source = "[source]\nurl = \"host=old dbname=shop user=app\"\n";
    let found = written(&format!("{source}[target.cnpg]\ncluster = \"shop\"\nnamespace = \"db\"\n")).unwrap();
    assert!(found.asks_cluster());
    let cnpg = found.cluster().unwrap();
    assert_eq!(
        (cnpg.cluster.as_str(), cnpg.secret.as_str(), cnpg.database.as_deref()),
        ("shop", "shop-app", None)
    );
    assert_eq!((cnpg.backup, cnpg.events), (BackupGate::Required, EventsMode::Told));
    let reached = ConnectionSettings::parse("postgres://app@shop-rw.db.svc/shop").unwrap();
    let config = found.complete(Some(reached)).unwrap();
    assert_eq!(config.target.connection.describe(), "shop-rw.db.svc:5432/shop as app");
    assert!(config.target.cnpg.is_some());
    let known =
        written(&format!("{MINIMAL}[target.cnpg]\ncluster = \"shop\"\nbackup = \"ignored\"\n")).unwrap();
    assert!(!known.asks_cluster());
    assert!(written(MINIMAL).unwrap().cluster().is_none());

    for (text, said) in [
        ("[target.cnpg]\nnamespace = \"db\"\n", "target.cnpg.cluster"),
        ("[target.cnpg]\ncluster = \"Shop!\"\n", "target.cnpg.cluster"),
        ("[target.cnpg]\ncluster = \"shop\"\nsecret = \"shop/app\"\n", "target.cnpg.secret"),
        ("[target.cnpg]\ncluster = \"shop\"\nnamespace = \"a/b\"\n", "target.cnpg.namespace"),
        ("[target]\npassword_file = \"/x\"\n[target.cnpg]\ncluster = \"shop\"\n", "target.password_file"),
    ] {
        let error = written(&format!("{source}{text}")).expect_err(text).to_string();
        assert!(error.contains(said), "{error}");
    }
    let both = format!("{MINIMAL}[target.cnpg]\ncluster = \"shop\"\nsecret = \"x\"\n");
    assert!(written(&both).expect_err("two places").to_string().contains("target.cnpg.secret"));
    // Where nobody asks the cluster.
    assert!(refused(&format!("{source}[target.cnpg]\ncluster = \"shop\"\n"), &[]).contains("target.url"));
}
