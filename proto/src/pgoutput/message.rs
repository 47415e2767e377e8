//! [`LogicalMessage`]: everything pgoutput can say, as data. Fields are in the order of the wire. A change that
//! belongs to a transaction which has not ended yet is wrapped in [`LogicalMessage::Streamed`], so that code which
//! does not expect such changes cannot apply one by accident.

use crate::lsn::Lsn;
use crate::pgoutput::relation::{Relation, TypeInfo};
use crate::pgoutput::tuple::Tuple;
use crate::scalar::{Oid, Opaque, PgTimestamp, Xid};

/// The version of pgoutput's protocol, as asked for in `START_REPLICATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// Committed transactions. PostgreSQL 10.
    V1,
    /// Adds transactions streamed while they run. PostgreSQL 14.
    V2,
    /// Adds prepared transactions. PostgreSQL 15.
    V3,
    /// Adds what parallel apply of streamed transactions needs. PostgreSQL 16.
    V4,
}

impl ProtocolVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::V3, Self::V4];

    /// The number in `proto_version`.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

/// One message of pgoutput.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogicalMessage {
    /// `B`: a committed transaction begins.
    Begin {
        /// Where the transaction's commit record begins; the same as the commit's `commit_lsn`.
        final_lsn: Lsn,
        /// When it committed, by the source's clock.
        commit_time: PgTimestamp,
        /// Its identifier.
        xid: Xid,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// Unused so far; zero.
        flags: u8,
        /// Where the commit record begins.
        commit_lsn: Lsn,
        /// Where the commit record ends: the position to confirm once this transaction is durable, and the one that
        /// transactions are ordered and resumed by (INV-1).
        end_lsn: Lsn,
        /// When it committed, by the source's clock.
        commit_time: PgTimestamp,
    },
    /// `O`: the transaction was replicated to the source from elsewhere. Follows Begin or StreamStart.
    Origin {
        /// The commit position on the origin, if it was recorded.
        commit_lsn: Option<Lsn>,
        /// The origin's name on the source.
        name: String,
    },
    /// `R`: the shape of a table, before its first change and after every change of shape.
    Relation(Relation),
    /// `Y`: the name of a type that is not built in, before a relation that uses it.
    Type(TypeInfo),
    /// `I`: a row was inserted.
    Insert {
        /// The table.
        relation: Oid,
        /// The row.
        new: Tuple,
    },
    /// `U`: a row was updated.
    Update {
        /// The table.
        relation: Oid,
        /// What identifies the row; `None` when its key did not change and the table's identity is not FULL.
        old: Option<OldTuple>,
        /// The row as it is now; columns whose TOASTed value did not change are absent from it.
        new: Tuple,
    },
    /// `D`: a row was deleted.
    Delete {
        /// The table.
        relation: Oid,
        /// What identifies the row.
        old: OldTuple,
    },
    /// `T`: tables were truncated.
    Truncate {
        /// The published tables that were truncated by one statement, those reached by CASCADE included.
        relations: Vec<Oid>,
        /// The statement's options.
        options: TruncateOptions,
    },
    /// `M`: the work of `pg_logical_emit_message`.
    Message {
        /// Whether it belongs to a transaction; if not, it comes at once and outside of any.
        transactional: bool,
        /// Where it was written.
        lsn: Lsn,
        /// Who it is for.
        prefix: String,
        /// Anything.
        content: Opaque,
    },
    /// `S`: a block of changes of a running transaction begins. Version 2.
    StreamStart {
        /// The top-level transaction.
        xid: Xid,
        /// Whether this is the transaction's first block.
        first_segment: bool,
    },
    /// `E`: the block ends. Version 2.
    StreamStop,
    /// A change inside a block of a running transaction. The wrapped message is one of Relation, Type, Insert,
    /// Update, Delete, Truncate and Message. Version 2.
    Streamed {
        /// The transaction or subtransaction that made the change; a later StreamAbort may take it back.
        xid: Xid,
        /// The change.
        message: Box<LogicalMessage>,
    },
    /// `c`: a streamed transaction has committed. Version 2.
    StreamCommit {
        /// The top-level transaction.
        xid: Xid,
        /// Unused so far; zero.
        flags: u8,
        /// Where the commit record begins.
        commit_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
    },
    /// `A`: a streamed transaction, or a subtransaction of it, has aborted. Version 2.
    StreamAbort {
        /// The top-level transaction.
        xid: Xid,
        /// The subtransaction; the same as `xid` when all of it aborted.
        subxid: Xid,
        /// Sent only with `streaming = parallel`. Version 4.
        info: Option<StreamAbortInfo>,
    },
    /// `b`: a prepared transaction begins. Version 3.
    BeginPrepare {
        /// Where the prepare record begins.
        prepare_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// The transaction.
        xid: Xid,
        /// Its global identifier.
        gid: String,
    },
    /// `P`: the transaction is complete and prepared. Version 3.
    Prepare {
        /// Unused so far; zero.
        flags: u8,
        /// Where the prepare record begins.
        prepare_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// The transaction.
        xid: Xid,
        /// Its global identifier.
        gid: String,
    },
    /// `K`: `COMMIT PREPARED`. Version 3.
    CommitPrepared {
        /// Unused so far; zero.
        flags: u8,
        /// Where the commit record begins.
        commit_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
        /// The transaction.
        xid: Xid,
        /// Its global identifier.
        gid: String,
    },
    /// `r`: `ROLLBACK PREPARED`. Version 3.
    RollbackPrepared {
        /// Unused so far; zero.
        flags: u8,
        /// Where the prepare record ends.
        prepare_end_lsn: Lsn,
        /// Where the rollback record ends.
        rollback_end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// When it was rolled back.
        rollback_time: PgTimestamp,
        /// The transaction.
        xid: Xid,
        /// Its global identifier.
        gid: String,
    },
    /// `p`: a streamed transaction was prepared. Version 3.
    StreamPrepare {
        /// Unused so far; zero.
        flags: u8,
        /// Where the prepare record begins.
        prepare_lsn: Lsn,
        /// Where it ends.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// The transaction.
        xid: Xid,
        /// Its global identifier.
        gid: String,
    },
}

