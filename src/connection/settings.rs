//! Where a server is, who connects and how it is secured: what a libpq connection string says, parsed once by
//! [`parse`](ConnectionSettings::parse). Values print without secrets (INV-10); nothing here opens a connection.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::certificate::ShownCertificate;
use super::connection_string;
use super::secret::Secret;
use super::turnover::Turnover;

/// PostgreSQL's own port.
pub(super) const DEFAULT_PORT: u16 = 5432;
/// How long one server address may take to answer, authenticate and be ready, unless `connect_timeout` says else.
pub(super) const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before TCP asks whether the other end is still there.
const DEFAULT_KEEPALIVES_IDLE: Duration = Duration::from_secs(15);
/// Time between those questions.
const DEFAULT_KEEPALIVES_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered questions before the connection is given up.
const DEFAULT_KEEPALIVES_COUNT: u32 = 3;
/// How long sent data may stay unacknowledged by the other end's TCP before the connection is given up.
const DEFAULT_TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server is and who connects: parsed from a URI or a key=value string. Prints without secrets (INV-10).
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// At least one; tried in this order.
    pub(super) hosts: Vec<HostSettings>,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
    /// The `options` keyword: command line options for the server, e.g. `-c work_mem=64MB`.
    pub(super) options: Option<String>,
    pub(super) tls: TlsSettings,
    pub(super) channel_binding: ChannelBinding,
    pub(super) connect_timeout: Duration,
    pub(super) tcp: TcpSettings,
    pub(super) role: ServerRole,
    /// Whether the server is being replaced now.
    pub(super) turnover: Turnover,
}

/// One address a server may be at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostSettings {
    pub(super) place: Place,
    pub(super) port: u16,
}

/// The two kinds of places a server listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name or address, and with `hostaddr` the address that saves the lookup.
    Tcp { host: String, address: Option<IpAddr> },
    /// The directory of a Unix socket.
    Unix { directory: PathBuf },
}

/// libpq's `sslmode`. Unix sockets ignore it, as in libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server refuses plain connections.
    Allow,
    /// TLS if the server has it, plain otherwise: no protection against an active attacker.
    Prefer,
    /// TLS or nothing; the certificate is not checked unless `sslrootcert` is there.
    Require,
    /// TLS, and the certificate chain leads to a trusted root.
    VerifyCa,
    /// As `verify-ca`, and the certificate is made out to the host's name.
    VerifyFull,
}

/// libpq's `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RootCertificates {
    /// Not given: `~/.postgresql/root.crt`, if it exists.
    Default,
    /// The system's trusted roots.
    System,
    File(PathBuf),
}

/// libpq's `sslnegotiation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslNegotiation {
    /// An SSLRequest first; every server understands it.
    Postgres,
    /// TLS from the first byte, PostgreSQL 17 and later.
    Direct,
}

/// Whether the server's name is told to it during the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerNameIndication {
    Sent,
    Withheld,
}

/// The lowest TLS version that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MinTlsVersion {
    Tls12,
    Tls13,
}

/// How a connection is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub(super) mode: SslMode,
    pub(super) roots: RootCertificates,
    pub(super) client_certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) negotiation: SslNegotiation,
    pub(super) server_name: ServerNameIndication,
    pub(super) min_version: MinTlsVersion,
    pub(super) shown: ShownCertificate,
}

/// libpq's `channel_binding`: whether SCRAM must prove that nobody sits between us and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    Prefer,
    /// Or no connection.
    Require,
}

/// How a dead peer is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpSettings {
    /// `None` with `keepalives=0`.
    pub(super) keepalives: Option<Keepalives>,
    pub(super) user_timeout: Option<Duration>,
}

/// TCP keepalive timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keepalives {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

