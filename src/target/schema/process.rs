//! Runs `pg_dump` and `psql`: secrets go through the environment, what they print on stderr is kept up to a bound,
//! and a request to stop reaches them as the interrupt they know.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::SchemaError;
use crate::connection::ConnectionSettings;
use crate::runtime::Shutdown;

/// Of what a tool prints on stderr, this much is kept; the first error is what matters.
const STDERR_BYTES_MAX: usize = 64 * 1024;
/// How long a tool may take to cancel its statement and go.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);

/// One run of one tool.
pub(super) struct Invocation {
    program: PathBuf,
    command: Command,
    script: Option<PathBuf>,
}

impl Invocation {
    /// A run of `program` against a server, with settings in the form of `PGOPTIONS` after those of the connection.
    pub(super) fn new(program: &Path, settings: &ConnectionSettings, options: &str) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let mut session_options = options.to_owned();
        for (name, value) in settings.libpq_environment() {
            if name == "PGOPTIONS" {
                session_options = format!("{value} {session_options}");
            } else if !value.is_empty() {
                command.env(name, value);
            }
        }
        command.env("PGOPTIONS", session_options.trim()).env("PGAPPNAME", "pgsluice schema");
        // Messages are looked at below.
        command.env("LC_ALL", "C").env("LC_MESSAGES", "C");
        Self { program: program.to_owned(), command, script: None }
    }

    pub(super) fn argument(&mut self, argument: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn arguments(&mut self, arguments: Vec<String>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// The script in which the failing object is looked up.
    pub(super) fn explained_by(&mut self, script: &Path) -> &mut Self {
        self.script = Some(script.to_owned());
        self
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self, shutdown: &Shutdown) -> Result<(), SchemaError> {
        let start = |error| SchemaError::Start { program: self.program.clone(), error };
        let mut child = self.command.spawn().map_err(start)?;
        let stderr = child.stderr.take();
        let ended = tokio::select! {
            ended = async { tokio::join!(child.wait(), read_bounded(stderr)) } => ended,
            () = shutdown.requested() => {
                interrupt(&mut child).await;
                return Err(SchemaError::Stopped);
            }
        };
        let (status, stderr) = ended;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(self.failed(&stderr)),
            Err(error) => Err(SchemaError::Start { program: self.program, error }),
        }
    }

    fn failed(&self, stderr: &str) -> SchemaError {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (line_number, message) = first_error(stderr);
        let object = match (&self.script, line_number) {
            (Some(script), Some(line_number)) => object_at(script, line_number),
            _ => None,
        };
        SchemaError::Failed { program, message, object }
    }
}

/// psql and `pg_dump` cancel their statement on SIGINT, so that the server does not go on building an index for
/// nobody; a process that does not go is killed when it is dropped.
async fn interrupt(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid
        && kill(Pid::from_raw(pid), Signal::SIGINT).is_ok()
    {
        let _ = tokio::time::timeout(INTERRUPT_TIMEOUT, child.wait()).await;
    }
}

