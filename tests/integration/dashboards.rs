//! The Grafana dashboards, the alert rules and the reference against the metrics that the program registers: an expression that
//! names a metric or a label which does not exist shows an empty panel, or never fires, which nobody notices until it is needed.
//! Names are compared first; then a real Prometheus scrapes a real migration, and no panel may be empty.
//!
//! What the alert rules do is tested by `scripts/check-deploy.sh`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::store;
use pgsluice::migration::{LagView, Positions, SlotView, StandbyView, StatusBoard};
use pgsluice::model::Lsn;
use pgsluice::telemetry::{MetricDescription, MetricKind, Metrics};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::clusters::options;
use crate::harness::fleet::standby_of;
use crate::harness::stage::{Pair, Stage, ask, cut_over, end_of, streaming, way_back_is_open};
use crate::harness::wait::until;
use crate::kubernetes::cnpg;
use crate::kubernetes::double::ApiDouble;
use crate::verification::{FAST, verify};
use crate::whole_migration::{SMALL, load};

/// Labels that Prometheus and its operator add.
const TARGET_LABELS: [&str; 4] = ["job", "instance", "namespace", "pod"];
/// What may stand in an expression besides metrics and labels.
const WORDS: [&str; 20] = [
    "by",
    "without",
    "sum",
    "rate",
    "increase",
    "deriv",
    "histogram_quantile",
    "unless",
    "and",
    "or",
    "offset",
    "on",
    "label_values",
    "max",
    "bool",
    "ignoring",
    "absent",
    "changes",
    "resets",
    "time",
];
/// How long scrapes are waited for that a panel's value needs, after everything has happened.
const SCRAPES_MAX: Duration = Duration::from_secs(60);
/// Panels that stay empty in a migration without trouble: no change of the workload has to go row by row.
const MAY_BE_EMPTY: [&str; 1] = ["Row by row instead of in sets"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn dashboards() -> Vec<(String, Value)> {
    let found: Vec<_> = fs::read_dir(repository("dashboards"))
        .expect("the directory of dashboards")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            (path.display().to_string(), serde_json::from_str(&text).expect("JSON"))
        })
        .collect();
    assert!(!found.is_empty(), "there is a dashboard");
    found
}

/// Every PromQL expression of a dashboard: panels and annotations.
fn expressions(dashboard: &Value) -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if key == "expr" => found.push(text.clone()),
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(dashboard, &mut found);
    found
}

/// An expression as Grafana sends it, for everything there is.
fn filled_in(expression: &str) -> String {
    expression.replace("$job", ".+").replace("$instance", ".+")
}

/// The expressions of the alert rules, each of which is one line.
fn alert_expressions() -> Vec<String> {
    let rules = fs::read_to_string(repository("deploy/kustomize/components/monitoring/prometheusrule.yaml"))
        .expect("readable");
    let alerts = rules.lines().filter(|line| line.trim_start().starts_with("- alert:")).count();
    let found: Vec<String> = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("expr: "))
        .map(str::to_owned)
        .collect();
    assert!(alerts > 0 && alerts == found.len(), "{alerts} alerts, {} expressions", found.len());
    found
}

/// The names in an expression: outside braces metrics, functions and grouping labels; inside braces labels.
#[derive(Debug, Default)]
struct Names {
    outside: BTreeSet<String>,
    inside: BTreeSet<String>,
}

fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut word = String::new();
    let (mut quoted, mut in_braces, mut in_range) = (false, false, false);
    for character in expression.chars().chain([' ']) {
        if quoted {
            quoted = character != '"';
            continue;
        }
        if character.is_ascii_alphanumeric() || "_:$".contains(character) {
            word.push(character);
            continue;
        }
        // Numbers and durations begin with a digit, dashboard variables with `$`.
        let is_name = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if is_name && !in_range {
            let place = if in_braces { &mut names.inside } else { &mut names.outside };
            place.insert(word.clone());
        }
        word.clear();
        match character {
            '"' => quoted = true,
            '{' => in_braces = true,
            '}' => in_braces = false,
            '[' => in_range = true,
            ']' => in_range = false,
            _ => {}
        }
    }
    names
}

/// The names under which a metric is exposed.
fn series(metric: &MetricDescription) -> Vec<String> {
    match metric.kind {
        MetricKind::Histogram => {
            ["bucket", "sum", "count"].iter().map(|part| format!("{}_{part}", metric.name)).collect()
        }
        MetricKind::Counter | MetricKind::Gauge => vec![metric.name.to_owned()],
    }
}

