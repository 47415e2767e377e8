//! What is demanded of each kind of block. Every function fails the test with the page and line.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use clap::Parser as _;
use pgsluice::cli::Arguments;
use pgsluice::config::load;
use pgsluice::demo::cluster::LocalCluster;

use super::pages::{Block, root};
use crate::harness::clusters::connect;

/// Comments above blocks.
pub(super) const CLUSTER: &str = "needs a cluster";
pub(super) const PROFILER: &str = "needs perf";
pub(super) const ON_SOURCE: &str = "on the source";
pub(super) const ON_TARGET: &str = "on the target";

/// Programs that are the reason for a comment.
const OF_CLUSTERS: [&str; 3] = ["kubectl", "helm", "docker"];
const OF_PROFILING: [&str; 1] = ["perf"];
/// Programs that may stand beside them.
const BESIDE: [&str; 6] = ["head", "base64", "printf", "curl", "make", "cat"];
/// Programs that are run here.
const RUN_HERE: [&str; 5] = ["pgsluice", "psql", "curl", "jq", "export"];

/// Targets of the Makefile that continuous integration runs: all below `make test`. The others take long and are run by hand.
const IN_CI: [&str; 10] =
    ["test", "fmt", "clippy", "unit", "integration", "deploy", "postgres", "tools", "browser", "help"];
const BY_HAND: [&str; 16] = [
    "demo",
    "test-verify",
    "soak",
    "crash-matrix",
    "mutants",
    "large",
    "bench",
    "bench-table",
    "bench-copy",
    "bench-copy-table",
    "pgcopydb",
    "bench-cutover",
    "bench-cutover-table",
    "bench-verify",
    "bench-verify-table",
    "pgcopydb-compare",
];

/// The first word of each command of a line.
fn programs(line: &str) -> Vec<String> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("quotes are not closed: {line}"));
    let mut programs = Vec::new();
    let mut begins = true;
    for word in words {
        if begins {
            programs.push(word.clone());
        }
        begins = ["|", "&&", "||", ";", "&"].contains(&word.as_str());
    }
    programs
}

/// A comment that says why a block does not run here must be true of it.
pub(super) fn only_what_cannot_run_here(block: &Block) {
    let place = block.place();
    let reasons: &[&str] =
        if block.marker.as_deref() == Some(CLUSTER) { &OF_CLUSTERS } else { &OF_PROFILING };
    let programs: Vec<String> = block.command_lines().iter().flat_map(|line| programs(line)).collect();
    for program in &programs {
        let known = reasons.contains(&program.as_str()) || BESIDE.contains(&program.as_str());
        assert!(known, "{place}: {program} is no reason not to run this block here");
    }
    assert!(
        programs.iter().any(|program| reasons.contains(&program.as_str())),
        "{place}: nothing in it needs {:?}",
        block.marker
    );
}

pub(super) fn may_run_here(line: &str, place: &str) {
    for program in programs(line) {
        assert!(RUN_HERE.contains(&program.as_str()), "{place}: {program} is not known here: {line}");
    }
    if let Some((name, value)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
        let value = shlex::split(value).and_then(|words| words.into_iter().next()).unwrap_or_default();
        let other =
            if name == "PGSLUICE_SOURCE__URL" { "PGSLUICE_TARGET__URL" } else { "PGSLUICE_SOURCE__URL" };
        let variables = [(name, value.as_str()), (other, "postgresql://other@other/other")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        load(None, variables.into_iter()).unwrap_or_else(|error| panic!("{place}: {line}: {error}"));
    }
}

pub(super) fn shell_understands(block: &Block) {
    let output = Command::new("/bin/bash").args(["-n", "-c", &block.text]).output().expect("bash");
    assert!(output.status.success(), "{}: {}", block.place(), String::from_utf8_lossy(&output.stderr));
}

/// How much of a command has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mention {
    /// All of it: it is to be typed.
    Whole,
    /// A sentence may speak of `pgsluice tables add` without a table.
    ByName,
}

/// Every `pgsluice …` of a line, also behind `kubectl exec … --`; returns how many.
pub(super) fn pgsluice_commands_parse(line: &str, place: &str, mention: Mention) -> usize {
    let words = shlex::split(line).unwrap_or_else(|| panic!("{place}: quotes are not closed: {line}"));
    let starts = words.iter().enumerate().filter(|(at, word)| {
        *word == "pgsluice" && (*at == 0 || ["--", "|", "&&", ";", "exec"].contains(&words[at - 1].as_str()))
    });
    let mut parsed = 0;
    for (start, _) in starts {
        let end = words[start..].iter().position(|word| ["|", "&&", ";", ">"].contains(&word.as_str()));
        let command = &words[start..end.map_or(words.len(), |length| start + length)];
        if let Err(error) = Arguments::try_parse_from(command) {
            let incomplete = error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
            // What asks for help is an error, too, by this library.
            let fine = !error.use_stderr() || (incomplete && mention == Mention::ByName);
            assert!(fine, "{place}: {command:?}: {error}");
        }
        parsed += 1;
    }
    parsed
}

