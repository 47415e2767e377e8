//! Throwaway PgBouncers for the tests: on a free port of 127.0.0.1, with a configuration file of their own, gone when the
//! value is dropped or this process ends in whatever way. Settings are PgBouncer's defaults where a test does not say else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::cluster::{
    ClusterError, PASSWORD, SUPERUSER, free_port, give_to_server_user, last_lines, make_directory,
    server_user, write_owned,
};
use super::leash::{self, Leash};

/// Longest wait for it to listen, or to end.
const WAIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Where Debian keeps it, which is not in everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin/pgbouncer";

/// A throwaway PgBouncer. Its users, also of the console, are those of the clusters.
pub struct LocalPooler {
    directory: PathBuf,
    port: u16,
    process: Option<Leash>,
}

impl LocalPooler {
    /// Starts one with these lines in `[databases]`, and these in `[pgbouncer]` over what it needs.
    ///
    /// # Errors
    /// When there is no PgBouncer, or it does not listen in time.
    pub async fn start(databases: &str, settings: &str) -> Result<Self, ClusterError> {
        let mut pooler = Self { directory: make_directory()?, port: free_port()?, process: None };
        let users = format!("\"{SUPERUSER}\" \"{PASSWORD}\"\n");
        write_owned(&pooler.directory.join("users"), &users)?;
        let text = format!(
            "; A comment that stays.\n[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             admin_users = {SUPERUSER}\npool_mode = transaction\nmax_client_conn = 500\n{settings}\n",
            pooler.port,
            pooler.directory.join("users").display(),
        );
        write_owned(&pooler.config_file(), &text)?;
        pooler.start_again().await?;
        Ok(pooler)
    }

    /// Starts a stopped one on its port; returns when it listens.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        let log_path = self.log_path();
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(ClusterError::io(format!("opening {}", log_path.display())))?;
        give_to_server_user(&log_path)?;
        let copy = log.try_clone().map_err(ClusterError::io("sharing the log file"))?;
        let mut command = leash::prepare(std::process::Command::new(leash::SHELL), program());
        // It refuses to be root, and becomes somebody else by itself.
        if let Some(user) = server_user()? {
            command.args(["-u", &user.name]);
        }
        command.arg(self.config_file()).stdout(log).stderr(copy);
        let started = Leash::start(command, Signal::SIGKILL, Some(&self.directory));
        self.process = Some(started.map_err(ClusterError::io("starting /bin/sh"))?);
        let deadline = Instant::now() + WAIT;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if self.process.as_mut().and_then(Leash::ended).is_some() || Instant::now() > deadline {
                return Err(self.failed());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills it; its clients lose their connections.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + WAIT;
        // Only once its end has been seen, its folder is left in place.
        while self.process.as_mut().is_some_and(|process| process.ended().is_none())
            && Instant::now() < deadline
        {
            std::thread::sleep(POLL);
        }
        self.process = None;
    }

    /// Sends a signal to it (`SIGSTOP` makes it silent).
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Connection URI of one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Connection URI of its admin console.
    #[must_use]
    pub fn console_url(&self) -> String {
        self.url("pgbouncer")
    }

    /// `pgbouncer.ini`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("pgbouncer.ini")
    }

    /// Where it logs to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("pgbouncer.log")
    }

    fn failed(&self) -> ClusterError {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let said = last_lines(&String::from_utf8_lossy(&log), 15);
        let output = format!("{said}\n(scripts/install-tools.sh gets PgBouncer, if it is not there)");
        ClusterError::Program { program: "pgbouncer".into(), output }
    }
}

impl Drop for LocalPooler {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// From `PATH`, from `.tools/bin` of the current folder or one above it, or where Debian puts it.
fn program() -> PathBuf {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let tools = here.ancestors().map(|folder| folder.join(".tools/bin"));
    let mut places = std::env::split_paths(&in_path).chain(tools).map(|folder| folder.join("pgbouncer"));
    places.find(|place| place.is_file()).unwrap_or_else(|| Path::new(DEBIAN).to_owned())
}
