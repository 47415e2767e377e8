//! Where documented commands are tried: a source and a target as the quickstart has them, the program in `PATH`, its
//! configuration in the environment, a folder to be in. What pages call `http://127.0.0.1:8080` is led to the port of this place.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgsluice::demo::cluster::LocalCluster;

use crate::harness::clusters::{connect, installation, start};
use crate::harness::stage::COPY_WAIT;

/// What the pages write for the API's address.
const DOCUMENTED_APIS: [&str; 2] = ["http://127.0.0.1:8080", "http://localhost:8080"];
/// A break between rehearsals is no part of what is tried.
const DOCUMENTED_BREAKS: [&str; 2] = ["--every 60", "--every 30"];
/// Roles that pages name. On RDS two of them are there from the start.
const ROLES: &str = "CREATE ROLE shop LOGIN PASSWORD 'target-password'; CREATE ROLE rds_replication; CREATE ROLE rds_superuser;";
/// Tables that pages name.
const TABLES: &str = "SET ROLE shop; CREATE SCHEMA shop; CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    INSERT INTO shop.orders (note) SELECT 'one of many' FROM generate_series(1, 1000);
    CREATE TABLE public.customers (id int PRIMARY KEY); INSERT INTO public.customers VALUES (1), (2)";
/// Made once the migration streams.
const NEW_TABLE: &str =
    "CREATE TABLE public.orders_2027 (id int PRIMARY KEY); INSERT INTO public.orders_2027 VALUES (1)";

pub(crate) struct Place {
    pub(crate) source: LocalCluster,
    pub(crate) target: LocalCluster,
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Running>,
}

/// `pgsluice run`; gone with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` passes the signal on.
        let id = i32::try_from(self.0.id()).expect("a process id");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Below Linux's range for outgoing connections, one of which could take it before the program does.
fn free_port() -> u16 {
    let mut tried = std::iter::repeat_with(|| rand::random_range(20_000..32_000_u16)).take(100);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    tried.find(free).expect("a free port")
}

impl Place {
    pub(crate) async fn new() -> Self {
        let (source, target) = tokio::join!(start(15), start(17));
        for cluster in [&source, &target] {
            let client = connect(&cluster.url("postgres")).await;
            client.batch_execute(ROLES).await.expect("roles");
            client.batch_execute("CREATE DATABASE shop OWNER shop").await.expect("a database");
        }
        let shop = connect(&source.url("shop")).await;
        shop.batch_execute("GRANT CREATE ON SCHEMA public TO shop").await.expect("a right");
        shop.batch_execute(TABLES).await.expect("tables");
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("api-token");
        std::fs::write(&token, "0123456789abcdef0123456789abcdef").expect("a token");
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).expect("its permissions");
        Self { source, target, folder, port: free_port(), running: None }
    }

    /// As a person would type it, into a shell.
    fn shell(&self, line: &str) -> Command {
        let mut line = line.to_owned();
        for documented in DOCUMENTED_APIS {
            line = line.replace(documented, &format!("http://127.0.0.1:{}", self.port));
        }
        for documented in DOCUMENTED_BREAKS {
            line = line.replace(documented, "--every 0");
        }
        let mut command = Command::new("/bin/bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        let tools = installation(self.target.installation().major).bindir;
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_pgsluice")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-euo", "pipefail", "-c", &line])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{}:{path}", program.display(), tools.display()))
            .env("PGSLUICE_SOURCE__URL", self.source.url("shop"))
            .env("PGSLUICE_TARGET__URL", self.target.url("shop"))
            .env("PGSLUICE_SCHEMA__POSTGRES_BIN_DIR", tools)
            .env("PGSLUICE_API__LISTEN", format!("127.0.0.1:{}", self.port))
            .env("PGSLUICE_API__TOKEN_FILE", self.folder.path().join("api-token"))
            .env("PGSLUICE_CUTOVER__MAX_PAUSE_MS", "20000")
            .env("no_proxy", "127.0.0.1,localhost");
        command
    }

    /// Runs one line to its end, and fails the test unless it succeeds.
    pub(crate) async fn run(&mut self, line: &str, place: &str) {
        if line.starts_with("pgsluice run") {
            self.start_running(line).await;
            return;
        }
        let by_itself = line.starts_with("pgsluice check") || line.starts_with("export ");
        if line.starts_with("pgsluice cleanup") {
            self.running = None;
        } else if self.running.is_none() && !by_itself {
            self.start_running("pgsluice run").await;
        }
        if line.contains("orders_2027") {
            connect(&self.source.url("shop")).await.batch_execute(NEW_TABLE).await.expect("a new table");
        }
        let output = self.finished(line).await;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{place}: {line}\n{}{}", said(&output.stdout), said(&output.stderr));
        if line.contains("cutover") || line.contains("rollback") {
            self.streams(place).await;
        }
    }

    async fn finished(&self, line: &str) -> Output {
        let mut command = tokio::process::Command::from(self.shell(line));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(COPY_WAIT, command.output()).await;
        ended.unwrap_or_else(|_| panic!("{line}: no end in {COPY_WAIT:?}")).expect("a shell")
    }

    async fn start_running(&mut self, line: &str) {
        assert!(self.running.is_none(), "two instances at once: {line}");
        let log = std::fs::File::create(self.log()).expect("a log");
        // Should this process be killed, the program does not outlive it for long.
        let mut command = self.shell(&format!("exec timeout --kill-after=10 600 {line}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running = Some(Running(command.spawn().expect("the program")));
        self.streams(line).await;
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("pgsluice.log")
    }

    /// Waits until changes flow, in either direction: what a reader waits for before the next command.
    async fn streams(&self, place: &str) {
        let flows = "pgsluice status --output json | grep -Eq '\"phase\": ?\"(streaming|rollback_window)\"' \
                     && curl -sf http://127.0.0.1:8080/readyz";
        let deadline = Instant::now() + COPY_WAIT;
        while !self.finished(flows).await.status.success() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "{place}: nothing flows\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
