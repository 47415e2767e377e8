//! The walsender's command language: the texts of `IDENTIFY_SYSTEM`, `CREATE_REPLICATION_SLOT`,
//! `START_REPLICATION` and their kin, with every name quoted correctly for the place where it stands. It builds text
//! and never sends it. A replication connection with `database` set also accepts plain SQL, whose quoting differs:
//! [`quote_literal`] and [`quote_ident`] are for SQL.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol"; grammar in `repl_gram.y`, `repl_scanner.l`.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;
use crate::pgoutput::ProtocolVersion;

/// A server's version, as `server_version_num` has it: 140023 is 14.23.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The major version: 14 for 140023.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }
}

/// The name of a replication slot: 1 to 63 lower-case letters, digits and underscores, as the server requires.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotName(String);

impl SlotName {
    /// The longest name there is, in bytes.
    pub const BYTES_MAX: usize = MAX_NAME_BYTES;

    /// Checks a name against the server's rule.
    pub fn new(name: impl Into<String>) -> Result<Self, CommandError> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(CommandError::InvalidSlotName(name))
        }
    }

    /// The name, unquoted.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SlotName {
    type Err = CommandError;

    fn from_str(name: &str) -> Result<Self, CommandError> {
        Self::new(name)
    }
}

/// The longest name PostgreSQL keeps: `NAMEDATALEN` minus the terminating zero.
const MAX_NAME_BYTES: usize = 63;

/// A command that the server would refuse or misread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The slot's name breaks the server's rule.
    #[error(
        "{0:?} cannot be the name of a replication slot: use 1 to 63 lower-case letters, digits and underscores"
    )]
    InvalidSlotName(String),
    /// `START_REPLICATION` names no publication, and would decode nothing.
    #[error("no publication is named: name at least one")]
    NoPublication,
    /// An option needs a later pgoutput protocol version.
    #[error("the pgoutput option {option} needs protocol version {needed} or later, not {asked}")]
    NeedsVersion {
        /// The option.
        option: &'static str,
        /// The first protocol version that has it.
        needed: u8,
        /// The version asked for.
        asked: u8,
    },
    /// An option needs a newer server.
    #[error("{option} needs PostgreSQL {needed} or later; the server is {server}")]
    NeedsServer {
        /// The option.
        option: &'static str,
        /// The first major version that has it.
        needed: u32,
        /// The server's major version.
        server: u32,
    },
}

/// Whether pgoutput sends transactions before they have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streaming {
    /// Only committed transactions are sent.
    #[default]
    Off,
    /// Large transactions are sent while they run. Protocol version 2, PostgreSQL 14.
    On,
    /// The same, with what a parallel apply needs to know about aborts. Protocol version 4, PostgreSQL 16.
    Parallel,
}

/// Which changes pgoutput sends, by where they first came from. PostgreSQL 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Only changes made on this server, not those replicated to it.
    None,
    /// All changes.
    Any,
}

/// What prepared transactions look like in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TwoPhase {
    /// They are decoded when `COMMIT PREPARED` runs, as if they were plain transactions.
    #[default]
    AtCommit,
    /// They are decoded when `PREPARE TRANSACTION` runs. Protocol version 3, PostgreSQL 15.
    AtPrepare,
}

/// The options of the pgoutput plugin. Each is sent only where it differs from the plugin's default, so that an
/// older server is not asked about what it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgoutputOptions {
    /// The protocol version, which decides what the other options may be.
    pub proto_version: ProtocolVersion,
    /// Names of publications; at least one.
    pub publications: Vec<String>,
    /// Whether `pg_logical_emit_message` appears in the stream. PostgreSQL 14.
    pub messages: bool,
    /// Whether values come in their binary form where the type has one. PostgreSQL 14.
    pub binary: bool,
    /// Whether transactions come before they have ended.
    pub streaming: Streaming,
    /// How prepared transactions come.
    pub two_phase: TwoPhase,
    /// Which origins' changes come; `None` leaves the server's default, which is [`Origin::Any`].
    pub origin: Option<Origin>,
}

impl PgoutputOptions {
    /// Version 1, committed transactions only, text values.
    pub fn new(publications: Vec<String>) -> Self {
        Self {
            proto_version: ProtocolVersion::V1,
            publications,
            messages: false,
            binary: false,
            streaming: Streaming::Off,
            two_phase: TwoPhase::AtCommit,
            origin: None,
        }
    }

    /// The options as name and unquoted value, in the order they are sent. Useful for the SQL functions
    /// (`pg_logical_slot_peek_binary_changes`), which take the same options.
    pub fn pairs(&self) -> Result<Vec<(&'static str, String)>, CommandError> {
        if self.publications.is_empty() {
            return Err(CommandError::NoPublication);
        }
        let publications: Vec<String> = self.publications.iter().map(|name| quote_ident(name)).collect();
        let mut pairs = vec![
            ("proto_version", self.proto_version.number().to_string()),
            ("publication_names", publications.join(",")),
        ];
        if self.messages {
            pairs.push(("messages", "true".to_owned()));
        }
        if self.binary {
            pairs.push(("binary", "true".to_owned()));
        }
        match self.streaming {
            Streaming::Off => {}
            Streaming::On => {
                self.require(ProtocolVersion::V2, "streaming")?;
                pairs.push(("streaming", "on".to_owned()));
            }
            Streaming::Parallel => {
                self.require(ProtocolVersion::V4, "streaming = parallel")?;
                pairs.push(("streaming", "parallel".to_owned()));
            }
        }
        if self.two_phase == TwoPhase::AtPrepare {
            self.require(ProtocolVersion::V3, "two_phase")?;
            pairs.push(("two_phase", "true".to_owned()));
        }
        match self.origin {
            None => {}
            Some(Origin::None) => pairs.push(("origin", "none".to_owned())),
            Some(Origin::Any) => pairs.push(("origin", "any".to_owned())),
        }
        Ok(pairs)
    }