/// Reads to the end, so that the process never waits for us, and keeps the beginning.
async fn read_bounded(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = STDERR_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(count.min(room)));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The first error and, for `psql:file:12: ERROR:  …`, the line.
fn first_error(stderr: &str) -> (Option<usize>, String) {
    let is_error =
        |line: &&str| ["ERROR:", "FATAL:", "PANIC:", "error:"].iter().any(|word| line.contains(word));
    let Some(line) = stderr.lines().find(is_error).or_else(|| stderr.lines().next()) else {
        return (None, "it ended without a message".to_owned());
    };
    let at = ["ERROR:", "FATAL:", "PANIC:", "error:"].iter().find_map(|word| line.find(word));
    let (place, message) = line.split_at(at.unwrap_or_default());
    let line_number = place.trim_end().trim_end_matches(':').rsplit(':').next().and_then(|n| n.parse().ok());
    (line_number, without_values(message).split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What follows a colon and a quote may be a value ("invalid input syntax for type integer: \"…\"") and is cut off
/// (INV-10).
pub(super) fn without_values(message: &str) -> &str {
    message.split_once(": \"").map_or(message, |(before, _)| before)
}

/// `pg_dump` writes `-- Name: orders_pkey; Type: CONSTRAINT; Schema: public; Owner: app` before each object.
fn object_at(script: &Path, line_number: usize) -> Option<String> {
    let file = std::fs::File::open(script).ok()?;
    let lines = BufReader::new(file).lines().take(line_number).map_while(Result::ok);
    let title = lines.filter(|line| line.starts_with("-- Name: ")).last()?;
    let mut parts = title.trim_start_matches("-- Name: ").split("; ");
    let name = parts.next()?;
    let field = |title: &str| title_value(&parts.clone().collect::<Vec<_>>(), title);
    Some(match (field("Type: "), field("Schema: ")) {
        (Some(kind), Some(schema)) => format!("{} {schema}.{name}", kind.to_lowercase()),
        _ => name.to_owned(),
    })
}

fn title_value(parts: &[&str], title: &str) -> Option<String> {
    parts.iter().find_map(|part| part.strip_prefix(title)).map(str::to_owned)
}

/// A directory only we can read, removed with everything in it when dropped: definitions can contain secrets, as in
/// function bodies.
pub(super) struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    pub(super) fn create() -> Result<Self, SchemaError> {
        let name = format!("pgsluice-schema-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => Ok(Self(directory)),
            Err(error) => Err(SchemaError::Scratch { directory: std::env::temp_dir(), error }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a small file.
    pub(super) fn write(&self, file: &Path, text: &str) -> Result<(), SchemaError> {
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(file)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().map_err(|error| SchemaError::Scratch { directory: self.0.clone(), error })
    }

    /// Reads what a tool wrote.
    pub(super) fn read(&self, file: &Path) -> Result<String, SchemaError> {
        std::fs::read_to_string(file)
            .map_err(|error| SchemaError::Scratch { directory: self.0.clone(), error })
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "scratch directory left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_found_with_its_line_and_without_values() {
        let stderr = "psql:/tmp/x/schema.sql:7: NOTICE:  fine\npsql:/tmp/x/schema.sql:12: ERROR:  role \"app\" does not exist\n";
        assert_eq!(first_error(stderr), (Some(12), "ERROR: role \"app\" does not exist".to_owned()));
        let stderr = "psql:s.sql:3: ERROR:  invalid input syntax for type integer: \"secret\"";
        assert_eq!(first_error(stderr), (Some(3), "ERROR: invalid input syntax for type integer".to_owned()));
        let stderr = "pg_dump: error: permission denied for table t\npg_dump: detail: Query was: …";
        assert_eq!(first_error(stderr), (None, "error: permission denied for table t".to_owned()));
        assert_eq!(first_error("").1, "it ended without a message");
    }

    #[test]
    fn the_object_that_failed_is_looked_up_in_the_dump() {
        let scratch = ScratchDirectory::create().unwrap();
        let script = scratch.path().join("s.sql");
        let text = "SET x = 1;\n-- Name: a; Type: TABLE; Schema: public; Owner: app\n\nCREATE TABLE a ();\n\
                    -- Name: a_pkey; Type: CONSTRAINT; Schema: public; Owner: app\nALTER TABLE a …;\n";
        scratch.write(&script, text).unwrap();
        assert_eq!(object_at(&script, 4).as_deref(), Some("table public.a"));
        assert_eq!(object_at(&script, 6).as_deref(), Some("constraint public.a_pkey"));
        assert_eq!(object_at(&script, 1), None);
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_request_to_stop_ends_the_tool() {
        let shutdown = Shutdown::new();
        shutdown.request();
        let settings = ConnectionSettings::parse("postgres://app@localhost/shop").unwrap();
        let mut sleep = Invocation::new(Path::new("/bin/sleep"), &settings, "");
        sleep.argument("60");
        assert!(matches!(sleep.run(&shutdown).await, Err(SchemaError::Stopped)));
    }
}