/// What is wrong with an expression, `None` if nothing is.
fn wrong_names(expression: &str, described: &[MetricDescription]) -> Option<String> {
    let found = names(expression);
    let used: Vec<&MetricDescription> = described
        .iter()
        .filter(|metric| series(metric).iter().any(|series| found.outside.contains(series)))
        .collect();
    let mut labels: BTreeSet<&str> = used.iter().flat_map(|metric| metric.labels.iter().copied()).collect();
    labels.extend(TARGET_LABELS);
    if used.iter().any(|metric| metric.kind == MetricKind::Histogram) {
        labels.insert("le");
    }
    let exposed: BTreeSet<String> = used.iter().flat_map(|metric| series(metric)).collect();
    let known = |name: &String| {
        exposed.contains(name) || WORDS.contains(&name.as_str()) || labels.contains(name.as_str())
    };
    let unknown: Vec<&String> = found
        .outside
        .iter()
        .filter(|name| !known(name))
        .chain(found.inside.iter().filter(|label| !labels.contains(label.as_str())))
        .collect();
    if used.is_empty() {
        return Some("it uses no metric".to_owned());
    }
    (!unknown.is_empty()).then(|| format!("unknown names {unknown:?}"))
}

#[test]
fn every_expression_uses_metrics_and_labels_that_exist() {
    let metrics = Metrics::new().expect("metrics");
    for (file, dashboard) in dashboards() {
        let expressions = expressions(&dashboard);
        assert!(expressions.len() >= 10, "{file} has {} expressions", expressions.len());
        for expression in expressions {
            if let Some(problem) = wrong_names(&expression, metrics.described()) {
                panic!("{file}: {problem} in {expression}");
            }
        }
    }
    for expression in alert_expressions() {
        if let Some(problem) = wrong_names(&expression, metrics.described()) {
            panic!("the alert rules: {problem} in {expression}");
        }
    }
}

#[test]
fn a_wrong_name_in_an_expression_is_found() {
    let metrics = Metrics::new().expect("metrics");
    let wrong = |expression| wrong_names(expression, metrics.described());
    assert_eq!(wrong("sum by (op) (rate(pgsluice_applied_rows_total{job=~\"$job\"}[1m]))"), None);
    assert_eq!(
        wrong("histogram_quantile(0.9, sum by (le) (rate(pgsluice_apply_batch_seconds_bucket[5m])))"),
        None
    );
    for expression in [
        "pgsluice_lag_byte",
        "pgsluice_lag_bytes + pgsluice_lag",
        "pgsluice_apply_batch_seconds",
        "rates(pgsluice_applied_transactions_total[1m])",
        "sum by (table) (pgsluice_applied_rows_total)",
        "pgsluice_reconnects_total{sides=\"source\"}",
        "1 + 1",
    ] {
        assert!(wrong(expression).is_some(), "{expression}");
    }
}

#[test]
fn the_reference_explains_every_metric_and_no_other() {
    let metrics = Metrics::new().expect("metrics");
    let reference = fs::read_to_string(repository("docs/observability.md")).expect("readable");
    let explained: BTreeSet<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("pgsluice_") || name.starts_with("process_"))
        .collect();
    let existing: BTreeSet<&str> = metrics.described().iter().map(|metric| metric.name).collect();
    assert_eq!(explained, existing);
}

#[test]
fn panels_are_numbered_once_and_explain_themselves() {
    for (file, dashboard) in dashboards() {
        let panels = dashboard["panels"].as_array().expect("panels");
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len(), "{file}: ids are unique");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{file}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}: {title} has a unit");
        }
    }
}

#[test]
fn panels_lie_side_by_side_and_the_questions_come_first() {
    for (file, dashboard) in dashboards() {
        let panels = dashboard["panels"].as_array().expect("panels");
        let mut taken = BTreeSet::new();
        for panel in panels {
            let [x, y, width, height] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
            assert!(x + width <= 24, "{file}: {} is wider than the page", panel["title"]);
            for place in (y..y + height).flat_map(|row| (x..x + width).map(move |column| (row, column))) {
                assert!(taken.insert(place), "{file}: {} lies on another panel", panel["title"]);
            }
        }
        let rows = panels.iter().filter(|panel| panel["type"] == "row");
        let questions: Vec<&str> = rows.filter_map(|row| row["title"].as_str()).take(4).collect();
        let asked = [
            "Can I cut over now?",
            "How far behind, and why?",
            "Is the source in danger?",
            "What was the pause?",
        ];
        assert_eq!(questions, asked, "{file}");
    }
}

