//! The status page in a real Chromium, between a person and the real program: what it shows at each stage of a migration, the
//! commands with their token and their typed word, and what it says when something is wrong.

use std::fs;

use fantoccini::key::Key;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use pgsluice::demo::store;

use crate::harness::browser::Browser;
use crate::harness::proxy::{Network, Proxy};
use crate::harness::stage::{COPY_WAIT, Pair, Stage, streaming, way_back_is_open};
use crate::harness::threshold::Threshold;
use crate::harness::wait::until;
use crate::kubernetes::cnpg;
use crate::kubernetes::double::ApiDouble;
use crate::whole_migration::{SMALL, load};

const PAIR: Pair = Pair::of(14, 17);
const WIDTH: u32 = 860;

/// A table whose copy takes long enough to be looked at on a slow network.
const READINGS: &str = "CREATE TABLE readings (id bigint PRIMARY KEY, what text NOT NULL);
    INSERT INTO readings SELECT id, repeat(md5(id::text), 4) FROM generate_series(1, 80000) id; ANALYZE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_a_cutover_and_the_way_back_are_driven_through_the_page() {
    let stage = Stage::new(PAIR).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    stage.source_client().await.batch_execute(READINGS).await.expect("readings");
    let (mut replicator, command, browser) = watched_copy(&stage).await;
    let token = fs::read_to_string(command.directory.join("token")).expect("token");

    let workload = load(stage.source_url(), 21);
    streaming(&mut replicator).await;
    watched_stream(&browser).await;
    rehearse(&browser, &token).await;
    let rehearsed = replicator.api().status().await.expect("status").cutover.expect("an operation");
    assert_eq!((rehearsed.mode, rehearsed.outcome.as_str()), (CutoverModeRecord::Rehearsal, "completed"));

    verify(&stage, &browser).await;
    let verified = replicator.api().verification().await.expect("a verification");
    assert_eq!((verified.number, verified.outcome.as_str()), (2, "clean"));

    cut_over(&browser).await;
    let cutover = replicator.api().status().await.expect("status").cutover.expect("an operation");
    assert_eq!((cutover.mode, cutover.outcome.as_str()), (CutoverModeRecord::Cutover, "completed"));
    workload.redirect(stage.target_url());
    way_back_is_open(&mut replicator).await;
    certificate(&browser).await;

    roll_back(&browser).await;
    let rollback = replicator.api().status().await.expect("status").cutover.expect("an operation");
    assert_eq!((rollback.mode, rollback.outcome.as_str()), (CutoverModeRecord::Rollback, "completed"));
    workload.stop().await;

    let kept = "return location.href + document.cookie + JSON.stringify([{...localStorage}, {...sessionStorage}]) \
                + document.documentElement.outerHTML";
    let kept = browser.evaluate(kept).await.to_string();
    assert!(kept.contains("pgsluice") && !kept.contains(token.trim()), "the token is in memory only");
    browser.assert_no_complaint().await;
}

/// The copy on a slow network: begun while the page looks on.
async fn watched_copy(stage: &Stage) -> (Replicator, ReplicatorCommand, Browser) {
    let network = Proxy::start(stage.source.port()).await;
    let mut command = stage.command("");
    command.source_url = network.in_front_of(&command.source_url, stage.source.port());
    // The slot waits for this transaction, and with it the copy.
    let holder = stage.source_client().await;
    holder.batch_execute("BEGIN; UPDATE customers SET name = name WHERE id = 1").await.expect("a write");
    let mut replicator = command.start().expect("the program");
    let begun = replicator.wait_for_status("the slot", COPY_WAIT, |status| status.phase == "slot").await;
    begun.unwrap_or_else(|error| panic!("{error}"));
    let browser = Browser::open(replicator.api().base()).await;
    browser.look_as(WIDTH, 760, false).await;
    browser.until_text("#phase-title", |title| title == "Slot").await;
    assert!(!browser.is_enabled("#action-cutover").await, "nothing can be cut over yet");
    network.set(Network::Slow(std::time::Duration::from_millis(10)));
    holder.batch_execute("COMMIT").await.expect("commit");

    browser.until_text("#phase-title", |title| title == "Copying").await;
    // A line each for name and rows.
    let begun = |list: &str| {
        let mut lines = list.lines().skip_while(|line| *line != "public.readings").skip(1);
        let rows = lines.next().and_then(|rows| rows.split(' ').next()?.replace(',', "").parse().ok());
        rows >= Some(5_000_u32)
    };
    browser.until_text("#copy-tables", begun).await;
    browser.screenshot("copy").await;
    browser.write("#copy-filter", "CUSTOM").await;
    browser
        .until_text("#copy-tables", |list| list.contains("public.customers") && !list.contains("readings"))
        .await;
    browser.write("#copy-filter", "").await;
    network.set(Network::Up);
    // The program goes on through the proxy, for as long as the test lasts.
    tokio::spawn(async move {
        let _network = network;
        std::future::pending::<()>().await;
    });
    (replicator, command, browser)
}

