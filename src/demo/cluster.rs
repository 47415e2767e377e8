//! Throwaway PostgreSQL servers for the demo and the tests: on a free port of 127.0.0.1, in a temporary folder, gone when
//! the value is dropped or this process ends in whatever way. They run without fsync: never keep data in them.
//! Knows nothing of replication beyond the settings that allow it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::binaries::Installation;
use super::leash::{self, Leash};
use super::template;

/// Longest wait for a server to accept connections or to stop.
const SERVER_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for a server to stop immediately before it is killed.
const DROP_WAIT: Duration = Duration::from_secs(5);
/// How often the server's own status file is read while waiting for it.
const STATUS_POLL: Duration = Duration::from_millis(10);
/// Ports tried before giving up; another process may take one between our look and the server's bind.
const PORT_ATTEMPTS: usize = 10;
/// Below Linux's range for outgoing connections, so that a stopped server finds its port free again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Superuser of every local cluster.
pub const SUPERUSER: &str = "postgres";
/// The superuser's password; the servers listen on 127.0.0.1 only and hold made-up data.
pub const PASSWORD: &str = "throwaway";

/// What can go wrong with a throwaway server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file or process operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A PostgreSQL program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Its path.
        program: String,
        /// The end of what it printed.
        output: String,
    },
    /// The server ended, or did not answer in time.
    #[error("the throwaway PostgreSQL {major} did not {expected}; the end of its log:\n{log}")]
    Server {
        /// Major version.
        major: u32,
        /// `start` or `stop`.
        expected: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// root may not run servers, and there is no other user.
    #[error("PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor `nobody`")]
    NoServerUser,
}

impl ClusterError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Authentication {
    /// Nobody is asked for a password.
    Trust,
    /// SCRAM-SHA-256 with [`PASSWORD`].
    #[default]
    Scram,
}

/// Certificate and key of the server, PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificate chain.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// What a cluster is to be like.
#[derive(Clone, Default)]
pub struct ClusterOptions {
    authentication: Authentication,
    tls: Option<ServerTls>,
    settings: BTreeMap<String, String>,
}

impl ClusterOptions {
    /// SCRAM, no TLS, settings for logical replication.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another way of authenticating.
    #[must_use]
    pub fn authentication(mut self, authentication: Authentication) -> Self {
        self.authentication = authentication;
        self
    }

    /// TLS offered to clients.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A line of postgresql.conf, over this program's defaults.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, the walsenders are waited for, the shutdown checkpoint is written.
    Fast,
    /// As in a crash, in order: the next start recovers.
    Immediate,
    /// SIGKILL to the server: as the kernel's out-of-memory killer does it.
    Kill,
}

/// A throwaway server. Dropping it stops it and removes its folder.
pub struct LocalCluster {
    installation: Installation,
    directory: PathBuf,
    port: u16,
    process: Option<Leash>,
    /// Length of the log when the server was last started.
    log_seen_bytes: u64,
    on_drop: OnDrop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    Remove,
    Keep,
}

impl LocalCluster {
    /// Creates and starts a cluster; returns when it accepts connections.
    ///
    /// # Errors
    /// When the files cannot be made or the server does not come up.
    pub async fn start(installation: &Installation, options: &ClusterOptions) -> Result<Self, ClusterError> {
        let mut cluster = Self::without_files(installation)?;
        template::copy_to(installation, &cluster.data_dir()).await?;
        cluster.write_configuration(options)?;
        cluster.start_on_a_free_port().await?;
        Ok(cluster)
    }

    /// A cluster whose data folder is still to be made.
    pub(super) fn without_files(installation: &Installation) -> Result<Self, ClusterError> {
        Ok(Self {
            installation: installation.clone(),
            directory: make_directory()?,
            port: 0,
            process: None,
            log_seen_bytes: 0,
            on_drop: OnDrop::Remove,
        })
    }