#[test]
fn prometheus_itself_accepts_every_expression() {
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for (number, expression) in dashboards().iter().flat_map(|(_, each)| expressions(each)).enumerate() {
        let expression = Value::String(filled_in(&expression));
        rules.push_str(&format!("      - record: expression_{number}\n        expr: {expression}\n"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("expressions.yaml");
    fs::write(&file, rules).expect("written");
    promtool(&["check", "rules", file.to_str().expect("utf-8")], "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_panel_is_empty_when_a_real_migration_is_scraped() {
    let began_at = SystemTime::now();
    // What there is to see of standbys and of the slot's limit.
    let limited = options().setting("max_slot_wal_keep_size", "10GB");
    let stage = Stage::with_options(Pair::of(14, 17), limited, options().tls(cnpg::server_tls())).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 7);
    // What its operator says of the target, by a double of the API server.
    let api = ApiDouble::start().await;
    cnpg::put_cluster(&api, &cnpg::system_identifier(&stage).await);
    api.change("clusters", "shop", &serde_json::json!({ "spec": { "instances": 2 } }));
    let configuration = cnpg::section(&api, "target.durability = \"standbys\"\ntarget.standbys = 1\n");
    let mut command = stage.command(&configuration);
    command.target_url = command.target_url.replace("sslmode=disable", "sslmode=require");
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    let prometheus = Prometheus::scraping(replicator.api().base());
    until("a Prometheus that answers", || async { prometheus.is_ready() }).await;

    // Can I cut over now? Not while a standby is missing, though nothing else is in the way.
    let verdict = filled_in(&expressions_of("Cut over now?")[0]);
    let in_the_way_is_only_the_standby = format!(
        "({verdict}) == 0 and on (job, instance) pgsluice_phase{{phase=\"streaming\"}} == 1 \
         and on (job, instance) pgsluice_lag_bytes <= pgsluice_cutover_max_lag_bytes \
         and on (job, instance) pgsluice_stream_held == 0 \
         and on (job, instance) sum without (reason) (pgsluice_tables_outside) == 0"
    );
    until("the verdict that a standby is missing", || async {
        !prometheus.values(&in_the_way_is_only_the_standby, began_at).is_empty()
    })
    .await;
    // Not without a backup either, once it is there.
    let _standby = standby_of(&stage.target, "standby").await;
    let in_the_way_is_only_the_backup = format!(
        "({verdict}) == 0 and on (job, instance) pgsluice_cluster_has_backup == 0 and on (job, instance) \
         pgsluice_target_standbys{{state=\"connected\"}} == 1 and on (job, instance) pgsluice_stream_held == 0 \
         and on (job, instance) pgsluice_lag_bytes <= pgsluice_cutover_max_lag_bytes"
    );
    until("the verdict that a backup is missing", || async {
        !prometheus.values(&in_the_way_is_only_the_backup, began_at).is_empty()
    })
    .await;
    // With both, not before the rows are verified.
    api.change(
        "clusters",
        "shop",
        &serde_json::json!({ "status": { "lastSuccessfulBackup": "2026-11-30T02:00:00Z" } }),
    );
    let in_the_way_is_only_the_verification = format!(
        "({verdict}) == 0 and on (job, instance) pgsluice_cluster_has_backup == 1 and on (job, instance) \
         pgsluice_verify_valid_until_timestamp_seconds == 0 and on (job, instance) pgsluice_stream_held == 0 \
         and on (job, instance) pgsluice_lag_bytes <= pgsluice_cutover_max_lag_bytes"
    );
    until("the verdict that a verification is missing", || async {
        !prometheus.values(&in_the_way_is_only_the_verification, began_at).is_empty()
    })
    .await;
    let verified = verify(&replicator, FAST).await;
    assert_eq!(verified.outcome, "clean", "{verified:#?}");
    // Then yes.
    until("the verdict that a cutover may begin", || async {
        prometheus.values(&verdict, began_at).lines().any(|value| value.starts_with("1 @"))
    })
    .await;
    let rehearsal = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    assert_eq!(end_of(&mut replicator, &rehearsal).await.outcome, "completed");
    let before = workload.acknowledged();
    until("traffic after the rehearsal", || async { workload.acknowledged() >= before + 300 }).await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    workload.stop().await;
    // Annotations are changes between two scrapes.
    let completed = "pgsluice_cutover_state{state=\"completed\"} == 1";
    until("a scrape after the cutover", || async { !prometheus.values(completed, began_at).is_empty() })
        .await;

    // Some of it comes with a later scrape.
    let mut empty = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < SCRAPES_MAX {
        empty = empty_panels(&prometheus, began_at);
        if empty.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("panels without a value: {empty:#?}");
}

/// File, title and expression of all that has no value, and should have one.
fn empty_panels(prometheus: &Prometheus, began_at: SystemTime) -> Vec<(String, String, String)> {
    let mut empty = Vec::new();
    for (file, dashboard) in dashboards() {
        let annotations = dashboard["annotations"]["list"].as_array().expect("annotations").iter();
        let named =
            |each: &Value, key: &str| (each[key].as_str().unwrap_or_default().to_owned(), expressions(each));
        let panels = dashboard["panels"].as_array().expect("panels").iter();
        let all = annotations.map(|each| named(each, "name")).chain(panels.map(|each| named(each, "title")));
        for (title, expressions) in all {
            for expression in expressions {
                if prometheus.values(&filled_in(&expression), began_at).is_empty() {
                    empty.push((file.clone(), title.clone(), expression));
                }
            }
        }
    }
    empty.retain(|(_, title, _)| !MAY_BE_EMPTY.contains(&title.as_str()));
    empty
}

/// The expressions of the one panel with this title.
fn expressions_of(title: &str) -> Vec<String> {
    let panels =
        dashboards().into_iter().flat_map(|(_, each)| each["panels"].as_array().cloned().unwrap_or_default());
    let found: Vec<Value> = panels.filter(|panel| panel["title"] == title).collect();
    assert_eq!(found.len(), 1, "one panel is called {title:?}");
    expressions(&found[0])
}

/// A Prometheus of its own, with an empty store, that scrapes one address every second.
struct Prometheus {
    server: Child,
    base: String,
    _directory: TempDir,
}

impl Prometheus {
    /// `base` is the program's, as `http://127.0.0.1:1234`.
    fn scraping(base: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = base.trim_start_matches("http://").trim_end_matches('/');
        let configuration = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [{{ job_name: pgsluice, static_configs: [{{ targets: ['{address}'] }}] }}]\n"
        );
        let file = directory.path().join("prometheus.yaml");
        fs::write(&file, configuration).expect("written");
        // Free a moment ago; whoever takes it in between makes the test fail, not pass.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let log = fs::File::create(directory.path().join("log")).expect("a file");
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("prometheus does not run ({error}): scripts/install-tools.sh gets it")
            });
        Self { server, base: format!("http://127.0.0.1:{port}"), _directory: directory }
    }

    /// Whether it answers queries: while it starts it answers all of them with 503.
    fn is_ready(&self) -> bool {
        let address = self.base.trim_start_matches("http://");
        let Ok(mut socket) = TcpStream::connect(address) else { return false };
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a bound");
        let mut answer = String::new();
        let asked = write!(socket, "GET /-/ready HTTP/1.0\r\nHost: {address}\r\n\r\n");
        asked.is_ok()
            && socket.read_to_string(&mut answer).is_ok()
            && answer.lines().next().is_some_and(|line| line.contains(" 200 "))
    }

    /// Every value of an expression from `since` on, one a second, as promtool prints them; empty while there is none.
    fn values(&self, expression: &str, since: SystemTime) -> String {
        let seconds = since.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let output = Command::new("promtool")
            .args(["query", "range", "--step=1s", &format!("--start={seconds}"), &self.base, expression])
            .output()
            .expect("promtool runs");
        assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn prometheus_itself_accepts_the_metrics_and_finds_nothing_to_mend() {
    let metrics = Metrics::new().expect("metrics");
    metrics.set_cutover_bounds(Duration::from_secs(1), 1);
    let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
    board.update(|status| {
        status.lag = LagView { bytes: Some(1), seconds: Some(1.0) };
        status.slot =
            SlotView { retained_wal_bytes: Some(1), safe_wal_bytes: Some(1), xmin_age_transactions: Some(1) };
        status.standbys = Some(StandbyView { wanted: 1, connected: Some(1), lag_bytes: Some(0) });
        let position = Some(Lsn::new(1));
        status.positions =
            Positions { source: position, received: position, applied: position, durable: position };
    });
    board.with(|status| metrics.publish(status));
    metrics.apply_fell_back("truncate");
    promtool(&["check", "metrics"], &metrics.render().expect("rendered"));
}

/// Gives `input` to promtool, which `scripts/install-tools.sh` puts into `.tools/bin`. Without it the test fails: a check
/// that did not run must not look passed.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "promtool does not run ({error}): scripts/install-tools.sh gets it, or use `make integration`"
            )
        });
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}
