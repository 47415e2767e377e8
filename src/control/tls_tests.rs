//! The API over TLS, with real sockets and a real client; the certificates are made for the test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Fixture, TOKEN};
use super::serve;
use super::tls_fixture::Authority;
use crate::cli::{ApiClient, ClientCommand, ClientError, Exit, OutputFormat, StatusView};
use crate::connection::{Secret, https_client_config};
use crate::runtime::Shutdown;

const LONG: Duration = Duration::from_secs(20);

/// Serves an API with a certificate of this authority.
async fn secured(authority: &Authority) -> (SocketAddr, Shutdown) {
    authority.issue();
    let mut fixture = Fixture::new();
    let mut config = super::fixture::config();
    config.api.tls = Some(authority.files());
    fixture.state.config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    (address, fixture.shutdown)
}

fn client(authority: &Path) -> reqwest::Client {
    let tls = https_client_config(authority).expect("tls");
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(LONG);
    client.build().expect("a client")
}

async fn status(authority: Option<&Path>, address: &str) -> (Result<Exit, ClientError>, String) {
    let client = ApiClient::trusting(authority, address, Some(Secret::new(TOKEN)), OutputFormat::Table);
    let mut printed = Vec::new();
    let exit = client.expect("client").run(ClientCommand::Status(StatusView::Once), &mut printed).await;
    (exit, String::from_utf8(printed).expect("utf-8"))
}

#[tokio::test]
async fn pages_events_and_metrics_are_served_over_tls() {
    let authority = Authority::new();
    let (address, _shutdown) = secured(&authority).await;
    let client = client(&authority.file());
    let page = client.get(format!("https://{address}/")).send().await.expect("the page");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(page.status().is_success() && policy.contains("'self'"), "{policy}");
    let events = client.get(format!("https://{address}/v1/events")).send().await.expect("events");
    let first = events.bytes_stream().next().await.expect("an event").expect("bytes");
    assert!(first.starts_with(b"event: status") || first.starts_with(b"data:"), "{first:?}");
    let metrics = client.get(format!("https://{address}/metrics")).send().await.expect("metrics");
    let metrics = metrics.text().await.expect("text");
    let expiry = "pgsluice_certificate_expiry_timestamp_seconds{certificate=\"api\"} ";
    assert!(metrics.lines().any(|line| line.starts_with(expiry)), "{metrics}");
    // Nothing was shown by a server yet.
    assert!(!metrics.contains("certificate=\"source\""), "{metrics}");
}

#[tokio::test]
async fn a_client_that_trusts_another_authority_refuses_and_says_what_to_pass() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (address, _shutdown) = secured(&authority).await;
    let (exit, printed) =
        status(Some(&authority.file()), &format!("https://localhost:{}", address.port())).await;
    assert_eq!(exit.expect("trusted"), Exit::Success);
    assert!(printed.contains("starting"), "{printed}");
    for authority in [Some(stranger.file()), None] {
        let (refused, _) = status(authority.as_deref(), &format!("https://{address}")).await;
        let error = refused.expect_err("not trusted");
        assert!(matches!(error, ClientError::Untrusted { .. }), "{error:?}");
        assert!(error.remedy().contains("--ca-file"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }
    // The server's own certificate is as good as an authority.
    let own = authority.files().certificate;
    assert!(status(Some(&own), &format!("https://{address}")).await.0.is_ok());
    let key = authority.files().key;
    let error = ApiClient::trusting(Some(&key), "https://h", None, OutputFormat::Table).expect_err("a key");
    assert!(error.to_string().contains("no certificate in it"), "{error}");
}

#[tokio::test]
async fn a_plain_client_is_told_to_use_https_while_endless_handshakes_hold_nobody_up() {
    let authority = Authority::new();
    let (address, _shutdown) = secured(&authority).await;
    let mut endless = Vec::new();
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(beginning).await.expect("sent");
        endless.push(stream);
    }
    let (refused, _) = status(None, &format!("http://{address}")).await;
    let error = refused.expect_err("plain");
    assert!(error.to_string().contains("HTTPS only") && error.remedy().contains("https://"), "{error:?}");
    // Neither is anything else that is no TLS of consequence to others.
    let mut garbage = TcpStream::connect(address).await.expect("connected");
    garbage.write_all(&[0xff; 2000]).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, garbage.read_to_end(&mut answer)).await.expect("an end");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    let (exit, _) = status(Some(&authority.file()), &format!("https://{address}")).await;
    assert_eq!(exit.expect("served"), Exit::Success);
    drop(endless);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_handshake() {
    let authority = Authority::new();
    authority.issue();
    let mut fixture = Fixture::new();
    let mut config = super::fixture::config();
    config.api.tls = Some(authority.files());
    fixture.state.config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    let serving = tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(b"\x16\x03\x01").await.expect("sent");
    let client = client(&authority.file());
    client.get(format!("https://{address}/healthz")).send().await.expect("served");
    fixture.shutdown.request();
    let ended = tokio::time::timeout(Duration::from_secs(4), serving).await.expect("in time");
    ended.expect("no panic").expect("in good order");
}