    pub(super) async fn start_on_a_free_port(&mut self) -> Result<(), ClusterError> {
        for attempt in 1.. {
            self.port = free_port()?;
            match self.start_again().await {
                Err(ClusterError::Server { log, .. })
                    if attempt < PORT_ATTEMPTS && log.contains("could not bind") =>
                {
                    self.process = None;
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Starts a stopped cluster on its port; returns when it accepts connections.
    ///
    /// # Errors
    /// When the server does not come up.
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + SERVER_WAIT;
        loop {
            self.spawn()?;
            match self.wait_until_ready(deadline).await {
                // The backends of a killed server take a moment to notice that it is gone.
                Err(ClusterError::Server { log, .. })
                    if log.contains("is still in use") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(STATUS_POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn spawn(&mut self) -> Result<(), ClusterError> {
        let log_path = self.log_path();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(ClusterError::io(format!("opening {}", log_path.display())))?;
        self.log_seen_bytes = log.metadata().map_or(0, |metadata| metadata.len());
        let copy = log.try_clone().map_err(ClusterError::io("sharing the log file"))?;
        let mut command =
            leash::prepare(as_server_user(leash::SHELL)?, self.installation.program("postgres"));
        command.arg("-D").arg(self.data_dir()).args(["-p", &self.port.to_string()]);
        command.current_dir(&self.directory).stdout(log).stderr(copy);
        let directory = (self.on_drop == OnDrop::Remove).then_some(self.directory.as_path());
        // An immediate stop: nothing in there is worth a checkpoint.
        let started = Leash::start(command, Signal::SIGQUIT, directory);
        self.process = Some(started.map_err(ClusterError::io("starting /bin/sh"))?);
        Ok(())
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, mode: StopMode) -> Result<(), ClusterError> {
        self.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
            StopMode::Kill => Signal::SIGKILL,
        });
        let deadline = Instant::now() + SERVER_WAIT;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                return Err(self.server_error("stop"));
            }
            tokio::time::sleep(STATUS_POLL).await;
        }
        Ok(())
    }

    /// Stops fast and starts again.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start_again`].
    pub async fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop(StopMode::Fast).await?;
        self.start_again().await
    }

    /// Sends a signal to the server's main process (`SIGHUP` reloads, `SIGSTOP` freezes only that process).
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Leaves the server's folder in place when this value goes (the server still stops).
    pub fn keep_files(&mut self) {
        self.on_drop = OnDrop::Keep;
    }

    /// Connection URI of a database for the superuser, with the password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, PASSWORD, database)
    }

    /// Connection URI of a database for somebody else.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The programs it runs with; the major version is `installation().major`.
    #[must_use]
    pub const fn installation(&self) -> &Installation {
        &self.installation
    }

    /// `PGDATA`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where the server logs to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    async fn wait_until_ready(&mut self, deadline: Instant) -> Result<(), ClusterError> {
        let status_path = self.data_dir().join("postmaster.pid");
        loop {
            if self.ended().is_some() || Instant::now() > deadline {
                return Err(self.server_error("start"));
            }
            // The first line is the server's pid, the eighth its state; an earlier server's file may still be there.
            let status = fs::read_to_string(&status_path).unwrap_or_default();
            let ours = status.lines().next().and_then(|pid| pid.parse().ok())
                == self.process.as_ref().map(Leash::id);
            if ours && status.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return Ok(());
            }
            tokio::time::sleep(STATUS_POLL).await;
        }
    }

    pub(super) fn write_configuration(&self, options: &ClusterOptions) -> Result<(), ClusterError> {
        let data_dir = self.data_dir();
        let mut settings = default_settings(&self.directory);
        if let Some(tls) = &options.tls {
            write_owned(&data_dir.join("server.crt"), &tls.certificate_pem)?;
            write_owned(&data_dir.join("server.key"), &tls.key_pem)?;
            settings.insert("ssl".into(), "on".into());
        }
        settings.extend(options.settings.clone());
        let lines: String = settings
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        write_owned(&data_dir.join("postgresql.conf"), &lines)?;
        let method = match options.authentication {
            Authentication::Trust => "trust",
            Authentication::Scram => "scram-sha-256",
        };
        // The socket's folder is open to the server's user only.
        let rules = format!(
            "local all all trust\nlocal replication all trust\n\
             host all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}\n"
        );
        write_owned(&data_dir.join("pg_hba.conf"), &rules)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Leash::ended)
    }

    fn server_error(&self, expected: &'static str) -> ClusterError {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let since_start =
            usize::try_from(self.log_seen_bytes).ok().and_then(|seen| log.get(seen..)).unwrap_or(&log);
        let log = last_lines(&String::from_utf8_lossy(since_start), 15);
        ClusterError::Server { major: self.installation.major, expected, log }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.signal(Signal::SIGQUIT);
        let deadline = Instant::now() + DROP_WAIT;
        while self.process.is_some() && self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(STATUS_POLL);
        }
        self.process = None;
        if self.on_drop == OnDrop::Remove {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn default_settings(directory: &Path) -> BTreeMap<String, String> {
    let directory = directory.display().to_string();
    [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", directory.as_str()),
        ("wal_level", "logical"),
        ("max_wal_senders", "20"),
        ("max_replication_slots", "20"),
        ("max_connections", "100"),
        ("max_prepared_transactions", "10"),
        ("shared_buffers", "64MB"),
        ("max_wal_size", "2GB"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("jit", "off"),
        ("log_line_prefix", "%m [%p] %q%u@%d %a "),
        ("log_checkpoints", "off"),
        ("timezone", "UTC"),
        ("lc_messages", "C"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// A new folder that only the server's user can enter.
pub(super) fn make_directory() -> Result<PathBuf, ClusterError> {
    let directory = std::env::temp_dir().join(format!("pgsluice-cluster-{:08x}", rand::random::<u32>()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(ClusterError::io(format!("creating {}", directory.display())))?;
    give_to_server_user(&directory)?;
    Ok(directory)
}

pub(super) fn write_owned(path: &Path, content: &str) -> Result<(), ClusterError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(ClusterError::io(format!("creating {}", path.display())))?;
    file.write_all(content.as_bytes()).map_err(ClusterError::io(format!("writing {}", path.display())))?;
    give_to_server_user(path)
}

pub(super) fn free_port() -> Result<u16, ClusterError> {
    for _ in 0..100 {
        let port = rand::random_range(PORTS);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(ClusterError::io("finding a free port on 127.0.0.1")(std::io::ErrorKind::AddrInUse.into()))
}

/// The user that servers run as, when it is not the one that runs this process.
pub(super) fn server_user() -> Result<Option<User>, ClusterError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Some)
        .ok_or(ClusterError::NoServerUser)
}

/// Numeric id of the user that servers run as.
pub(super) fn server_uid() -> Result<u32, ClusterError> {
    Ok(server_user()?.map_or_else(|| geteuid().as_raw(), |user| user.uid.as_raw()))
}

pub(super) fn give_to_server_user(path: &Path) -> Result<(), ClusterError> {
    let Some(user) = server_user()? else { return Ok(()) };
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(ClusterError::io(format!(
        "giving {} to user {}",
        path.display(),
        user.name
    )))
}

/// A command that runs as the server's user, with none of the environment that would change a server's or client's mind.
pub(super) fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Result<Command, ClusterError> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if let Some(user) = server_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") && !name.to_string_lossy().starts_with("PGSLUICE") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").current_dir("/");
    Ok(command)
}

pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
