//! What can go wrong between the walsender and the target's COMMIT, and what is to be done about it: one exhaustive
//! policy. Whatever it is, no change is skipped because of it (INV-5).

use tokio_postgres::error::SqlState;

use crate::connection::{ConnectError, WireError, disposition_of};
use crate::model::{Disposition, Lsn, Oid, Side, TableName, counted};
use crate::snapshot::SnapshotError;
use crate::target::lock::LockError;
use crate::target::records::RecordError;

use super::assemble::AssembleError;
use super::hold::{HoldBefore, Reason, is_about_the_definition};
use super::reader::BulkError;
use super::resume::ResumeRefused;
use super::spool::SpoolError;
use super::statement::BindError;
use super::value_format::NotBinary;

/// Why an attempt to stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A server could not be reached, or the connection to it broke.
    #[error("{error}")]
    Connect {
        /// Which one.
        side: Side,
        /// Why.
        #[source]
        error: Box<ConnectError>,
    },
    /// The walsender ended the stream.
    #[error("the source ended the stream: {0}")]
    Walsender(#[from] Box<pgsluice_proto::session::SessionError>),
    /// The replication connection failed.
    #[error(transparent)]
    Replication(#[from] WireError),
    /// A name or position that cannot be put into a replication command.
    #[error(transparent)]
    Command(#[from] pgsluice_proto::command::CommandError),
    /// The source shut the stream down in good order.
    #[error("the source ended the stream in good order, as it does when it is shut down")]
    EndedBySource,
    /// Bytes that are not pgoutput.
    #[error("the source sent a message that cannot be decoded: {0}")]
    Decode(#[from] pgsluice_proto::DecodeError),
    /// Messages in an order that cannot be.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The slot, the records and the servers do not belong together.
    #[error(transparent)]
    Resume(#[from] ResumeRefused),
    /// Another replicator.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The records on the target.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A transaction cannot go on, and some of its changes were applied: they are rolled back, and the next attempt
    /// waits before it.
    #[error("{reason}")]
    HeldMidway {
        /// Where and for what the next attempt waits.
        before: Box<HoldBefore>,
        /// Why.
        reason: Reason,
    },
    /// A shape that a stream of binary values cannot carry; the next attempt asks for text.
    #[error("{0}; the stream begins again with values as text")]
    NotBinary(#[from] NotBinary),
    /// A transaction that has not ended cannot be kept; the next attempt asks for whole ones.
    #[error("{0}; the stream begins again with whole transactions")]
    Spool(#[from] SpoolError),
    /// The backlog could not be read in bulk to its end; the next attempt streams.
    #[error("{0}; the backlog is streamed instead")]
    Bulk(#[from] BulkError),
    /// Streaming has fallen far behind; the next attempt reads the backlog in bulk.
    #[error("streaming has fallen far behind; the backlog is read in bulk")]
    FarBehind,
    /// The target's record says that tables are being copied, and this process took the copy to be over.
    #[error("the target has lost the end of the initial copy: it failed over, or was restored")]
    CopyLost,
    /// The records of the copy.
    #[error(transparent)]
    Copy(Box<SnapshotError>),
    /// The key of a table that is copied in ranges is not among what the source sends.
    #[error(
        "table {table} was altered while it was being copied: the column by which it is cut into chunks cannot be found"
    )]
    ChunkUnknown {
        /// Its name.
        table: String,
    },
    /// A change that has no statement.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A change of a table that was never announced.
    #[error("the source sent a change of relation {relation} without announcing the relation first")]
    UnknownRelation {
        /// Its OID on the source.
        relation: Oid,
    },
    /// A statement that the target does not accept at all.
    #[error("the target refuses {op} statements for table {table}: {}", describe(.error))]
    Prepare {
        /// The source's relation.
        relation: Oid,
        /// The table.
        table: TableName,
        /// The kind of change.
        op: &'static str,
        /// Commit position of the source's transaction.
        commit_lsn: Lsn,
        /// What it answered.
        #[source]
        error: tokio_postgres::Error,
    },
    /// A change that the target refuses.
    #[error("the target refused to {op} a row of table {table} (source transaction committed at {commit_lsn}): {}", describe(.error))]
    Apply {
        /// The source's relation.
        relation: Oid,
        /// The table.
        table: TableName,
        /// The kind of change.
        op: &'static str,
        /// Commit position of the source's transaction.
        commit_lsn: Lsn,
        /// What it answered.
        #[source]
        error: tokio_postgres::Error,
    },
    /// INV-6: source and target do not hold the same rows.
    #[error(
        "source and target differ: the {op} of one row of table {table} touched {} on the target (source transaction committed at {commit_lsn})",
        counted(*.rows, "row", "rows")
    )]
    Divergence {
        /// The table.
        table: TableName,
        /// The kind of change.
        op: &'static str,
        /// Rows it touched.
        rows: u64,
        /// Commit position of the source's transaction.
        commit_lsn: Lsn,
    },
    /// The progress record is not where this process left it.
    #[error("the progress record on the target was moved by somebody else; the batch was not committed")]
    ProgressMoved,
    /// Its address leads to one server and then to another.
    #[error("two connections to the target reached two different servers, as while it fails over")]
    TargetMoves,
    /// Its operator has another primary, and this was connected to the former one.
    #[error("the target's cluster has another primary than the one that was connected to")]
    TargetReplaced,
    /// Anything else the target answered.
    #[error("the target answered: {}", describe(.0))]
    Target(#[from] tokio_postgres::Error),
    /// The target printed something that is not an LSN.
    #[error("the target answered with a malformed LSN")]
    MalformedLsn,
    /// One of the stream's tasks vanished.
    #[error("the task that {0} ended unexpectedly")]
    TaskGone(&'static str),
}

/// The server's message without its detail, which can quote row values (INV-10). Messages of class 22 (data
/// exception) quote the value itself.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) if db.code().code().starts_with("22") => {
            format!(
                "SQLSTATE {} (the target's log has the message, which quotes the value)",
                db.code().code()
            )
        }
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

const DIVERGENCE_REMEDY: &str = "Nothing after this change was applied and nothing is lost: the slot keeps it. Find out who wrote to the target's \
     table beside pgsluice. Then correct that row on the target by hand and start pgsluice again, or start over with \
     an empty target (`pgsluice cleanup`).";

impl StreamError {
    /// What is to be done: the one place where this is decided.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Connect { error, .. } => error.disposition(),
            Self::Walsender(error) => walsender_disposition(error),
            Self::Replication(error) => error.disposition(),
            Self::EndedBySource
            | Self::ProgressMoved
            | Self::TargetMoves
            | Self::TargetReplaced
            | Self::TaskGone(_)
            | Self::NotBinary(_)
            | Self::Spool(_)
            | Self::Bulk(_)
            | Self::FarBehind => Disposition::Retry,
            Self::Lock(LockError::Sql(error)) | Self::Record(RecordError::Sql(error)) => error.disposition(),
            Self::Target(error) => disposition_of(error),
            Self::Lock(error @ LockError::Taken { .. }) => {
                Disposition::WaitForOperator { remedy: error.remedy() }
            }
            Self::HeldMidway { reason, .. } => {
                Disposition::WaitForOperator { remedy: reason.remedy.clone() }
            }
            Self::Copy(error) => error.disposition(),
            Self::CopyLost => Disposition::Halt {
                remedy: "Start pgsluice again: it goes on with the copy where the target's record is.".into(),
            },
            Self::ChunkUnknown { table } => Disposition::Halt {
                remedy: format!(
                    "Give the column of {table} its name and type back, or begin anew: `pgsluice cleanup`, and empty the target's tables. The source was only read."
                ),
            },
            Self::Resume(refused) => refused.disposition(),
            Self::Divergence { .. } => Disposition::Halt { remedy: DIVERGENCE_REMEDY.into() },
            Self::Prepare { error, table, .. } => apply_disposition(error, table),
            Self::Apply { error, table, .. } => apply_disposition(error, table),
            Self::Bind(_)
            | Self::Decode(_)
            | Self::Assemble(_)
            | Self::UnknownRelation { .. }
            | Self::MalformedLsn
            | Self::Command(_)
            | Self::Record(RecordError::Unknown { .. }) => Disposition::Halt {
                remedy: "Nothing after this was applied and nothing is lost: the slot keeps it. This should not happen: please \
                         report it with this message, both servers' versions and the table's definition."
                    .into(),
            },
        }
    }

    /// What the target's answer was classified as, if it is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Apply { error, .. } | Self::Prepare { error, .. } | Self::Target(error) => error.code(),
            _ => None,
        }
    }

    /// The side whose connection has to be made again, for the metric `pgsluice_reconnects_total{side}`.
    #[must_use]
    pub const fn side(&self) -> Side {
        match self {
            Self::Connect { side, .. } => *side,
            Self::Walsender(_)
            | Self::Replication(_)
            | Self::EndedBySource
            | Self::Bulk(_)
            | Self::FarBehind
            | Self::Decode(_)
            | Self::Assemble(_) => Side::Source,
            _ => Side::Target,
        }
    }
}

