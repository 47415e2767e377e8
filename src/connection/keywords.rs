//! The keywords of connection strings and what their values mean, put together as [`ConnectionSettings`]. Pure but for
//! the name of the operating system's user, which is the default user; errors never quote values (INV-10).
//!
//! Source: PostgreSQL documentation, "Database Connection Control Functions", 34.1.2.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;
use super::settings::{
    ChannelBinding, ConnectionSettings, DEFAULT_CONNECT_TIMEOUT, DEFAULT_PORT, HostSettings, Keepalives,
    MinTlsVersion, Place, RootCertificates, ServerNameIndication, ServerRole, SettingsError, SslMode,
    SslNegotiation, TcpSettings, TlsSettings,
};
use super::turnover::Turnover;
use crate::model::nearest;

/// Keywords that have an effect here, for "did you mean".
const KNOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "sslsni",
    "ssl_min_protocol_version",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "options",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "target_session_attrs",
    "client_encoding",
    "gssencmode",
    "load_balance_hosts",
];

/// Keywords of libpq that we know and refuse, rather than ignore what somebody relies on.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("passfile", "give the password by `password_file` of the configuration"),
    ("service", "write the connection out"),
    ("servicefile", "write the connection out"),
    ("sslpassword", "use a key without a passphrase, readable by this program alone"),
    ("sslcrl", "certificate revocation lists are not checked"),
    ("sslcrldir", "certificate revocation lists are not checked"),
    ("sslcertmode", "a client certificate is sent exactly when `sslcert` is given"),
    ("ssl_max_protocol_version", "the newest version both sides know is used"),
    ("require_auth", "use channel_binding=require to insist on SCRAM with channel binding"),
    ("requirepeer", "protect the socket's directory instead"),
    ("krbsrvname", "GSSAPI is not supported"),
    ("gsslib", "GSSAPI is not supported"),
    ("gssdelegation", "GSSAPI is not supported"),
    ("replication", "replication connections are made where they are needed"),
    ("min_protocol_version", "protocol 3.0 is used"),
    ("max_protocol_version", "protocol 3.0 is used"),
    ("scram_client_key", "give the password"),
    ("scram_server_key", "give the password"),
    ("oauth_issuer", "OAuth is not supported"),
    ("oauth_client_id", "OAuth is not supported"),
    ("oauth_client_secret", "OAuth is not supported"),
    ("oauth_scope", "OAuth is not supported"),
];

/// Keywords seen so far. Empty values mean "not given", as in libpq.
#[derive(Default)]
pub(super) struct Draft {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    options: Option<String>,
    tls: TlsSettings,
    sslmode_given: bool,
    channel_binding: Option<ChannelBinding>,
    connect_timeout: Option<Duration>,
    tcp: TcpSettings,
    keepalives: Keepalives,
    role: Option<ServerRole>,
}

impl Draft {
    /// Takes one keyword and its value.
    pub(super) fn set(&mut self, keyword: &str, value: String) -> Result<(), SettingsError> {
        let list = |value: &str| value.split(',').map(|item| item.trim().to_owned()).collect();
        if value.is_empty() && KNOWN.contains(&keyword) {
            return Ok(());
        }
        match keyword {
            "host" => self.hosts = list(&value),
            "hostaddr" => self.addresses = list(&value),
            "port" => self.ports = list(&value),
            "dbname" => {
                if value.contains("://") || value.contains('=') {
                    let reason = "a connection string inside `dbname`; write one connection string";
                    return Err(SettingsError::Unsupported { keyword: "dbname", reason });
                }
                self.database = Some(value);
            }
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "options" => self.options = Some(value),
            // Sessions name themselves after their purpose, so that pg_stat_activity tells who they are.
            "application_name" | "fallback_application_name" => {}
            // The program speaks UTF-8 whatever this says.
            "client_encoding" => {}
            "channel_binding" => self.channel_binding = Some(channel_binding(&value)?),
            "connect_timeout" => self.connect_timeout = Some(connect_timeout(&value)?),
            "target_session_attrs" => self.role = Some(server_role(&value)?),
            "gssencmode" if value == "disable" || value == "prefer" => {}
            "gssencmode" => {
                return Err(SettingsError::InvalidValue { keyword: "gssencmode", allowed: "use disable" });
            }
            "load_balance_hosts" if value == "disable" => {}
            "load_balance_hosts" => {
                let allowed = "use disable; hosts are tried in order";
                return Err(SettingsError::InvalidValue { keyword: "load_balance_hosts", allowed });
            }
            "sslmode"
            | "sslrootcert"
            | "sslcert"
            | "sslkey"
            | "sslnegotiation"
            | "sslsni"
            | "ssl_min_protocol_version" => self.set_tls(keyword, &value)?,
            _ if keyword.starts_with("keepalives") || keyword == "tcp_user_timeout" => {
                self.set_tcp(keyword, &value)?;
            }
            _ => return Err(unknown(keyword)),
        }
        Ok(())
    }

