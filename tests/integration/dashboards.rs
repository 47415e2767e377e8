//! The Grafana dashboards and the reference against the metrics that the program registers: an expression that names a metric or a
//! label which does not exist shows an empty panel, which nobody notices until it is needed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use pgsluice::migration::{LagView, Positions, StatusBoard};
use pgsluice::model::Lsn;
use pgsluice::telemetry::{MetricDescription, MetricKind, Metrics};
use serde_json::Value;

/// Labels that Prometheus and its operator add.
const TARGET_LABELS: [&str; 4] = ["job", "instance", "namespace", "pod"];
/// What may stand in an expression besides metrics and labels.
const WORDS: [&str; 14] = [
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
];

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
fn prometheus_itself_accepts_every_expression() {
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for (number, expression) in dashboards().iter().flat_map(|(_, each)| expressions(each)).enumerate() {
        let expression = Value::String(expression.replace("$job", ".+").replace("$instance", ".+"));
        rules.push_str(&format!("      - record: expression_{number}\n        expr: {expression}\n"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("expressions.yaml");
    fs::write(&file, rules).expect("written");
    promtool(&["check", "rules", file.to_str().expect("utf-8")], "");
}

#[test]
fn prometheus_itself_accepts_the_metrics_and_finds_nothing_to_mend() {
    let metrics = Metrics::new().expect("metrics");
    let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
    board.update(|status| {
        status.lag = LagView { bytes: Some(1), seconds: Some(1.0) };
        status.slot_retained_wal_bytes = Some(1);
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