fn apply_disposition(error: &tokio_postgres::Error, table: &TableName) -> Disposition {
    match disposition_of(error) {
        Disposition::Retry => Disposition::Retry,
        _ if is_about_the_definition(error) => Disposition::WaitForOperator {
            remedy: format!(
                "Nothing after this change was applied and nothing is lost: the slot keeps it. Compare the definition and the \
                 constraints of {table} on both sides."
            ),
        },
        Disposition::WaitForOperator { .. } | Disposition::Halt { .. } => {
            let unique = error.code() == Some(&SqlState::UNIQUE_VIOLATION);
            let cause = if unique { "A row with this key is there already. " } else { "" };
            Disposition::Halt {
                remedy: format!(
                    "{cause}Nothing after this change was applied and nothing is lost: the slot keeps it. Compare the definition \
                     and the constraints of {table} on both sides and find out who wrote to it on the target; correct that, and \
                     start pgsluice again."
                ),
            }
        }
    }
}

fn walsender_disposition(error: &pgsluice_proto::session::SessionError) -> Disposition {
    use pgsluice_proto::session::SessionError;
    match error {
        SessionError::DurableBeyondReceived { .. } | SessionError::DurableWentBack { .. } => Disposition::Halt {
            remedy: "The target has gone back in time, as by a failover to a standby that was behind. Nothing was confirmed \
                     wrongly. Start pgsluice again: it compares slot and progress and says what to do."
                .into(),
        },
        SessionError::Server(fields) if slot_is_lost(fields) => Disposition::Halt {
            remedy: "The source has removed WAL that the slot needs (max_slot_wal_keep_size), so changes are lost to the stream. \
                     Raise the setting on the source, then start over: `pgsluice cleanup`, empty the target, `pgsluice run`."
                .into(),
        },
        SessionError::Server(fields) if publication_is_gone(fields) => Disposition::Halt {
            remedy: "Somebody dropped the publication on the source. Creating it again does not help: the source looks for it at \
                     each change as of that change, and what was written meanwhile is not in the stream. Start over: \
                     `pgsluice cleanup`, empty the target, `pgsluice run`."
                .into(),
        },
        SessionError::Server(fields) if value_is_too_long(fields) => Disposition::WaitForOperator {
            remedy: "A value of a transaction is too long to be sent: PostgreSQL prints at most 1 GB, and bytea in text is twice its \
                     size. Nothing is lost: the slot keeps it. If every table can travel in binary, set source.binary = \"auto\" \
                     and start pgsluice again; otherwise leave the table out (source.tables.exclude) and start over. \
                     Meanwhile the source keeps its WAL: watch its disk."
                .into(),
        },
        _ => Disposition::Retry,
    }
}

/// Decoding a value, or the message it is in, would need more than PostgreSQL allocates at once (1 GB).
fn value_is_too_long(fields: &pgsluice_proto::frame::ErrorFields) -> bool {
    let text = fields.to_string();
    text.contains("invalid memory alloc request size")
}

/// Up to PostgreSQL 17; from 18 on the source only warns in its log, and what the publication carried is compared instead.
fn publication_is_gone(fields: &pgsluice_proto::frame::ErrorFields) -> bool {
    let text = fields.to_string();
    text.contains("42704") && text.contains("publication")
}

fn slot_is_lost(fields: &pgsluice_proto::frame::ErrorFields) -> bool {
    let text = fields.to_string();
    text.contains("can no longer get changes from replication slot") || text.contains("requested WAL segment")
}