    /// Whether a server knows these options; it would refuse `START_REPLICATION` otherwise, after the slot was made.
    pub fn check_server(&self, server: ServerVersion) -> Result<(), CommandError> {
        let asked = [
            (self.proto_version >= ProtocolVersion::V2, "protocol version 2", 14),
            (self.proto_version >= ProtocolVersion::V3, "protocol version 3", 15),
            (self.proto_version >= ProtocolVersion::V4, "protocol version 4", 16),
            (self.messages, "the pgoutput option messages", 14),
            (self.binary, "the pgoutput option binary", 14),
            (self.origin.is_some(), "the pgoutput option origin", 16),
        ];
        match asked.into_iter().find(|&(wanted, _, needed)| wanted && server.major() < needed) {
            Some((_, option, needed)) => {
                Err(CommandError::NeedsServer { option, needed, server: server.major() })
            }
            None => Ok(()),
        }
    }

    fn require(&self, needed: ProtocolVersion, option: &'static str) -> Result<(), CommandError> {
        if self.proto_version >= needed {
            return Ok(());
        }
        let (needed, asked) = (needed.number(), self.proto_version.number());
        Err(CommandError::NeedsVersion { option, needed, asked })
    }
}

/// `IDENTIFY_SYSTEM`: one row of `systemid`, `timeline`, `xlogpos`, `dbname`.
pub fn identify_system() -> String {
    "IDENTIFY_SYSTEM".to_owned()
}

/// `SHOW parameter`: one row with the setting's value.
pub fn show(parameter: &str) -> String {
    format!("SHOW {}", quote_ident(parameter))
}

/// `TIMELINE_HISTORY`: one row of `filename`, `content`.
pub fn timeline_history(timeline: u32) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

/// `START_REPLICATION … LOGICAL`: switches the connection to CopyBoth. `start` of `None` begins at the slot's
/// confirmed position; a position before that is moved up to it by the server without a word.
pub fn start_replication(
    slot: &SlotName,
    start: Option<Lsn>,
    options: &PgoutputOptions,
) -> Result<String, CommandError> {
    let options: Vec<String> = options
        .pairs()?
        .into_iter()
        .map(|(name, value)| format!("{name} {}", quote_replication_literal(&value)))
        .collect();
    let start = Lsn::new(Lsn::to_wire(start));
    Ok(format!(
        "START_REPLICATION SLOT {} LOGICAL {start} ({})",
        quote_ident(slot.as_str()),
        options.join(", ")
    ))
}

/// What `CREATE_REPLICATION_SLOT` does with the snapshot of its consistent point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Exports it under a name that lives until this connection's next command.
    Export,
    /// Makes none.
    Nothing,
    /// Uses it for this connection's open transaction.
    Use,
}

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLife {
    /// Until it is dropped. It retains WAL until then, whether anybody reads it or not.
    Permanent,
    /// Until this connection ends.
    Temporary,
}

/// `CREATE_REPLICATION_SLOT … LOGICAL pgoutput`: one row of `slot_name`, `consistent_point`, `snapshot_name`,
/// `output_plugin`. Waits for every transaction that runs on the server; only `lock_timeout` limits that.
/// PostgreSQL 15 changed the syntax; the older one is used before it.
pub fn create_replication_slot(
    slot: &SlotName,
    snapshot: SnapshotAction,
    life: SlotLife,
    server: ServerVersion,
) -> String {
    let name = quote_ident(slot.as_str());
    let life = match life {
        SlotLife::Permanent => "",
        SlotLife::Temporary => " TEMPORARY",
    };
    let snapshot = match (server.major() >= 15, snapshot) {
        (true, SnapshotAction::Export) => "(SNAPSHOT 'export')",
        (true, SnapshotAction::Nothing) => "(SNAPSHOT 'nothing')",
        (true, SnapshotAction::Use) => "(SNAPSHOT 'use')",
        (false, SnapshotAction::Export) => "EXPORT_SNAPSHOT",
        (false, SnapshotAction::Nothing) => "NOEXPORT_SNAPSHOT",
        (false, SnapshotAction::Use) => "USE_SNAPSHOT",
    };
    format!("CREATE_REPLICATION_SLOT {name}{life} LOGICAL pgoutput {snapshot}")
}

/// What `DROP_REPLICATION_SLOT` does while somebody uses the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenActive {
    /// Fails at once.
    Fail,
    /// Waits until the slot is free.
    Wait,
}

/// `DROP_REPLICATION_SLOT`.
pub fn drop_replication_slot(slot: &SlotName, when_active: WhenActive) -> String {
    let wait = match when_active {
        WhenActive::Fail => "",
        WhenActive::Wait => " WAIT",
    };
    format!("DROP_REPLICATION_SLOT {}{wait}", quote_ident(slot.as_str()))
}

/// `name` as a quoted identifier, in SQL and in replication commands. A zero byte, which no identifier can have, is
/// refused later, when the text is framed.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as an SQL string literal that means the same whatever `standard_conforming_strings` is. Not for
/// replication commands, whose scanner knows no `E''`.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        // The leading space keeps the E apart from a preceding word, as libpq's PQescapeLiteral does.
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// `text` as a string of the replication grammar, where only the quote is special.
fn quote_replication_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
