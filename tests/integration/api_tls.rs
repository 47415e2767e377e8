//! The API over HTTPS as an operator has it: the program's configuration names a certificate, commands name the authority,
//! and the certificate is renewed while it runs.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use nix::sys::signal::Signal;
use pgsluice::connection::https_client_config;
use pgsluice::demo::cluster::ServerTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::harness::clusters::options;
use crate::harness::stage::{COPY_WAIT, Pair, Stage};
use crate::harness::wait::until;

const METRIC: &str = "pgsluice_certificate_expiry_timestamp_seconds";

/// An authority, and the files of what it signs.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key"));
        let issuer = issuer.expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.crt"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pair(&self) -> ServerTls {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let parameters = CertificateParams::new(names).expect("parameters");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        ServerTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// Replaces both files, one after the other, as somebody does who copies them.
    fn issue(&self) -> ServerTls {
        let pair = self.pair();
        fs::write(self.path("tls.crt"), &pair.certificate_pem).expect("written");
        fs::write(self.path("tls.key"), &pair.key_pem).expect("written");
        pair
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_over_https_and_a_renewed_certificate_needs_no_restart() {
    let authority = Authority::new();
    authority.issue();
    let stage = Stage::with_options(Pair::of(14, 17), options(), options().tls(authority.pair())).await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.expect("SQL");
    let mut command = stage.command(&format!(
        "api.tls_cert_file = {:?}\napi.tls_key_file = {:?}\n",
        authority.path("tls.crt"),
        authority.path("tls.key")
    ));
    command.target_url = command.target_url.replace("sslmode=disable", "sslmode=require");
    let mut replicator = command.start().expect("the program");
    let trusting = |arguments: &[&str], authority_file: &str| -> Output {
        let mut all = arguments.to_vec();
        let file = authority.path(authority_file).display().to_string();
        all.extend(["--ca-file", &file]);
        stage.run(&all)
    };
    let status = || -> Option<Value> {
        let output = trusting(&["status", "--output", "json"], "ca.crt");
        serde_json::from_slice(&output.stdout).ok()
    };
    until("the stream", || async {
        status().is_some_and(|status| status["phase"] == "streaming" && status["lag"]["bytes"].is_u64())
    })
    .await;

    // Whoever knows no authority is told what to pass, and has sent nothing.
    let distrusting = stage.run(&["rehearse"]);
    let said = String::from_utf8_lossy(&distrusting.stderr).into_owned();
    assert_eq!(distrusting.status.code(), Some(2), "{said}");
    assert!(said.contains("--ca-file") && said.contains("Nothing was sent"), "{said}");
    // Plain HTTP is refused in words.
    let (code, body) = replicator.api().get("/healthz").await.expect("an answer in plain HTTP");
    assert!(code == 400 && body.contains("HTTPS only"), "{code} {body}");

    // Who is renewing it is at half: the former one stays in use, and that is said once.
    let former = fs::read(authority.path("tls.crt")).expect("read");
    let renewed = authority.pair();
    fs::write(authority.path("former.crt"), former).expect("written");
    fs::write(authority.path("tls.crt"), &renewed.certificate_pem).expect("written");
    until("a warning", || async { replicator.log().contains("the former one stays in use") }).await;
    assert!(trusting(&["status"], "former.crt").status.success());
    fs::write(authority.path("tls.key"), &renewed.key_pem).expect("written");
    until("the renewed certificate", || async { trusting(&["status"], "tls.crt").status.success() }).await;
    assert!(!trusting(&["status"], "former.crt").status.success());

    for arguments in
        [&["verify"][..], &["rehearse", "--max-pause-ms", "20000"], &["cutover", "--max-pause-ms", "20000"]]
    {
        let output = trusting(arguments, "ca.crt");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let late = trusting(&["abort"], "ca.crt");
    assert!(!late.status.success() && !String::from_utf8_lossy(&late.stderr).contains("certificate"));
    metrics_name_the_certificates(&authority, &stage).await;

    replicator.signal(Signal::SIGTERM);
    let ended = replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    let log = replicator.log();
    assert!(ended.success(), "{ended} {log}");
    assert!(!log.contains("ERROR") && !log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(log.matches("the former one stays in use").count(), 1, "{log}");
    assert_eq!(log.matches("the api's certificate was replaced").count(), 1, "{log}");
}

/// Of the API, and of the one server that speaks TLS here.
async fn metrics_name_the_certificates(authority: &Authority, stage: &Stage) {
    let configuration = fs::read_to_string(stage.command("").configuration_path()).expect("read");
    let (_, rest) = configuration.split_once("api.listen = \"").expect("an address");
    let address = rest.split('"').next().expect("an address");
    let tls = https_client_config(&authority.path("ca.crt")).expect("tls");
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build();
    let client = client.expect("a client");
    let answer = client.get(format!("https://{address}/metrics")).send().await.expect("an answer");
    let text = answer.text().await.expect("text");
    let value = |of: &str| {
        let series = format!("{METRIC}{{certificate=\"{of}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    };
    // rcgen's certificates are valid until the beginning of 4096.
    assert_eq!(value("api").as_deref(), Some("67090118400"), "{text}");
    assert_eq!(value("target").as_deref(), Some("67090118400"), "{text}");
    assert_eq!(value("source"), None, "{text}");
}