/// What a command for a cluster reads from the checkout.
pub(super) fn files_are_there(line: &str, place: &str) {
    for word in shlex::split(line).unwrap_or_default() {
        let path = word.rsplit('=').next().unwrap_or_default();
        if path.starts_with("deploy/") && !path.starts_with("deploy/pgsluice")
            || path.starts_with("dashboards/")
        {
            assert!(root().join(path).exists(), "{place}: {path} is not there");
        }
    }
}

pub(super) fn target_exists(line: &str, place: &str) {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let target = line.split_whitespace().nth(1).unwrap_or_default();
    assert!(makefile.contains(&format!("\n{target}:")), "{place}: the Makefile has no {target}");
    assert!(
        IN_CI.contains(&target) || BY_HAND.contains(&target),
        "{place}: say in this test who runs `make {target}`"
    );
}

/// The target is there, and so is everything that its recipe is made of.
pub(super) fn make_would(line: &str, place: &str) {
    target_exists(line, place);
    let output = Command::new("/bin/bash")
        .args(["-c", &format!("make --dry-run {}", line.trim_start_matches("make "))])
        .current_dir(root())
        .output()
        .expect("make");
    assert!(output.status.success(), "{place}: {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Statements within sentences: whole ones, with nothing left out.
pub(super) fn is_whole_statement(span: &str) -> bool {
    let first = span.split_whitespace().next().unwrap_or_default();
    ["SELECT", "ALTER", "GRANT", "REVOKE", "CREATE", "DROP", "SHOW", "SET", "UPDATE", "DELETE", "INSERT"]
        .contains(&first)
        && span.ends_with(';')
        && !span.contains('…')
}

/// In a transaction that is rolled back. The slot of a migration and its role are there, because pages speak of them.
pub(super) async fn server_accepts(cluster: &LocalCluster, sql: &str, place: &str) {
    let session = connect(&cluster.url("shop")).await;
    let slot = "SELECT pg_create_logical_replication_slot('pgsluice', 'pgoutput')
                 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'pgsluice')";
    session.batch_execute(slot).await.expect("a slot");
    if sql.starts_with("ALTER SYSTEM ") {
        // Not possible in a transaction; taken back by hand.
        session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{place}: {sql}: {error:?}"));
        session.batch_execute("ALTER SYSTEM RESET ALL").await.expect("taken back");
        return;
    }
    session.batch_execute("BEGIN").await.expect("a transaction");
    for role in ["migrator", "mover"].map(|role| format!("CREATE ROLE {role}")) {
        if !sql.contains(&role) {
            session.batch_execute(&role).await.expect("a role");
        }
    }
    session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{place}: {sql}: {error:?}"));
    session.batch_execute("ROLLBACK").await.expect("rolled back");
}

/// What stands behind `psql … -c` in the pod of a server.
pub(super) fn statements_for_psql(block: &Block) -> Vec<String> {
    let mut statements = Vec::new();
    for line in block.command_lines().iter().filter(|line| line.starts_with("kubectl ")) {
        let words = shlex::split(line).unwrap_or_default();
        let psql = words.iter().skip_while(|word| *word != "psql");
        let mut behind = psql.skip_while(|word| *word != "-c").skip(1);
        statements.extend(behind.next().cloned());
    }
    statements
}

/// A fragment is loaded over the least that a configuration needs; the files it names are there.
pub(super) fn configuration_is_accepted(block: &Block) {
    let place = block.place();
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().join("secrets");
    let text = block.text.replace("/run/secrets", &secrets.display().to_string());
    for path in text.split(['"', '=', '&']).filter(|word| word.starts_with(&secrets.display().to_string())) {
        fs::create_dir_all(std::path::Path::new(path).parent().expect("a folder")).expect("created");
        fs::write(path, "0123456789abcdef0123456789abcdef").expect("written");
    }
    let mut table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
    for side in ["source", "target"] {
        let section = table.entry(side).or_insert_with(|| toml::Table::new().into());
        let section = section.as_table_mut().unwrap_or_else(|| panic!("{place}: {side} is no section"));
        section.entry("url").or_insert_with(|| format!("postgresql://{side}@{side}/shop").into());
    }
    let file = folder.path().join("pgsluice.toml");
    fs::write(&file, table.to_string()).expect("written");
    if let Err(error) = load(Some(&file), std::iter::empty()) {
        panic!("{place}: {error}");
    }
}

pub(super) fn yaml_parses(block: &Block) {
    let parsed: Result<serde_json::Value, _> = serde_saphyr::from_str(&block.text);
    let value = parsed.unwrap_or_else(|error| panic!("{}: {error}", block.place()));
    assert!(value.is_object() || value.is_array(), "{}: {value}", block.place());
}

pub(super) fn json_parses(block: &Block) {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&block.text);
    if let Err(error) = parsed {
        panic!("{}: {error}", block.place());
    }
}

