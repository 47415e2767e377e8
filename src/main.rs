//! The program: arguments, logging, configuration, one command, an exit code. Everything else is in the library.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use pgsluice::app::{self, AppError, Start, TargetNeeded};
use pgsluice::cli::{
    ApiArguments, ApiClient, Arguments, CliCommand, ClientCommand, Exit, Failure, GlobalArguments,
    OutputFormat, completions,
};
use pgsluice::config::{configuration_reference, load_api, process_environment};
use pgsluice::connection::Secret;
use pgsluice::telemetry::{Console, start_logging};

/// Batches are many small values that come and go at once: it gives their memory back sooner than the system's allocator. Without huge
/// pages, of which a batch touches a small part of each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept, in ms: a batch's for the next, if that comes soon. The allocator's own second makes a third more
/// of wide rows; 10 ms cost a third of a processor at 500 transactions a second.
const MEMORY_KEPT_MS: std::ffi::c_long = 100;
/// `mi_option_purge_delay` of `mimalloc.h`, which its bindings do not name.
const PURGE_DELAY: std::ffi::c_int = 15;

/// A transaction passes through four tasks, and a second thread is woken up for it again and again: a seventh of all system calls
/// at 500 transactions a second. One thread is never the bottleneck, the servers take several times as long; name lookups and
/// files have threads of their own.
const WORKERS: usize = 1;

#[allow(unsafe_code)]
fn keep_little_memory() {
    // SAFETY: the function stores a number; nothing else runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MEMORY_KEPT_MS) };
}

fn main() -> ExitCode {
    keep_little_memory();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let output = arguments.global.output;
    let console = match start_logging(arguments.global.log_format, arguments.global.log_level.as_deref()) {
        Ok(console) => console,
        Err(error) => return Failure::new(Exit::Usage, &error, error.remedy()).tell(output).into(),
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let remedy = "Check the limits of this process (ulimit -u), and start it again.";
                return Failure::new(Exit::Failed, error, remedy).tell(output).into();
            }
        };
    let code = runtime.block_on(perform(arguments, console));
    // A lookup that hangs in a system call must not keep the process: everything that matters has ended.
    runtime.shutdown_background();
    code
}

async fn perform(arguments: Arguments, console: Console) -> ExitCode {
    let Arguments { command, global } = arguments;
    if let Some((asked, api)) = command.for_running_instance() {
        return ask(&global, asked, api).await;
    }
    let ended = match command {
        CliCommand::Completions { shell } => {
            // A reader that stops reading (`| head`) is no error.
            let _ = io::stdout().write_all(&completions(shell));
            return Exit::Success.into();
        }
        CliCommand::ConfigReference => {
            let _ = io::stdout().write_all(configuration_reference().as_bytes());
            return Exit::Success.into();
        }
        CliCommand::Demo(demo) => {
            return match Box::pin(pgsluice::demo::run(demo, global.output)).await {
                Ok(exit) => exit.into(),
                Err(error) => Failure::new(Exit::Failed, &error, error.remedy()).tell(global.output).into(),
            };
        }
        CliCommand::Check => {
            started(&global, TargetNeeded::AtOnce, |start| app::check(start, global.output)).await
        }
        CliCommand::Cleanup(cleanup) => {
            let target = if cleanup.without_target { TargetNeeded::Never } else { TargetNeeded::AtOnce };
            started(&global, target, |start| app::cleanup(start, cleanup, global.output)).await
        }
        _ => {
            let environment: Vec<_> = process_environment().collect();
            let start =
                Start::from(global.config.as_deref(), environment.into_iter(), TargetNeeded::InTheEnd);
            Box::pin(app::run(start, console)).await
        }
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => Failure::new(error.exit(), &error, error.remedy()).tell(global.output).into(),
    }
}

async fn started<F>(
    global: &GlobalArguments,
    target: TargetNeeded,
    act: impl FnOnce(Start) -> F,
) -> Result<Exit, AppError>
where
    F: Future<Output = Result<Exit, AppError>>,
{
    let start = Start::from(global.config.as_deref(), process_environment(), target).await?;
    Box::pin(act(start)).await
}

/// A command for a running instance.
async fn ask(global: &GlobalArguments, command: ClientCommand, api: &ApiArguments) -> ExitCode {
    let configured = match load_api(global.config.as_deref(), process_environment()) {
        Ok(configured) => configured,
        Err(error) => return Failure::new(Exit::Usage, &error, error.remedy()).tell(global.output).into(),
    };
    let token = match &api.token_file {
        None => configured.token.clone(),
        Some(file) => match Secret::in_file(file) {
            Ok(token) => Some(token),
            Err(problem) => {
                let error = format!("--token-file {}: {problem}", file.display());
                let remedy =
                    "Check the path and its permissions; in Kubernetes, that the Secret is mounted there.";
                return Failure::new(Exit::Usage, error, remedy).tell(global.output).into();
            }
        },
    };
    let address = api.address(&configured);
    let outcome = match ApiClient::trusting(api.ca_file.as_deref(), &address, token, global.output) {
        Ok(client) => client.run(command, &mut io::stdout()).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => error.failure().tell(global.output).into(),
    }
}

/// Help and the version, or arguments that are not understood: `--output json` holds for these, too, as far as it can be told.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !asks_for_json(std::env::args_os()) {
        // Who has closed the output has no place where it could be told.
        let _ = error.print();
        return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
    }
    let told = error.render().to_string();
    let first_paragraph: Vec<&str> =
        told.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let what = first_paragraph.join(" ").trim_start_matches("error: ").to_owned();
    let remedy = "See `pgsluice --help`, and the --help of the command.";
    Failure::new(Exit::Usage, what, remedy).tell(OutputFormat::Json).into()
}

fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = arguments.collect();
    words.iter().any(|word| word == "--output=json")
        || words
            .windows(2)
            .any(|pair| matches!(pair, [option, value] if option == "--output" && value == "json"))
}
