//! `exec`: runs a program for each step, with the step's name as its last argument and what it needs to know in
//! its environment. Exit status 0 is success. The program's whole process group is killed when the bound has
//! passed or the step is given up.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{Notes, Step, TrafficAdapter, TrafficContext, TrafficError, too_late};

/// How much of what the program says on standard error is kept for the message, in bytes.
const STDERR_KEPT_BYTES: usize = 4 * 1024;
/// How much of its last line the message shows, in characters.
const STDERR_SHOWN_CHARS: usize = 200;

/// The adapter.
#[derive(Debug)]
pub(super) struct Exec {
    command: Vec<String>,
    bound: Duration,
}

/// Kills the process group unless the program has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended in this moment.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Exec {
    pub(super) const fn new(command: Vec<String>, bound: Duration) -> Self {
        Self { command, bound }
    }

    /// Runs the program to its end, with `more` in its environment; without a bound.
    pub(super) async fn run(
        &self,
        step: Step,
        context: &TrafficContext,
        more: &[(&str, String)],
    ) -> Result<(), TrafficError> {
        let failed = |problem: String, remedy: &str| TrafficError {
            adapter: self.name(),
            step,
            problem,
            remedy: remedy.to_owned(),
        };
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(failed("no program is configured".into(), "Set `command` of this adapter."));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(step.as_str())
            .env("PGSLUICE_STEP", step.as_str())
            .env("PGSLUICE_EPOCH", context.epoch.to_string())
            .env("PGSLUICE_MODE", context.mode_name())
            .env("PGSLUICE_NONCE", &context.nonce)
            .env("PGSLUICE_SOURCE_HOST", &context.source.host)
            .env("PGSLUICE_SOURCE_PORT", context.source.port.to_string())
            .env("PGSLUICE_SOURCE_DATABASE", &context.source.database)
            .env("PGSLUICE_TARGET_HOST", &context.target.host)
            .env("PGSLUICE_TARGET_PORT", context.target.port.to_string())
            .env("PGSLUICE_TARGET_DATABASE", &context.target.database)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.envs(more.iter().map(|(name, value)| (name, value)));
        // Our own configuration may hold passwords; it is none of the program's business.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("PGSLUICE_") && name.contains("__") {
                command.env_remove(name.as_ref());
            }
        }
        let mut child = command.spawn().map_err(|error| {
            failed(
                format!("`{program}` cannot be started ({error})"),
                "Check that the program exists in the container or on the machine and may be executed.",
            )
        })?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let stderr = child.stderr.take();
        // A grandchild may keep standard error open: the program's own end is what counts.
        let (status, said) = tokio::join!(child.wait(), tail(stderr));
        let status = status.map_err(|error| {
            failed(format!("`{program}` was lost ({error})"), "Run it by hand to see why.")
        })?;
        group.0 = None;
        if status.success() {
            return Ok(());
        }
        Err(failed(
            describe(status, &said),
            "Run the program by hand with the same argument to see what is wrong.",
        ))
    }
}

#[async_trait]
impl TrafficAdapter for Exec {
    fn name(&self) -> String {
        format!("exec {}", self.command.first().map_or("", String::as_str))
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        match tokio::time::timeout(self.bound, self.run(step, context, &[])).await {
            Ok(outcome) => outcome.map(|()| Notes::new()),
            Err(_) => Err(too_late(self.name(), step, self.bound)),
        }
    }
}

/// Reads to the end, keeping the last bytes.
async fn tail(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut source) = source else { return kept };
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = source.read(&mut piece).await {
        kept.extend(piece.iter().take(read));
        if kept.len() > STDERR_KEPT_BYTES {
            kept.drain(..kept.len() - STDERR_KEPT_BYTES);
        }
    }
    kept
}

fn describe(status: ExitStatus, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last: String =
        text.trim().lines().next_back().unwrap_or_default().chars().take(STDERR_SHOWN_CHARS).collect();
    if last.is_empty() {
        format!("it ended with {status}")
    } else {
        format!("it ended with {status}: {last}")
    }
}