    fn set_tls(&mut self, keyword: &str, value: &str) -> Result<(), SettingsError> {
        match keyword {
            "sslmode" => {
                self.tls.mode = ssl_mode(value)?;
                self.sslmode_given = true;
            }
            "sslrootcert" if value == "system" => self.tls.roots = RootCertificates::System,
            "sslrootcert" => self.tls.roots = RootCertificates::File(PathBuf::from(value)),
            "sslcert" => self.tls.client_certificate = Some(PathBuf::from(value)),
            "sslkey" => self.tls.client_key = Some(PathBuf::from(value)),
            "sslnegotiation" => {
                self.tls.negotiation = match value {
                    "postgres" => SslNegotiation::Postgres,
                    "direct" => SslNegotiation::Direct,
                    _ => return invalid("sslnegotiation", "use postgres or direct"),
                };
            }
            "sslsni" => {
                self.tls.server_name = match value {
                    "0" => ServerNameIndication::Withheld,
                    "1" => ServerNameIndication::Sent,
                    _ => return invalid("sslsni", "use 0 or 1"),
                };
            }
            "ssl_min_protocol_version" => {
                self.tls.min_version = match value {
                    "TLSv1" | "TLSv1.1" | "TLSv1.2" => MinTlsVersion::Tls12,
                    "TLSv1.3" => MinTlsVersion::Tls13,
                    _ => return invalid("ssl_min_protocol_version", "use TLSv1.2 or TLSv1.3"),
                };
            }
            _ => return Err(unknown(keyword)),
        }
        Ok(())
    }

    fn set_tcp(&mut self, keyword: &str, value: &str) -> Result<(), SettingsError> {
        match keyword {
            "keepalives" => {
                self.tcp.keepalives = match value {
                    "0" => None,
                    "1" => Some(self.keepalives),
                    _ => return invalid("keepalives", "use 0 or 1"),
                };
            }
            "keepalives_idle" => {
                if let Some(seconds) = positive("keepalives_idle", value)? {
                    self.keepalives.idle = Duration::from_secs(seconds.into());
                }
            }
            "keepalives_interval" => {
                if let Some(seconds) = positive("keepalives_interval", value)? {
                    self.keepalives.interval = Duration::from_secs(seconds.into());
                }
            }
            "keepalives_count" => {
                if let Some(count) = positive("keepalives_count", value)? {
                    self.keepalives.count = count;
                }
            }
            "tcp_user_timeout" => {
                self.tcp.user_timeout = positive("tcp_user_timeout", value)?
                    .map(|milliseconds| Duration::from_millis(milliseconds.into()));
            }
            _ => return Err(unknown(keyword)),
        }
        Ok(())
    }

    /// Everything has been said.
    pub(super) fn finish(mut self) -> Result<ConnectionSettings, SettingsError> {
        let hosts = self.take_hosts()?;
        let user = match self.user {
            Some(user) => user,
            None => system_user().ok_or(SettingsError::Missing { keyword: "user" })?,
        };
        self.tcp.keepalives = self.tcp.keepalives.map(|_| self.keepalives);
        check_tls(&mut self.tls, self.sslmode_given)?;
        Ok(ConnectionSettings {
            hosts,
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            password: self.password.map(Secret::from),
            options: self.options,
            tls: self.tls,
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            connect_timeout: self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            tcp: self.tcp,
            role: self.role.unwrap_or(ServerRole::Any),
            turnover: Turnover::default(),
        })
    }