/// The row as it was, as far as the table's replica identity tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: the identity's columns; all others are NULL and mean nothing.
    Key(Tuple),
    /// `O`: the whole row; the table has REPLICA IDENTITY FULL.
    Full(Tuple),
}

/// The options of a TRUNCATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TruncateOptions {
    /// `CASCADE`
    pub cascade: bool,
    /// `RESTART IDENTITY`
    pub restart_identity: bool,
}

/// Where and when a streamed transaction aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAbortInfo {
    /// The abort record, if there is one: a crash leaves none.
    pub abort_lsn: Option<Lsn>,
    /// When it aborted.
    pub abort_time: PgTimestamp,
}

impl LogicalMessage {
    /// The kind of message, for errors and counters; a streamed change is named as the change it wraps.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Commit { .. } => "commit",
            Self::Origin { .. } => "origin",
            Self::Relation(_) => "relation",
            Self::Type(_) => "type",
            Self::Insert { .. } => "insert",
            Self::Update { .. } => "update",
            Self::Delete { .. } => "delete",
            Self::Truncate { .. } => "truncate",
            Self::Message { .. } => "message",
            Self::StreamStart { .. } => "stream start",
            Self::StreamStop => "stream stop",
            Self::Streamed { message, .. } => message.kind(),
            Self::StreamCommit { .. } => "stream commit",
            Self::StreamAbort { .. } => "stream abort",
            Self::BeginPrepare { .. } => "begin prepare",
            Self::Prepare { .. } => "prepare",
            Self::CommitPrepared { .. } => "commit prepared",
            Self::RollbackPrepared { .. } => "rollback prepared",
            Self::StreamPrepare { .. } => "stream prepare",
        }
    }
}