/// Each line is an expression; its metrics are ours.
pub(super) fn promtool_accepts(block: &Block) {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.yaml");
    let mut text = "groups:\n  - name: documentation\n    rules:\n".to_owned();
    for (line, number) in block.text.lines().filter(|line| !line.trim().is_empty()).zip(1..) {
        let expression = serde_json::Value::from(line.trim()).to_string();
        text.push_str(&format!("      - record: documentation:{number}\n        expr: {expression}\n"));
    }
    fs::write(&rules, text).expect("written");
    let output = Command::new("promtool").args(["check", "rules"]).arg(&rules).output();
    let output = output.expect("promtool (make tools), and .tools/bin in PATH");
    assert!(output.status.success(), "{}: {}", block.place(), String::from_utf8_lossy(&output.stderr));
    let known = metrics();
    for word in block.text.split(|each: char| !each.is_alphanumeric() && each != '_') {
        let ours = word.starts_with("pgsluice_");
        assert!(!ours || known.contains(word), "{}: there is no metric {word}", block.place());
    }
}

/// Every metric of docs/observability.md, which another test compares with the program.
fn metrics() -> BTreeSet<String> {
    let page = super::pages::read("docs/observability.md");
    let spans = page.spans.into_iter().map(|(_, span)| span);
    spans.map(|span| span.split('{').next().unwrap_or_default().to_owned()).collect()
}

/// The ids of all findings, by the sources.
pub(super) fn findings() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut files =
        vec![root().join("src/target/schema/roles.rs"), root().join("src/target/schema/existing.rs")];
    for entry in fs::read_dir(root().join("src/preflight")).expect("the checks").flatten() {
        files.push(entry.path());
    }
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        // Without the tests, which make findings up.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        ids.extend(source.split('"').skip(1).step_by(2).filter(|text| is_id(text)).map(str::to_owned));
    }
    ids
}

fn is_id(text: &str) -> bool {
    let of_a_part = ["source.", "target.", "both.", "cutover.lock_out", "schema.owners"];
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || [b'_', b'.'].contains(&byte));
    plain
        && !text.ends_with('.')
        && (text == "way_back" || of_a_part.iter().any(|part| text.starts_with(part)))
}

/// A block of the kind `sh` with a comment above it.
fn marked(marker: &str, text: &str) -> Block {
    let (page, language, name) = ("p.md".to_owned(), "sh".to_owned(), String::new());
    Block { page, line: 1, language, name, marker: Some(marker.to_owned()), text: text.to_owned() }
}

/// What would hide a command that nobody tries is noticed.
#[test]
fn a_comment_hides_nothing_that_could_run_here() {
    only_what_cannot_run_here(&marked(
        CLUSTER,
        "kubectl get pods | head -3\ncurl -s http://x && kubectl get x",
    ));
    for hidden in
        ["pgsluice check", "kubectl get pods && pgsluice check", "curl -s http://x", "kubectl get x\npsql x"]
    {
        let look = || only_what_cannot_run_here(&marked(CLUSTER, hidden));
        assert!(std::panic::catch_unwind(look).is_err(), "{hidden}");
    }
    let look = || only_what_cannot_run_here(&marked(PROFILER, "kubectl get pods"));
    assert!(std::panic::catch_unwind(look).is_err());
}

#[test]
fn what_is_not_there_is_noticed() {
    let parse = |line: &'static str| move || pgsluice_commands_parse(line, "here", Mention::Whole);
    assert_eq!(parse("kubectl exec deploy/pgsluice -- pgsluice rehearse --times 3")(), 1);
    for wrong in ["pgsluice chekc", "pgsluice cutover --max-pause 3", "kubectl exec x -- pgsluice tables add"]
    {
        assert!(std::panic::catch_unwind(parse(wrong)).is_err(), "{wrong}");
    }
    for wrong in ["make tea", "kubectl apply -k deploy/nowhere"] {
        let look = || {
            if wrong.starts_with("make") {
                target_exists(wrong, "here")
            } else {
                files_are_there(wrong, "here")
            }
        };
        assert!(std::panic::catch_unwind(look).is_err(), "{wrong}");
    }
    for wrong in ["cutover.max_pause_ms = 5", "[cutover]\nmax_paws_ms = 5"] {
        let look = || configuration_is_accepted(&marked("", wrong));
        assert!(std::panic::catch_unwind(look).is_err(), "{wrong}");
    }
}
