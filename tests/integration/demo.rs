//! `pgsluice demo` itself: its report, and that it leaves nothing behind however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::wait::until;

/// A temporary folder that the servers' user can enter.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).expect("permissions");
    folder
}

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    command.arg("demo").args(["--scale", "0.05", "--rate", "200", "--writers", "3"]).args(arguments);
    command.arg("--report").arg(folder.join("report/report.json"));
    command.env("TMPDIR", folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Command lines with this folder in them.
fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&needle))
        .collect()
}

/// The demo starts it last, after both servers.
fn runs_the_program(folder: &Path) -> bool {
    processes_of(folder).iter().any(|line| line.contains(" run --config "))
}

fn leftovers(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("folder").flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("pgsluice-cluster") || name.starts_with("pgsluice-demo"))
        .collect()
}

#[tokio::test]
async fn the_report_has_every_figure_of_the_contract() {
    let folder = folder();
    let mut demo = demo(folder.path(), &["--transactions", "500"]);
    let status = tokio::task::spawn_blocking(move || demo.status()).await.expect("task").expect("demo");
    assert!(status.success());
    let report = fs::read_to_string(folder.path().join("report/report.json")).expect("report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let figure = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {report:#}"));
    assert!(figure("rows_copied") > 1_000.0);
    assert!(figure("transactions_applied") >= 500.0);
    assert!(figure("pause_ms") > 0.0);
    assert!(figure("client_errors") >= 0.0);
    assert!(figure("acknowledged_transactions") >= 500.0);
    assert!(figure("rows_compared") > 1_000.0);
    assert!(figure("verified_rows") > 1_000.0);
    for name in ["missing_transactions", "duplicate_transactions", "row_differences", "verified_differences"]
    {
        assert_eq!(figure(name).to_bits(), 0.0_f64.to_bits(), "{name}");
    }
    assert_eq!((processes_of(folder.path()), leftovers(folder.path())), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn as_json_its_report_is_all_that_stands_on_standard_output() {
    let folder = folder();
    let mut demo = demo(folder.path(), &["--transactions", "200", "--output", "json", "--keep"]);
    demo.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || demo.output()).await.expect("task").expect("demo");
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{progress}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&report["failures"], &report["row_differences"]), (&serde_json::json!([]), &0.into()));
    assert!(report["transactions_applied"].as_u64().is_some_and(|applied| applied >= 200), "{report:#}");
    assert!(progress.contains("cutting over") && progress.contains("kept: "), "{progress}");
}

#[tokio::test]
async fn however_it_is_ended_its_servers_and_files_are_gone() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let folder = folder();
        let mut demo = demo(folder.path(), &["--transactions", "1000000"]).spawn().expect("demo");
        let pid = Pid::from_raw(i32::try_from(demo.id()).expect("pid"));
        until("the demo's program between its servers", || async { runs_the_program(folder.path()) }).await;
        kill(pid, signal).expect("signal");
        until("the demo's end", || {
            let ended = demo.try_wait().expect("wait").is_some();
            async move { ended }
        })
        .await;
        until(&format!("nothing left after {signal}"), || async {
            processes_of(folder.path()).is_empty()
                && leftovers(folder.path()).iter().all(|name| name.starts_with("pgsluice-demo"))
        })
        .await;
        if signal != Signal::SIGKILL {
            assert_eq!(leftovers(folder.path()), Vec::<String>::new());
        }
    }
}