async fn watched_stream(browser: &Browser) {
    browser.until_text("#phase-title", |title| title == "Streaming").await;
    browser.until_text("#rates dd:last-child", |rate| !rate.is_empty()).await;
    // A line to look at in each chart.
    for chart in ["#chart-bytes", "#chart-seconds"] {
        let points =
            format!("return document.querySelector('{chart} .line').getAttribute('d').split(/[LM]/).length");
        until("points in the chart", || async { browser.evaluate(&points).await.as_u64() >= Some(12) }).await;
    }
    browser.look_as(WIDTH, 900, false).await;
    browser.screenshot("streaming").await;
}

async fn rehearse(browser: &Browser, token: &str) {
    browser.press("#action-rehearse").await;
    assert!(!browser.is_enabled("#dialog-submit").await, "without a token nothing can be sent");
    browser.write("#token", "not the token").await;
    browser.press("#dialog-submit").await;
    browser
        .until_text("#dialog-error", |said| {
            said.contains("Nothing was changed") && said.contains("api.token_file")
        })
        .await;
    assert!(browser.is_visible("#token").await, "it is asked for again");
    browser.write("#token", token.trim()).await;
    start("#action-rehearse", None, browser).await;
    browser
        .until_text("#operation-outcome", |said| {
            said.starts_with("Completed") && said.contains("Writers waited")
        })
        .await;
    assert!(browser.text("#steps").await.contains("fence source"));
    browser.look_as(WIDTH, 860, false).await;
    browser.screenshot("rehearsal").await;
}

/// A row that is different is found and listed, and nothing else than an override would cut over; then it is mended.
async fn verify(stage: &Stage, browser: &Browser) {
    browser.until_text("#verification-outcome", |said| said.contains("not verified yet")).await;
    browser.until_text("#verification-validity", |said| said.contains("never verified")).await;
    let intruder = stage.target_client().await;
    let change = |what: &str| {
        format!("SET session_replication_role = replica; UPDATE readings SET what = {what} WHERE id = 4711")
    };
    intruder.batch_execute(&change("'another'")).await.expect("damage");
    browser.press("#action-verify").await;
    assert!(!browser.is_visible("#dialog-pause").await, "nobody waits for it");
    browser.press("#dialog-submit").await;
    browser.until_visible("#dialog", false).await;
    browser
        .until_text("#verification-outcome", |said| {
            said.starts_with("Ended") && said.contains("1 row of ") && said.contains("Do not cut over")
        })
        .await;
    browser
        .until_text("#differing-rows tbody", |rows| {
            rows.contains("public.readings")
                && rows.contains("differs")
                && rows.contains("id=4711")
                && rows.contains("what")
        })
        .await;
    // By itself: the page is long by now.
    let others = |shown: &str| {
        format!(
            "for (const id of ['operation', 'stream', 'copy']) document.getElementById(id).style.display = '{shown}'"
        )
    };
    browser.look_as(WIDTH, 760, false).await;
    browser.evaluate(&others("none")).await;
    browser.screenshot("verification").await;
    browser.evaluate(&others("")).await;
    browser.look_as(WIDTH, 900, false).await;
    // Away from below the heading, which stays.
    browser.evaluate("scrollTo(0, 0)").await;
    browser.press("#action-cutover").await;
    browser.until_text("#unverified-label", |said| said.contains("found 1 row that differs")).await;
    browser.write("#word", "app").await;
    assert!(!browser.is_enabled("#dialog-submit").await, "it has to be overridden");
    browser.press("#unverified").await;
    assert!(browser.is_enabled("#dialog-submit").await);
    browser.press("#dialog-cancel").await;
    browser.until_visible("#dialog", false).await;

    intruder.batch_execute(&change("repeat(md5(4711::text), 4)")).await.expect("the row as it was");
    browser.press("#action-verify").await;
    browser.press("#dialog-submit").await;
    browser.until_text("#verification-outcome", |said| said.contains("Clean: every one of ")).await;
    browser.until_visible("#verification-rows", false).await;
    browser.until_text("#verification-validity", |said| said.contains("for another 2")).await;
    browser.evaluate("scrollTo(0, 0)").await;
}

