//! Logs: text for a person at a terminal, one JSON object a line otherwise, always to standard error. Lines and
//! progress bars share the terminal through [`Console`], so neither garbles the other. What libraries would print
//! of row values is cut off here (INV-10).

use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The variable that is read when no level is given on the command line.
const FILTER_VARIABLE: &str = "PGSLUICE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text if standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a level and not a list of directives.
    #[error("the log level \"{given}\" is not understood ({source})")]
    Filter {
        /// As given.
        given: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging is set up once, at the start of the process.
    #[error("logging was already started in this process")]
    AlreadyStarted,
}

impl LoggingError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Filter { .. } => {
                "Use error, warn, info, debug or trace, or directives such as \"info,pgsluice::stream=debug\"."
            }
            Self::AlreadyStarted => "Start logging once, at the start of the process.",
        }
    }
}

/// Standard error, shared by log lines and progress bars. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Console {
    bars: MultiProgress,
}

impl Console {
    /// Whether a person is looking.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Where progress bars are added.
    pub(super) const fn bars(&self) -> &MultiProgress {
        &self.bars
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = ConsoleLine;

    fn make_writer(&'a self) -> Self::Writer {
        ConsoleLine { console: self.clone(), line: Vec::new() }
    }
}

/// One log line on its way: written as a whole when dropped, with the bars out of the way.
#[derive(Debug)]
pub struct ConsoleLine {
    console: Console,
    line: Vec<u8>,
}

impl Write for ConsoleLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        self.console.bars.suspend(|| io::stderr().lock().write_all(&line))
    }
}

impl Drop for ConsoleLine {
    fn drop(&mut self) {
        // A log line that cannot be written has nowhere to be reported.
        let _ = self.flush();
    }
}

/// Starts logging for the whole process. `filter` is a level or a list of directives; without one the variable
/// `PGSLUICE_LOG` counts, and without that, `info`.
///
/// # Errors
/// When the filter is not understood, or logging was already started.
pub fn start_logging(format: LogFormat, filter: Option<&str>) -> Result<Console, LoggingError> {
    let console = Console::default();
    let from_environment = std::env::var(FILTER_VARIABLE).ok();
    let filter = parse_filter(filter.or(from_environment.as_deref()))?;
    Registry::default()
        .with(filter)
        .with(filter_fn(may_be_logged))
        .with(line_layer(format, &console))
        .try_init()
        .map_err(|_| LoggingError::AlreadyStarted)?;
    Ok(console)
}

fn parse_filter(given: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let given = given.unwrap_or("info");
    EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(given)
        .map_err(|source| LoggingError::Filter { given: given.to_owned(), source })
}

fn line_layer<S>(format: LogFormat, console: &Console) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let text = match format {
        LogFormat::Auto => console.is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(console.clone());
    if text {
        let colours = console.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        layer.with_ansi(colours).with_target(false).boxed()
    } else {
        layer.json().flatten_event(true).boxed()
    }
}

/// At debug level the SQL client prints the parameters of statements, which are row values, and the HTTP client and
/// TLS print what passes through them: never, whatever the filter says (INV-10).
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    const NOT_BELOW_INFO: [&str; 6] = ["tokio_postgres", "postgres_", "hyper", "reqwest", "rustls", "h2"];
    *metadata.level() <= Level::INFO
        || !NOT_BELOW_INFO.iter().any(|target| metadata.target().starts_with(target))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects what a layer writes.
    #[derive(Clone, Default)]
    struct Sheet(Arc<Mutex<Vec<u8>>>);

    impl Write for Sheet {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(filter: &str, log: impl FnOnce()) -> String {
        let sheet = Sheet::default();
        let writer = sheet.clone();
        let subscriber = Registry::default()
            .with(parse_filter(Some(filter)).expect("filter"))
            .with(filter_fn(may_be_logged))
            .with(tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = sheet.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("utf-8")
    }

    #[test]
    fn parameters_of_statements_are_not_logged_even_at_trace_level() {
        let lines = lines_of("trace,tokio_postgres=trace", || {
            tracing::debug!(target: "tokio_postgres::query", "executing statement s0 with parameters: [\"secret\"]");
            tracing::warn!(target: "tokio_postgres::connection", "notice");
            tracing::debug!(target: "pgsluice::stream", "batch committed");
        });
        assert!(!lines.contains("secret"), "{lines}");
        assert!(lines.contains("notice") && lines.contains("batch committed"), "{lines}");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let error = parse_filter(Some("pgsluice=loud")).expect_err("no such level");
        assert!(error.to_string().contains("pgsluice=loud"), "{error}");
        assert!(parse_filter(Some("debug")).is_ok());
        assert!(parse_filter(None).is_ok());
    }
}