    fn take_hosts(&self) -> Result<Vec<HostSettings>, SettingsError> {
        let hosts = if self.hosts.is_empty() { &self.addresses } else { &self.hosts };
        if hosts.iter().all(String::is_empty) {
            return Err(SettingsError::Missing { keyword: "host" });
        }
        let count_mismatch =
            |keyword, others| Err(SettingsError::CountMismatch { keyword, hosts: hosts.len(), others });
        if !self.addresses.is_empty() && self.addresses.len() != hosts.len() {
            return count_mismatch("hostaddr", self.addresses.len());
        }
        if self.ports.len() > 1 && self.ports.len() != hosts.len() {
            return count_mismatch("port", self.ports.len());
        }
        let mut settings = Vec::with_capacity(hosts.len());
        for (index, host) in hosts.iter().enumerate() {
            let address = self.addresses.get(index).filter(|address| !address.is_empty());
            let address = match address.map(|address| address.parse::<IpAddr>()) {
                None => None,
                Some(Ok(address)) => Some(address),
                Some(Err(_)) => return invalid("hostaddr", "use an IPv4 or IPv6 address"),
            };
            let port = if self.ports.len() == 1 { self.ports.first() } else { self.ports.get(index) };
            let port = match port.filter(|port| !port.is_empty()) {
                None => DEFAULT_PORT,
                Some(port) => match port.parse() {
                    Ok(port) if port > 0 => port,
                    _ => return invalid("port", "use a number from 1 to 65535"),
                },
            };
            let place = match (host.as_str(), address) {
                ("", None) => return Err(SettingsError::Missing { keyword: "host" }),
                ("", Some(address)) => Place::Tcp { host: address.to_string(), address: Some(address) },
                (host, address) if host.starts_with('/') && address.is_none() => {
                    Place::Unix { directory: PathBuf::from(host) }
                }
                (host, address) => Place::Tcp { host: host.to_owned(), address },
            };
            settings.push(HostSettings { place, port });
        }
        Ok(settings)
    }
}

/// Combinations libpq refuses, or gives a meaning.
fn check_tls(tls: &mut TlsSettings, sslmode_given: bool) -> Result<(), SettingsError> {
    if tls.roots == RootCertificates::System {
        // A weaker mode with the system's roots would accept anybody's certificate; libpq refuses it as well.
        if !sslmode_given {
            tls.mode = SslMode::VerifyFull;
        } else if tls.mode != SslMode::VerifyFull {
            return Err(SettingsError::Contradiction {
                problem: "sslrootcert=system needs sslmode=verify-full: with the system's roots, any weaker mode would accept any public certificate",
            });
        }
    }
    if tls.negotiation == SslNegotiation::Direct
        && matches!(tls.mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer)
    {
        return Err(SettingsError::Contradiction {
            problem: "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
        });
    }
    if tls.client_certificate.is_some() != tls.client_key.is_some() {
        return Err(SettingsError::Contradiction {
            problem: "`sslcert` and `sslkey` belong together: give both or neither",
        });
    }
    Ok(())
}

fn unknown(keyword: &str) -> SettingsError {
    if let Some((keyword, reason)) = UNSUPPORTED.iter().find(|(name, _)| *name == keyword) {
        return SettingsError::Unsupported { keyword, reason };
    }
    // A keyword that looks like a piece of something else may be a piece of a password (INV-10).
    let plausible = keyword.len() <= 30 && keyword.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !plausible {
        return SettingsError::Syntax { problem: "a keyword has characters that no keyword has" };
    }
    SettingsError::UnknownKeyword {
        keyword: keyword.to_owned(),
        nearest: nearest(keyword, KNOWN.iter().copied()).map(str::to_owned),
    }
}

fn invalid<T>(keyword: &'static str, allowed: &'static str) -> Result<T, SettingsError> {
    Err(SettingsError::InvalidValue { keyword, allowed })
}

fn ssl_mode(value: &str) -> Result<SslMode, SettingsError> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            return invalid("sslmode", "use disable, allow, prefer, require, verify-ca or verify-full");
        }
    })
}

fn channel_binding(value: &str) -> Result<ChannelBinding, SettingsError> {
    Ok(match value {
        "disable" => ChannelBinding::Disable,
        "prefer" => ChannelBinding::Prefer,
        "require" => ChannelBinding::Require,
        _ => return invalid("channel_binding", "use disable, prefer or require"),
    })
}

fn server_role(value: &str) -> Result<ServerRole, SettingsError> {
    Ok(match value {
        "any" => ServerRole::Any,
        "read-write" | "primary" => ServerRole::Primary,
        "read-only" | "standby" => ServerRole::Standby,
        _ => return invalid("target_session_attrs", "use any, read-write, primary, read-only or standby"),
    })
}

/// Seconds; 0 means "no limit" to libpq, and the default bound here, because no wait is unbounded (INV-11).
fn connect_timeout(value: &str) -> Result<Duration, SettingsError> {
    let seconds = positive("connect_timeout", value)?;
    Ok(seconds.map_or(DEFAULT_CONNECT_TIMEOUT, |seconds| Duration::from_secs(seconds.into())))
}

/// A whole number; 0 is "as the default".
fn positive(keyword: &'static str, value: &str) -> Result<Option<u32>, SettingsError> {
    match value.trim().parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) => invalid(keyword, "use a whole number, not negative"),
    }
}

/// libpq's default user: who runs this process.
fn system_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}