async fn cut_over(browser: &Browser) {
    browser.press("#action-cutover").await;
    assert!(!browser.is_visible("#dialog-unverified").await, "nothing is to be overridden");
    assert!(!browser.is_visible("#token").await, "the token is asked for once");
    for wrong in ["", "ap", "apps", "cut over"] {
        browser.write("#word", wrong).await;
        assert!(!browser.is_enabled("#dialog-submit").await, "{wrong:?} confirms nothing");
    }
    browser.screenshot("confirmation").await;
    start("#action-cutover", Some("app"), browser).await;
    browser.until_text("#operation-title", |title| title.starts_with("Cutover")).await;
    browser.until_text("#operation-outcome", |said| said.starts_with("Completed")).await;
}

async fn certificate(browser: &Browser) {
    browser.until_text("#phase-title", |title| title == "Way back open").await;
    browser.until_text("#stream-title", |title| title == "Changes on the way back").await;
    assert!(browser.is_visible("#certificate-download").await);
    let certificate =
        browser.evaluate("return document.getElementById('certificate-text').textContent").await;
    let certificate: serde_json::Value =
        serde_json::from_str(certificate.as_str().expect("text")).expect("JSON");
    assert!(certificate["marker_lsn"].is_string(), "{certificate:#}");
    browser.look_as(WIDTH, 940, false).await;
    browser.screenshot("cutover").await;
    browser.look_as(390, 1100, true).await;
    let width = browser.evaluate("return document.documentElement.scrollWidth").await;
    assert!(width.as_u64() <= Some(390), "nothing is wider than a phone: {width}");
    browser.screenshot("phone").await;
}

async fn roll_back(browser: &Browser) {
    browser.press("#action-rollback").await;
    assert!(!browser.is_enabled("#dialog-submit").await);
    browser.write("#word", "app").await;
    assert!(!browser.is_enabled("#dialog-submit").await, "another word than that of the cutover");
    start("#action-rollback", Some("roll back"), browser).await;
    browser.until_text("#operation-title", |title| title.starts_with("Rollback")).await;
    browser.until_text("#operation-outcome", |said| said.starts_with("Completed")).await;
    browser.until_text("#phase-title", |title| title == "Streaming").await;
}

/// A cutover that somebody thinks better of, while its clients are being paused.
async fn abort(browser: &Browser, gate: &Threshold) {
    browser.press("#action-cutover").await;
    browser.until_text("#unverified-label", |said| said.contains("never verified")).await;
    browser.press("#unverified").await;
    start("#action-cutover", Some("app"), browser).await;
    gate.reached().await;
    browser.until_text("#operation-outcome", |said| said.starts_with("Under way")).await;
    assert!(!browser.is_enabled("#action-cutover").await, "one at a time");
    browser.press("#action-abort").await;
    browser.press("#dialog-submit").await;
    browser.until_visible("#dialog", false).await;
    gate.open();
    browser.until_text("#operation-outcome", |said| said.starts_with("Aborted")).await;
    browser.until_text("#phase-title", |title| title == "Streaming").await;
}

/// Has an operation started by its button, with time for a busy machine; a word where one is asked for.
async fn start(button: &str, word: Option<&str>, browser: &Browser) {
    if !browser.is_visible("#dialog").await {
        browser.press(button).await;
    }
    if let Some(word) = word {
        browser.write("#word", word).await;
    }
    browser.write("#pause", "20000").await;
    browser.press("#dialog-submit").await;
    browser.until_visible("#dialog", false).await;
}

