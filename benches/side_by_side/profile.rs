//! Where the time goes, if that is asked for: `perf record` of the whole machine during one measurement, into a file that
//! `perf report` reads. Samples by the clock, so that it works on virtual machines too.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::Outcome;

/// A running profiler.
pub(crate) struct Profile {
    perf: Child,
}

impl Profile {
    /// Starts recording into a file.
    pub(crate) fn start(file: &Path) -> Outcome<Self> {
        let perf = Command::new("perf")
            .args([
                "record",
                "--all-cpus",
                "--event",
                "cpu-clock",
                "--freq",
                "499",
                "--call-graph",
                "fp",
                "--output",
            ])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("perf cannot be started (install linux-perf): {error}"))?;
        Ok(Self { perf })
    }

    /// Ends it, and waits until the file is complete.
    pub(crate) async fn finish(mut self) -> Outcome<()> {
        if let Some(pid) = self.perf.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
        }
        self.perf.wait().await?;
        Ok(())
    }
}
