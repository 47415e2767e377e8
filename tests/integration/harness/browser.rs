//! A real Chromium, driven as a person would: what is visible, clicks, keys. `scripts/install-browser.sh` gets it; without it
//! the tests fail, because a check that did not run must not look passed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::{ParseError, Url};

use super::wait::until;

/// Longest start of the driver, on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
/// Screenshots of the documentation; written only when it is asked for.
const BLESS: &str = "PGSLUICE_BLESS";
const IMAGE_BYTES_MAX: usize = 150_000;

/// A browser with one page. Dropping it ends it and all of its processes.
pub(crate) struct Browser {
    client: Client,
    driver: Child,
    _folder: TempDir,
}

impl Browser {
    pub(crate) async fn open(address: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Chromium's processes stay in the driver's group, and end with it.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chromedriver does not run ({error}): scripts/install-browser.sh gets it and Chromium, or use `make integration`")
            });
        let output = BufReader::new(driver.stdout.take().expect("a pipe"));
        let port = tokio::time::timeout(START_MAX, port_in(output)).await.expect("the driver starts in time");
        let capabilities = json!({
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
                "--hide-scrollbars", "--window-size=900,1200",
            ] },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("written above as an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("Chromium does not start: {error}"));
        let browser = Self { client, driver, _folder: folder };
        browser.client.goto(address).await.expect("the page");
        browser
    }

    /// What is visible of an element; empty while it is hidden.
    pub(crate) async fn text(&self, css: &str) -> String {
        self.element(css).await.text().await.expect("text")
    }

    /// Waits until the visible text of an element is as wanted.
    pub(crate) async fn until_text(&self, css: &str, wanted: impl Fn(&str) -> bool) {
        until(&format!("the text of {css}"), || async { wanted(&self.text(css).await) }).await;
    }

    /// Waits until an element is visible, or is not.
    pub(crate) async fn until_visible(&self, css: &str, visible: bool) {
        until(&format!("{css} visible: {visible}"), || async { self.is_visible(css).await == visible }).await;
    }

    pub(crate) async fn is_visible(&self, css: &str) -> bool {
        self.element(css).await.is_displayed().await.expect("displayed")
    }

    pub(crate) async fn is_enabled(&self, css: &str) -> bool {
        self.element(css).await.is_enabled().await.expect("enabled")
    }

    /// Waits until it can be pressed, and presses it.
    pub(crate) async fn press(&self, css: &str) {
        until(&format!("{css} to be there"), || async { self.client.find(Locator::Css(css)).await.is_ok() })
            .await;
        until(&format!("{css} to be enabled"), || self.is_enabled(css)).await;
        self.element(css).await.click().await.expect("a click");
    }

    /// Replaces what a field holds, key by key.
    pub(crate) async fn write(&self, css: &str, text: &str) {
        let field = self.element(css).await;
        let everything = format!("{}a{}{}", Key::Control, Key::Null, Key::Delete);
        field.send_keys(&everything).await.expect("cleared");
        field.send_keys(text).await.expect("typed");
    }

    /// What a script returns: for what cannot be seen.
    pub(crate) async fn evaluate(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Width and height of the page in pixels, and whether the reader prefers dark.
    pub(crate) async fn look_as(&self, width: u32, height: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.develop("Emulation.setDeviceMetricsOverride", size).await;
        // A transition would be caught half way.
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme }, { "name": "prefers-reduced-motion", "value": "reduce" },
        ] });
        self.develop("Emulation.setEmulatedMedia", media).await;
    }

    /// Takes a screenshot from the top of the page, for `docs/images`; writes it only when blessed.
    pub(crate) async fn screenshot(&self, name: &str) {
        self.evaluate("scrollTo(0, 0)").await;
        let image = self.client.screenshot().await.expect("screenshot");
        if std::env::var_os(BLESS).is_some() {
            assert!(image.len() < IMAGE_BYTES_MAX, "{name} has {} bytes", image.len());
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/images");
            std::fs::create_dir_all(&folder).expect("folder");
            std::fs::write(folder.join(format!("status-page-{name}.png")), image).expect("written");
        }
    }

    /// Fails if a script broke off or the page tried what its policy forbids.
    pub(crate) async fn assert_no_complaint(&self) {
        let log = self.client.issue_cmd(Log).await.expect("the log");
        let complaints: Vec<&str> = log
            .as_array()
            .expect("entries")
            .iter()
            .filter_map(|entry| entry["message"].as_str())
            // Refused commands and a server that is away are part of the tests.
            .filter(|message| !message.contains("Failed to load resource"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    async fn element(&self, css: &str) -> Element {
        self.client.find(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    async fn develop(&self, command: &str, parameters: Value) {
        let command = Development { body: json!({ "cmd": command, "params": parameters }) };
        self.client.issue_cmd(command).await.expect("a command of the developer tools");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(Ok(group)) = self.driver.id().map(i32::try_from) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// Reads on until the driver says where it listens.
async fn port_in(output: BufReader<tokio::process::ChildStdout>) -> u16 {
    let mut lines = output.lines();
    while let Some(line) = lines.next_line().await.expect("the driver's output") {
        if let Some(port) =
            line.trim_end_matches('.').rsplit_once(" on port ").filter(|_| line.contains("success"))
        {
            return port.1.parse().expect("a port");
        }
    }
    panic!("chromedriver ended before it listened");
}

/// A command of the browser's developer tools.
#[derive(Debug)]
struct Development {
    body: Value,
}

impl WebDriverCompatibleCommand for Development {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/goog/cdp/execute", session_id.unwrap_or_default()))
    }

    fn method_and_body(&self, _request_url: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

/// What the browser logged since the last time.
#[derive(Debug)]
struct Log;

impl WebDriverCompatibleCommand for Log {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/se/log", session_id.unwrap_or_default()))
    }

    fn method_and_body(&self, _request_url: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