/// libpq's `target_session_attrs`, for connection strings that list several hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerRole {
    Any,
    /// `read-write` and `primary`: not in recovery.
    Primary,
    /// `read-only` and `standby`: in recovery.
    Standby,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            mode: SslMode::Prefer,
            roots: RootCertificates::Default,
            client_certificate: None,
            client_key: None,
            negotiation: SslNegotiation::Postgres,
            server_name: ServerNameIndication::Sent,
            min_version: MinTlsVersion::Tls12,
            shown: ShownCertificate::default(),
        }
    }
}

impl Default for Keepalives {
    fn default() -> Self {
        Self {
            idle: DEFAULT_KEEPALIVES_IDLE,
            interval: DEFAULT_KEEPALIVES_INTERVAL,
            count: DEFAULT_KEEPALIVES_COUNT,
        }
    }
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self { keepalives: Some(Keepalives::default()), user_timeout: Some(DEFAULT_TCP_USER_TIMEOUT) }
    }
}

/// What is wrong with a connection string. Names keywords, never values: a misplaced quote can turn a password
/// into anything (INV-10).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a libpq keyword.
    #[error("unknown connection keyword `{keyword}`{}", suggest(.nearest.as_deref()))]
    UnknownKeyword {
        /// As written.
        keyword: String,
        /// The known keyword it resembles.
        nearest: Option<String>,
    },
    /// A libpq keyword with no meaning here.
    #[error("the connection keyword `{keyword}` is not supported: {reason}")]
    Unsupported {
        /// The keyword.
        keyword: &'static str,
        /// Why, and what to use instead.
        reason: &'static str,
    },
    /// A keyword's value is not one of those allowed.
    #[error("the value of the connection keyword `{keyword}` is not valid: {allowed}")]
    InvalidValue {
        /// The keyword.
        keyword: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Lists of hosts, addresses and ports do not match.
    #[error("{hosts} hosts but {others} values of `{keyword}`: give one for each host{}", if *.keyword == "port" { ", or one for all" } else { "" })]
    CountMismatch {
        /// `port` or `hostaddr`.
        keyword: &'static str,
        /// Hosts given.
        hosts: usize,
        /// Values given.
        others: usize,
    },
    /// Something that every connection needs is missing.
    #[error("the connection string has no `{keyword}`: add it")]
    Missing {
        /// The keyword.
        keyword: &'static str,
    },
    /// The text is neither form.
    #[error(
        "this is not a connection string: {problem}. Write postgresql://USER@HOST:PORT/DATABASE or host=HOST port=PORT user=USER dbname=DATABASE"
    )]
    Syntax {
        /// What was expected.
        problem: &'static str,
    },
    /// Two settings exclude each other.
    #[error("{problem}")]
    Contradiction {
        /// Which, and what to do.
        problem: &'static str,
    },
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl ConnectionSettings {
    /// Reads a libpq connection URI (`postgresql://`, `postgres://`) or key=value string. Several hosts, percent
    /// encoding, IPv6 addresses and Unix sockets are understood as libpq does; environment variables, service files
    /// and password files of libpq are not read.
    ///
    /// # Errors
    /// Names the keyword and what is allowed; never a value.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        connection_string::parse(text)
    }

    /// The same settings with this password.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<Secret>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The same settings, and nothing is connected to while the server is being replaced.
    #[must_use]
    pub fn with_turnover(mut self, turnover: Turnover) -> Self {
        self.turnover = turnover;
        self
    }

    /// Whether the server is being replaced now, and how.
    #[must_use]
    pub const fn turnover(&self) -> &Turnover {
        &self.turnover
    }

    /// The same settings, and the server's certificate is made out to its name by an authority in this file.
    #[must_use]
    pub fn verified_by(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.tls.mode = SslMode::VerifyFull;
        self.tls.roots = RootCertificates::File(authorities.into());
        self
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// Whether a password is given.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The last second in which the certificate is valid that the server showed last, in seconds since 1970; `None` until
    /// then, and without TLS.
    #[must_use]
    pub fn certificate_expires_at(&self) -> Option<i64> {
        self.tls.shown.expiry()
    }

    /// The first host: a name, an address, or a socket's directory.
    #[must_use]
    pub fn host(&self) -> String {
        self.hosts.first().map(HostSettings::name).unwrap_or_default()
    }

    /// The first host's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.hosts.first().map_or(DEFAULT_PORT, |host| host.port)
    }

    /// Who connects.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Which database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How TLS is used.
    #[must_use]
    pub const fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }

    /// `host:port/database as user`, with every host: for logs, errors and people.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(HostSettings::to_string).collect();
        format!("{}/{} as {}", hosts.join(","), self.database, self.user)
    }

    /// Whether both name the same database at the same address, as far as the text tells.
    #[must_use]
    pub fn same_database(&self, other: &Self) -> bool {
        self.database == other.database && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// The same settings as libpq's environment variables, so that `pg_dump` and `psql` connect as we do and no
    /// secret stands in their arguments. What this does not set must not be inherited: start the program with an
    /// environment without other `PG*` variables (an empty `PGSERVICE` would be looked up too).
    #[must_use]
    pub fn libpq_environment(&self) -> Vec<(String, String)> {
        let each = |text: fn(&HostSettings) -> String| -> String {
            self.hosts.iter().map(text).collect::<Vec<_>>().join(",")
        };
        let path =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let has_address =
            self.hosts.iter().any(|host| matches!(&host.place, Place::Tcp { address: Some(_), .. }));
        let mut variables = vec![
            ("PGHOST", each(HostSettings::name)),
            ("PGHOSTADDR", if has_address { each(HostSettings::address) } else { String::new() }),
            ("PGPORT", each(|host| host.port.to_string())),
            ("PGUSER", self.user.clone()),
            (
                "PGPASSWORD",
                self.password.as_ref().map(|password| password.current().to_string()).unwrap_or_default(),
            ),
            ("PGDATABASE", self.database.clone()),
            ("PGSSLMODE", self.tls.mode.as_str().to_owned()),
            ("PGSSLCERT", path(&self.tls.client_certificate)),
            ("PGSSLKEY", path(&self.tls.client_key)),
            ("PGCHANNELBINDING", self.channel_binding.as_str().to_owned()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(1).to_string()),
            ("PGTARGETSESSIONATTRS", self.role.as_str().to_owned()),
            ("PGOPTIONS", self.options.clone().unwrap_or_default()),
            ("PGSSLROOTCERT", self.tls.roots.as_text()),
            ("PGCLIENTENCODING", "UTF8".to_owned()),
        ];
        if self.tls.negotiation == SslNegotiation::Direct {
            // Only set when asked for: pg_dump before 17 refuses keywords it does not know, but ignores variables.
            variables.push(("PGSSLNEGOTIATION", "direct".to_owned()));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl HostSettings {
    /// The name or directory alone.
    fn name(&self) -> String {
        match &self.place {
            Place::Tcp { host, .. } => host.clone(),
            Place::Unix { directory } => directory.display().to_string(),
        }
    }

    fn address(&self) -> String {
        match &self.place {
            Place::Tcp { address: Some(address), .. } => address.to_string(),
            _ => String::new(),
        }
    }
}

impl fmt::Display for HostSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, .. } if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Place::Tcp { host, .. } => write!(f, "{host}:{}", self.port),
            Place::Unix { directory } => write!(f, "{}:{}", directory.display(), self.port),
        }
    }
}

impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionSettings({})", self.describe())
    }
}

impl SslMode {
    /// libpq's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl ChannelBinding {
    /// libpq's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }
}

impl ServerRole {
    /// The name every libpq since 10 understands.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Primary => "read-write",
            Self::Standby => "standby",
        }
    }
}

impl RootCertificates {
    fn as_text(&self) -> String {
        match self {
            Self::Default => String::new(),
            Self::System => "system".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}
