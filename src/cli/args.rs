//! The command line's grammar: commands, options, help with examples. It decides nothing and reads no file; `app` does
//! what is asked.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use super::help;
use super::{ClientCommand, OutputFormat, Rows, Schedule, StatusView, VerificationAsked, Wait};
use crate::config::ApiConfig;
use crate::control::dto::{ScopeRecord, VerificationRequestRecord};
use crate::migration::CutoverMode;
use crate::telemetry::LogFormat;

/// Moves a live PostgreSQL database into another PostgreSQL cluster with a write pause measured in milliseconds.
///
/// Nothing is lost, nothing is applied twice, and until the point of no return everything can be undone.
#[derive(Clone, Debug, Parser)]
#[command(name = "pgsluice", version, about, long_about, after_help = help::EXIT_CODES, after_long_help = help::PROGRAM, propagate_version = true, max_term_width = 110)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArguments,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArguments {
    /// Configuration file (TOML); every key except those of [[traffic]] can also be set as PGSLUICE_SECTION__KEY
    #[arg(long, short, global = true, env = "PGSLUICE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How results are printed on standard output; json is one document, of a failure too: {"error", "remedy", "exit_code"}
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// How log lines look on standard error; auto is text on a terminal and JSON otherwise
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "PGSLUICE_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or directives such as info,pgsluice::stream=debug (or PGSLUICE_LOG)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum CliCommand {
    /// Look for whatever could stop the migration, on both sides
    ///
    /// Changes nothing. Every finding comes with an id, what it means, and the SQL or setting that fixes it. Ends with
    /// exit code 3 if there is a blocker.
    #[command(after_long_help = help::CHECK)]
    Check,
    /// Run the migration: schema, copy, stream, and the HTTP API
    ///
    /// Runs until it is stopped, and resumes from whatever state it finds: stopping or killing it at any moment loses
    /// nothing. Switch over with `pgsluice cutover`.
    #[command(after_long_help = help::RUN)]
    Run,
    /// Show how far a running instance is
    ///
    /// Phase, lag, positions, rates, what the slot keeps on the source, the target's standbys, tables, findings, the last cutover,
    /// and the last problem with its remedy. Changes nothing.
    #[command(after_long_help = help::STATUS)]
    Status {
        /// Show it again and again, until interrupted; on a terminal as one picture, with the course of the lag
        #[arg(long, short)]
        watch: bool,
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Show every table: whether it is in the migration, and if not, why and what to do; add tables to it
    ///
    /// A table that was created, attached or left out after the start is outside until it is added; no cutover leaves one behind.
    #[command(after_long_help = help::TABLES)]
    Tables(TablesArguments),
    /// Compare source and target row by row while traffic goes on
    ///
    /// Both sides are read under snapshots that contain the same, so that a row in flight is never taken for a difference. Follows the
    /// verification to its end and tells every row that differs by table, key and columns. Interrupting this command does not stop it;
    /// `--stop` does.
    #[command(after_long_help = help::VERIFY)]
    Verify(VerifyArguments),
    /// Measure the write pause: the real fence for a bounded time, then rolled back
    ///
    /// Once, or several times with a break in between, for percentiles: the pause of an hour says more than that of a moment.
    #[command(after_long_help = help::REHEARSE)]
    Rehearse {
        /// How many rehearsals, one after the other
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        times: u32,
        /// Seconds from the end of one to the beginning of the next
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
        every: u64,
        #[command(flatten)]
        pause: PauseArguments,
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Switch over: fence the source, prove that the target has everything, move traffic
    ///
    /// Follows the operation to its end. If it cannot finish within the pause allowed it rolls back by itself: the
    /// source goes on, and blocked writers see no error. Interrupting this command does not stop the operation;
    /// `pgsluice abort` does.
    #[command(after_long_help = help::CUTOVER)]
    Cutover {
        /// Without a clean verification that is young enough (verify.max_age_hours); the certificate says so
        #[arg(long)]
        unverified: bool,
        #[command(flatten)]
        pause: PauseArguments,
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Roll a running cutover back, before its point of no return
    ///
    /// Follows it to its end. A cutover that needs more than its bound does so by itself.
    #[command(after_long_help = help::ABORT)]
    Abort {
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Switch back to the source after a cutover, without losing what was written on the target
    ///
    /// The same as a cutover, with the sides exchanged: possible until `pgsluice cleanup` ends the rollback window, and only
    /// with `cutover.reverse = true`.
    #[command(after_long_help = help::ROLLBACK)]
    Rollback {
        /// Only measure the write pause that a rollback would need: everything but the commit and the traffic
        #[arg(long)]
        rehearse: bool,
        #[command(flatten)]
        pause: PauseArguments,
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Tell a cutover with a manual step that clients have been moved
    ///
    /// For a [[traffic]] adapter `manual`, which waits for this word. Follows the cutover to its end.
    #[command(after_long_help = help::CONFIRM)]
    Confirm {
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Remove from both sides what a migration has created, and restore what it has changed
    ///
    /// Only after the migration is over or given up: without its slot it cannot go on, and has to start from the copy.
    #[command(after_long_help = help::CLEANUP)]
    Cleanup(CleanupArguments),
    /// Show it all: throwaway servers, live traffic, a migration, a cutover, a report
    ///
    /// Needs local PostgreSQL binaries of two versions (scripts/install-postgres.sh gets them). Touches nothing else.
    #[command(after_long_help = help::DEMO)]
    Demo(crate::demo::DemoArgs),
    /// Print a script that completes commands and options in a shell
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print docs/configuration.md
    #[command(hide = true)]
    ConfigReference,
}

/// How a running instance is reached.
#[derive(Clone, Debug, Args)]
pub struct ApiArguments {
    /// Address of the running instance's API; without it, as `api.listen` of the configuration says
    #[arg(long, env = "PGSLUICE_API", value_name = "URL")]
    pub api: Option<String>,
    /// File with the API's bearer token; without it, `api.token_file` of the configuration
    #[arg(long, env = "PGSLUICE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the certificate authority (PEM) that an https API is trusted by, or with the API's own certificate where none
    /// has signed it; without it, the system's authorities
    #[arg(long, env = "PGSLUICE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl ApiArguments {
    /// Where the instance is: as given, else where one with this configuration listens. Without a scheme it is the one that
    /// the configuration speaks.
    #[must_use]
    pub fn address(&self, configured: &ApiConfig) -> String {
        match &self.api {
            Some(given) if self.speaks_tls(configured) && !given.contains("://") => {
                format!("https://{given}")
            }
            Some(given) => given.clone(),
            None => api_url(configured),
        }
    }

    /// Whoever names an authority means HTTPS.
    const fn speaks_tls(&self, configured: &ApiConfig) -> bool {
        configured.tls.is_some() || self.ca_file.is_some()
    }
}

/// What is asked about tables.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TablesArguments {
    /// What to do; without it, the tables are listed.
    #[command(subcommand)]
    pub command: Option<TablesCommand>,
    #[command(flatten)]
    api: ApiArguments,
}

/// What can be done with tables.
#[derive(Clone, Debug, Subcommand)]
pub enum TablesCommand {
    /// Take tables of the source into the running migration, with all their rows, while everything else goes on
    ///
    /// For tables that were created after the start, detached, or left out. Waits until they have joined. Adding a table
    /// again changes nothing. Interrupting this command does not stop it.
    #[command(after_long_help = help::TABLES_ADD)]
    Add(AddTablesArguments),
}

/// Which tables join.
#[derive(Clone, Debug, Args)]
pub struct AddTablesArguments {
    /// As schema.table; a partitioned table stands for all of its partitions
    #[arg(required = true, value_name = "SCHEMA.TABLE")]
    pub tables: Vec<String>,
    /// Only until it is accepted; follow it with `pgsluice tables`
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    api: ApiArguments,
}

/// What is compared, and how much of the servers' time that takes.
#[derive(Clone, Debug, Args)]
pub struct VerifyArguments {
    /// What is compared
    #[arg(long, value_enum, value_name = "SCOPE", default_value = "everything")]
    pub scope: ScopeArgument,
    /// The part of the time in which it may keep each server busy, in percent: 1 to 100; without it, `verify.share_percent` of the
    /// running instance
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub share: Option<u8>,
    /// Sessions on each side that compare at the same time, 1 to 64; without it, `verify.jobs` of the running instance
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// First repair on the target the rows that the last verification has named; needs `verify.repair = true` in the running instance
    ///
    /// Each is brought over from the source once more, at its place in the stream's order. Find out first what has changed them.
    #[arg(long)]
    pub repair: bool,
    /// Stop the verification that runs, instead of starting one
    #[arg(long, conflicts_with_all = ["scope", "share", "jobs", "repair", "show"])]
    pub stop: bool,
    /// Show the verification that runs, or the last one, instead of starting one
    #[arg(long, conflicts_with_all = ["scope", "share", "jobs", "repair"])]
    pub show: bool,
    #[command(flatten)]
    api: ApiArguments,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ScopeArgument {
    /// Rows, and structure
    Everything,
    /// Rows alone
    Rows,
    /// Structure alone: columns, indexes, constraints, privileges and so on. No cutover goes by that
    Structure,
}

impl VerifyArguments {
    fn asked(&self) -> VerificationAsked {
        match (self.stop, self.show) {
            (true, _) => VerificationAsked::Stop,
            (false, true) => VerificationAsked::Show,
            (false, false) => VerificationAsked::Start(VerificationRequestRecord {
                scope: Some(match self.scope {
                    ScopeArgument::Everything => ScopeRecord::Everything,
                    ScopeArgument::Rows => ScopeRecord::Rows,
                    ScopeArgument::Structure => ScopeRecord::Structure,
                }),
                share_percent: self.share,
                jobs: self.jobs,
                repair: self.repair,
            }),
        }
    }
}

/// The bound on the write pause.
#[derive(Clone, Debug, Args)]
pub struct PauseArguments {
    /// The longest write pause in milliseconds; without it, `cutover.max_pause_ms` of the running instance
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub max_pause_ms: Option<u64>,
}

/// What cleanup removes.
#[derive(Clone, Debug, Args)]
pub struct CleanupArguments {
    /// Only list what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Also remove the fence of a committed cutover from the source, so that it accepts writes again
    ///
    /// Dangerous while applications write to the target: both sides would be writable, and writes to the source would
    /// not reach the target (INV-8).
    #[arg(long)]
    pub unfence_source: bool,
    /// The source is gone for good: clean only the target, which must be the primary
    ///
    /// Ends the way back, whose slot would otherwise keep the target's WAL for a database that does not come back.
    #[arg(long, conflicts_with = "unfence_source")]
    pub without_source: bool,
    /// Also remove the fence of a rollback from the target, so that it accepts writes again
    ///
    /// Dangerous while applications write to the source.
    #[arg(long, conflicts_with = "unfence_source")]
    pub unfence_target: bool,
    /// The target is gone for good: clean only the source, and open it again
    #[arg(long, requires = "unfence_source", conflicts_with = "without_source")]
    pub without_target: bool,
}

/// A script that completes commands and options in `shell`.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pgsluice", &mut script);
    script
}

impl CliCommand {
    /// What is asked of a running instance, and how that is reached; `None` for commands that do the work themselves.
    #[must_use]
    pub fn for_running_instance(&self) -> Option<(ClientCommand, &ApiArguments)> {
        Some(match self {
            Self::Status { watch, api } => {
                let view = match (*watch, std::io::stdout().is_terminal()) {
                    (false, _) => StatusView::Once,
                    (true, false) => StatusView::Watch,
                    (true, true) => StatusView::Live,
                };
                (ClientCommand::Status(view), api)
            }
            Self::Tables(TablesArguments { command: None, api }) => (ClientCommand::Tables, api),
            Self::Tables(TablesArguments { command: Some(TablesCommand::Add(add)), .. }) => {
                let wait = if add.no_wait { Wait::No } else { Wait::UntilJoined };
                (ClientCommand::AddTables { tables: add.tables.clone(), wait }, &add.api)
            }
            Self::Verify(verify) => (ClientCommand::Verify(verify.asked()), &verify.api),
            Self::Rehearse { times, every, pause, api } => {
                let schedule = Schedule { times: *times, every: Duration::from_secs(*every) };
                (ClientCommand::Rehearse { schedule, max_pause: pause.max_pause() }, api)
            }
            Self::Cutover { unverified, pause, api } => {
                let rows = if *unverified { Rows::Unverified } else { Rows::Verified };
                (ClientCommand::Cutover { max_pause: pause.max_pause(), rows }, api)
            }
            Self::Abort { api } => (ClientCommand::Abort, api),
            Self::Rollback { rehearse, pause, api } => {
                let mode = if *rehearse { CutoverMode::Rehearsal } else { CutoverMode::Cutover };
                (ClientCommand::Rollback { mode, max_pause: pause.max_pause() }, api)
            }
            Self::Confirm { api } => (ClientCommand::Confirm, api),
            Self::Check
            | Self::Run
            | Self::Cleanup(_)
            | Self::Demo(_)
            | Self::Completions { .. }
            | Self::ConfigReference => {
                return None;
            }
        })
    }
}

impl PauseArguments {
    /// The bound as a duration.
    #[must_use]
    pub fn max_pause(&self) -> Option<Duration> {
        self.max_pause_ms.map(Duration::from_millis)
    }
}

/// The URL at which an instance that listens here is reached from the same machine. With TLS by the name `localhost`, for which
/// certificates are made out rather than for addresses.
fn api_url(configured: &ApiConfig) -> String {
    let listen = configured.listen;
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    match (&configured.tls, [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&ip))
    {
        (Some(_), true) => format!("https://localhost:{}", listen.port()),
        (Some(_), false) => format!("https://{}", SocketAddr::new(ip, listen.port())),
        (None, _) => format!("http://{}", SocketAddr::new(ip, listen.port())),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::config::TlsFiles;

    fn parse(words: &[&str]) -> Arguments {
        Arguments::try_parse_from(std::iter::once(&"pgsluice").chain(words)).unwrap()
    }

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in clap_complete::Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).expect("text");
            for command in ["check", "rehearse", "cutover", "rollback", "--max-pause-ms", "--unfence-source"]
            {
                assert!(script.contains(command.trim_start_matches('-')), "{shell}: {command}");
            }
        }
    }

    #[test]
    fn every_command_of_the_contract_is_understood() {
        for words in [
            &["check", "--output", "json"][..],
            &["run", "--config", "x.toml", "--log-format", "json", "--log-level", "debug"],
            &["status", "--watch"],
            &["tables", "--output", "json"],
            &["tables", "add", "public.a", "public.b", "--no-wait"],
            &["verify"],
            &["verify", "--scope", "rows", "--share", "20", "--jobs", "4"],
            &["verify", "--repair"],
            &["verify", "--show", "--output", "json"],
            &["verify", "--stop"],
            &["cutover", "--unverified"],
            &["rehearse"],
            &["--config", "x.toml", "cutover", "--max-pause-ms", "500", "--api", "http://h:1"],
            &["abort", "--token-file", "t"],
            &["rollback"],
            &["confirm"],
            &["cleanup", "--dry-run", "--unfence-source"],
            &["demo", "--transactions", "10"],
            &["config-reference"],
        ] {
            parse(words);
        }
        assert!(Arguments::try_parse_from(["pgsluice", "cutover", "--max-pause-ms", "1"]).is_err());
        assert!(Arguments::try_parse_from(["pgsluice"]).is_err());
        for words in
            [&["--share", "0"][..], &["--jobs", "65"], &["--stop", "--show"], &["--show", "--jobs", "2"]]
        {
            assert!(
                Arguments::try_parse_from(["pgsluice", "verify"].iter().chain(words)).is_err(),
                "{words:?}"
            );
        }
        assert!(Arguments::try_parse_from(["pgsluice", "tables", "add"]).is_err());
    }

    #[test]
    fn commands_for_a_running_instance_carry_their_options() {
        let arguments = parse(&["cutover", "--max-pause-ms", "500"]);
        let (command, _) = arguments.command.for_running_instance().unwrap();
        let max_pause = Some(Duration::from_millis(500));
        assert_eq!(command, ClientCommand::Cutover { max_pause, rows: Rows::Verified });
        let arguments = parse(&["cutover", "--unverified"]);
        let (command, _) = arguments.command.for_running_instance().unwrap();
        assert_eq!(command, ClientCommand::Cutover { max_pause: None, rows: Rows::Unverified });
        let arguments = parse(&["verify", "--scope", "rows", "--share", "20", "--jobs", "4"]);
        let (command, _) = arguments.command.for_running_instance().unwrap();
        let request = VerificationRequestRecord {
            scope: Some(ScopeRecord::Rows),
            share_percent: Some(20),
            jobs: Some(4),
            repair: false,
        };
        assert_eq!(command, ClientCommand::Verify(VerificationAsked::Start(request)));
        assert!(parse(&["run"]).command.for_running_instance().is_none());
    }

    #[test]
    fn help_documents_every_exit_code_and_hides_what_is_internal() {
        let help = Arguments::command().render_long_help().to_string();
        for code in 0..=4 {
            assert!(help.contains(&format!("\n  {code}  ")), "{code} is missing in {help}");
        }
        assert!(!help.contains("config-reference"));
    }

    fn configured(listen: &str, tls: Option<TlsFiles>) -> ApiConfig {
        ApiConfig { listen: listen.parse().unwrap(), token: None, tls }
    }

    #[test]
    fn an_instance_with_a_certificate_is_reached_by_https_unless_the_address_says_otherwise() {
        let tls = TlsFiles { certificate: "tls.crt".into(), key: "tls.key".into() };
        let secured = |listen: &str| configured(listen, Some(tls.clone()));
        assert_eq!(api_url(&secured("0.0.0.0:8080")), "https://localhost:8080");
        assert_eq!(api_url(&secured("[::1]:80")), "https://localhost:80");
        assert_eq!(api_url(&secured("10.1.2.3:80")), "https://10.1.2.3:80");
        let given = |api: &str| {
            let arguments = parse(&["status", "--api", api, "--ca-file", "ca.crt"]);
            let (_, api) = arguments.command.for_running_instance().unwrap();
            api.address(&secured("127.0.0.1:1"))
        };
        assert_eq!(given("db-7:8080"), "https://db-7:8080");
        assert_eq!(given("http://db-7:8080"), "http://db-7:8080");
        // An authority is for HTTPS, whatever the configuration here says.
        let arguments = parse(&["status", "--api", "db-7:8080", "--ca-file", "ca.crt"]);
        let (_, api) = arguments.command.for_running_instance().unwrap();
        assert_eq!(api.address(&configured("127.0.0.1:1", None)), "https://db-7:8080");
    }

    /// Every command and command of a command, but for those that are hidden.
    fn every_command(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        let path = format!("{path} {}", command.get_name());
        found.push((path.clone(), command.clone().render_long_help().to_string()));
        for each in command.get_subcommands().filter(|each| !each.is_hide_set() && each.get_name() != "help")
        {
            every_command(each, &path, found);
        }
    }

    #[test]
    fn the_long_help_of_every_command_has_examples_that_are_understood_and_says_how_it_exits() {
        let mut found = Vec::new();
        every_command(&Arguments::command(), "", &mut found);
        assert!(found.len() > 14, "{found:?}");
        for (path, help) in found {
            let sections: Vec<&str> = help.lines().filter(|line| !line.starts_with(' ')).collect();
            let has = |section| sections.contains(&section);
            assert!(has("EXAMPLES"), "{path} has no example: {help}");
            assert!(has("EXIT CODES") || path.ends_with("completions"), "{path}: {help}");
            let below = help.split_once("EXAMPLES\n").map_or("", |(_, below)| below);
            let wide: Vec<&str> = below.lines().filter(|line| line.chars().count() > 98).collect();
            assert!(wide.is_empty(), "{path}: {wide:?}");
            for line in below.lines().take_while(|line| !line.is_empty()) {
                let Some(example) = line.trim_start().strip_prefix("pgsluice ") else { continue };
                // What it is for stands behind several spaces; what its output is for behind these marks.
                let end = ["  ", " > ", " | ", " && "].iter().filter_map(|mark| example.find(mark)).min();
                let words = example.get(..end.unwrap_or(example.len())).unwrap_or_default().split(' ');
                parse(&words.map(|word| word.trim_matches('\'')).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_instance_that_listens_everywhere_is_reached_on_loopback() {
        let url = |listen: &str| api_url(&configured(listen, None));
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("10.1.2.3:80"), "http://10.1.2.3:80");
    }
}
