//! Child processes that never outlive this one. Between us and the program stands a shell that becomes the program and
//! leaves a watcher behind; the watcher reads from our end of a pipe. However this process ends, even by SIGKILL, the pipe
//! closes, and the watcher ends the program and removes what it left.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `$$` is the shell's process id also in its subshells, and the program's after `exec`. The watcher is nobody's child, so
/// that a server does not wonder about one it never started.
const SCRIPT: &str = r#"
exec 3<&0
(
    (
        trap '' INT TERM HUP QUIT
        word=
        read -r word <&3
        if [ "$word" != released ]; then
            kill -"$LEASH_SIGNAL" $$ 2>/dev/null
            tries=50
            while [ $tries -gt 0 ] && kill -0 $$ 2>/dev/null; do sleep 0.1; tries=$((tries - 1)); done
            [ -z "$LEASH_DIRECTORY" ] || rm -rf -- "$LEASH_DIRECTORY"
        fi
    ) </dev/null >/dev/null 2>&1 &
)
exec "$@" </dev/null 3<&-
"#;

/// A command that will run `program` on a leash: it is a shell's, and arguments are added to it as to the program's own.
pub(super) fn prepare(mut shell: Command, program: impl AsRef<OsStr>) -> Command {
    shell.args(["-c", SCRIPT, "leash"]).arg(program).stdin(Stdio::piped());
    shell
}

/// The shell that [`prepare`] wants.
pub(super) const SHELL: &str = "/bin/sh";

/// A running program. Dropping it kills it, and removes the directory.
pub(super) struct Leash {
    child: Child,
}

impl Leash {
    /// Starts a prepared command. Should this process end first, the program gets `signal`, and `directory` is removed.
    pub(super) fn start(
        mut command: Command,
        signal: Signal,
        directory: Option<&Path>,
    ) -> std::io::Result<Self> {
        command.env("LEASH_SIGNAL", signal.as_str().trim_start_matches("SIG"));
        command.env("LEASH_DIRECTORY", directory.map_or_else(|| OsStr::new(""), Path::as_os_str));
        Ok(Self { child: command.spawn()? })
    }

    /// Process id of the program.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; one that has ended already does not mind.
    pub(super) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// How the program ended; `None` while it runs. The watcher is told as soon as it is seen.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        self.release();
        Some(status)
    }

    fn release(&mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(b"released\n");
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.release();
        }
    }
}