/// What is named like markup stays text.
const HOSTILE: &str = r#"CREATE TABLE "<img src=x onerror=document.title='broken'>" (id int PRIMARY KEY);
    CREATE TABLE notes (id int PRIMARY KEY); INSERT INTO notes VALUES (1)"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_person_is_shown_with_its_remedy_and_a_lost_connection_is_said() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute(HOSTILE).await.expect("tables");
    let gate = Threshold::new();
    let mut replicator = stage.streaming_with(&gate.configuration()).await;
    let port =
        replicator.api().base().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let network = Proxy::start(port).await;
    let browser = Browser::open(&format!("http://127.0.0.1:{}", network.port())).await;
    browser.look_as(WIDTH, 700, false).await;
    browser.until_text("#connection-state", |state| state == "Live").await;
    assert!(!browser.is_visible("#problem").await);

    browser.write("#copy-filter", "img").await;
    browser.until_text("#copy-tables", |list| list.contains("public.<img src=x onerror=")).await;
    assert_eq!(browser.evaluate("return document.images.length").await, 0);
    browser.write("#copy-filter", "").await;

    source
        .batch_execute("ALTER TABLE notes ADD COLUMN note text; INSERT INTO notes VALUES (2, 'x')")
        .await
        .expect("a change");
    browser.until_text("#problem-remedy", |remedy| remedy.contains("ALTER TABLE")).await;
    browser.until_text("#problem-title", |title| title == "It waits for you").await;
    browser.screenshot("problem").await;
    // It is refused in the API's words.
    browser.press("#action-rehearse").await;
    let token = fs::read_to_string(stage.command("").directory.join("token")).expect("token");
    browser.write("#token", token.trim()).await;
    browser.press("#dialog-submit").await;
    browser.until_text("#dialog-error", |said| said.contains("not in the right state")).await;
    browser.write("#pause", &Key::Escape.to_string()).await;
    browser.until_visible("#dialog", false).await;
    let focus = browser.evaluate("return document.activeElement.id").await;
    assert_eq!(focus, "action-rehearse", "the focus is back where it came from");
    stage
        .target_client()
        .await
        .batch_execute("ALTER TABLE notes ADD COLUMN note text")
        .await
        .expect("the remedy");
    browser.until_visible("#problem", false).await;
    abort(&browser, &gate).await;

    for away in [Network::Down, Network::Silent] {
        network.set(away);
        browser.until_text("#connection-state", |state| state == "Connection lost").await;
        browser
            .until_text("#lost", |said| {
                said.contains(" old.") && !said.contains(" 0 seconds") && said.contains("start it again")
            })
            .await;
        assert!(!browser.is_enabled("#action-cutover").await, "nothing can be sent");
        if away == Network::Down {
            browser.screenshot("lost").await;
        }
        network.set(Network::Up);
        browser.until_text("#connection-state", |state| state == "Live").await;
        browser.until_visible("#lost", false).await;
    }
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    browser.until_text("#connection-state", |state| state == "Connection lost").await;
    browser.assert_no_complaint().await;
}

/// What the operator of the target's cluster says, by a double of the API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_targets_cluster_is_shown_and_that_its_primary_changes() {
    let (api, stage) = (ApiDouble::start().await, Stage::new(PAIR).await);
    cnpg::put_cluster(&api, &cnpg::system_identifier(&stage).await);
    stage.source_client().await.batch_execute("CREATE TABLE notes (id int PRIMARY KEY)").await.expect("SQL");
    let replicator = stage.streaming_with(&cnpg::section(&api, "")).await;
    let browser = Browser::open(replicator.api().base()).await;
    browser.look_as(WIDTH, 1000, false).await;
    browser.until_text("#cluster-title", |title| title == "Cluster shop/shop").await;
    browser.until_text("#cluster-figures", |said| said.contains("shop-1") && said.contains("none yet")).await;
    assert!(!browser.is_visible("#cluster-trouble").await);
    api.change(
        "clusters",
        "shop",
        &serde_json::json!({ "status": {
        "phase": "Switchover in progress", "targetPrimary": "shop-2", "lastSuccessfulBackup": "2026-11-30T02:00:00Z" } }),
    );
    browser.until_text("#cluster-trouble", |said| said.contains("from shop-1 to shop-2")).await;
    browser.until_text("#cluster-figures", |said| said.contains("there is one")).await;
    browser.screenshot("cluster").await;
    browser.assert_no_complaint().await;
}
