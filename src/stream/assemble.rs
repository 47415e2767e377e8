//! Turns pgoutput's messages into the events of whole transactions, and refuses what the protocol does not allow:
//! a change outside a transaction, a commit that is not the begun one, a streamed part nobody asked for. The parts
//! of transactions that have not ended yet are put aside, and come back as one transaction when it has committed.
//! Pure: no IO, no clock. Holds no row; what comes in goes out.

use std::collections::HashSet;

use bytes::Bytes;
use pgsluice_proto::Opaque;
use pgsluice_proto::pgoutput::{LogicalMessage, OldTuple, Relation, TruncateOptions, Tuple, TypeInfo};

use crate::model::{Lsn, Oid, PgTimestamp, Xid};

use super::handle::MARKER_PREFIX;
use crate::verify::REPAIR_PREFIX;

/// A row change, in the order in which the source's transaction made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowChange {
    /// A new row.
    Insert {
        /// Its values.
        new: Tuple,
    },
    /// A changed row. `old` is there if its identity changed, or always with REPLICA IDENTITY FULL.
    Update {
        /// The row before: its identity's columns, or all.
        old: Option<OldTuple>,
        /// The row after; a value out of line that did not change is `UnchangedToast`.
        new: Tuple,
    },
    /// A row gone.
    Delete {
        /// Its identity's columns, or all.
        old: OldTuple,
    },
}

/// What happens next on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamEvent {
    /// A source transaction begins; its changes follow.
    Begin(TransactionStart),
    /// The shape of a table, before its first change.
    Shape(Relation),
    /// The name of a user-defined type, before the shape that uses it.
    Type(TypeInfo),
    /// A row change of the transaction begun.
    Change {
        /// The table, as announced by a shape.
        relation: Oid,
        /// What happened.
        change: RowChange,
    },
    /// Tables emptied by the transaction begun.
    Truncate {
        /// All of them: the cascade is already worked out.
        relations: Vec<Oid>,
        /// As the source said it.
        options: TruncateOptions,
    },
    /// A cutover's marker is part of the transaction begun.
    Marker {
        /// Its content.
        nonce: String,
    },
    /// Rows that verification found different are to be replaced where the transaction begun has committed.
    Repair {
        /// Which, and by what.
        content: Opaque,
    },
    /// The transaction begun has committed.
    Commit(TransactionEnd),
    /// The source has nothing to send before this position. Only between transactions.
    Position(Lsn),
}

/// What a message means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Assembled {
    /// Nothing to the target.
    Nothing,
    /// It happens next on the target.
    Event(StreamEvent),
    /// It is about a transaction that has not ended.
    Aside(AsideStep),
}

/// What becomes of a transaction that is sent while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AsideStep {
    /// Messages of this top-level transaction follow.
    Open(Xid),
    /// The message is to be put aside as it is, after those before it.
    Keep,
    /// No more messages of it for now.
    Close,
    /// A subtransaction, or all of it when both are the same, was rolled back: what it did never happened.
    Discard {
        /// The top-level transaction.
        xid: Xid,
        /// What was rolled back.
        part: Xid,
    },
    /// It has committed. `begin`, then what was put aside and not discarded, then `commit` are the next messages
    /// for the assembler: from here on it is a transaction like any other (INV-1).
    Replay {
        /// The top-level transaction.
        xid: Xid,
        /// As if it had not been streamed.
        begin: LogicalMessage,
        /// As if it had not been streamed.
        commit: LogicalMessage,
    },
}

/// Where a transaction of the stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionStart {
    /// Its xid on the source.
    pub xid: Xid,
    /// Position of its commit record: what orders the stream (INV-1).
    pub commit_lsn: Lsn,
    /// When the source committed it.
    pub commit_time: PgTimestamp,
}

/// Where a transaction of the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TransactionEnd {
    /// Position of the commit record.
    pub commit_lsn: Lsn,
    /// Position after it: what progress and acknowledgement speak of.
    pub end_lsn: Lsn,
}

/// The stream said something that cannot be applied safely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A message where the protocol does not allow it.
    #[error("the source sent {message} {place}")]
    OutOfPlace {
        /// Kind of message.
        message: &'static str,
        /// Where we were.
        place: &'static str,
    },
    /// Commits are not in order, or a commit is not that of the transaction begun (INV-1).
    #[error("the source sent a commit at {found} where {expected} was due")]
    WrongCommit {
        /// As announced by the begin.
        expected: Lsn,
        /// As sent.
        found: Lsn,
    },
    /// Transactions arrived in another order than they committed (INV-1).
    #[error("the source sent a transaction with commit position {found} after one at {before}")]
    OutOfOrder {
        /// The last commit.
        before: Lsn,
        /// The one that came after it.
        found: Lsn,
    },
}

/// Whether transactions that have not ended were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InProgress {
    /// They are an error of the source.
    #[default]
    Refused,
    /// They are put aside.
    Accepted,
}

/// Where in the stream the next message stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    BetweenTransactions,
    /// Of a committed one.
    InTransaction(TransactionStart),
    /// Of one that has not ended.
    InBlock(Xid),
}

/// Assembles one connection's stream. A new connection needs a new one.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    in_progress: InProgress,
    place: Place,
    last_commit: Option<Lsn>,
    /// Top-level transactions of which parts are put aside; the source's connections and prepared transactions bound
    /// their number.
    aside: HashSet<Xid>,
}

impl Assembler {
    /// An assembler at the beginning of a stream.
    #[must_use]
    pub(super) fn new(in_progress: InProgress) -> Self {
        Self { in_progress, ..Self::default() }
    }

    /// Takes a keepalive: a position to move to, if no transaction is under way (INV-3: a keepalive's position is
    /// never progress while changes before it are unapplied). A transaction put aside commits behind it, and the slot
    /// keeps what it needs to send it again from its beginning.
    pub(super) const fn keepalive(&self, wal_end: Lsn) -> Option<StreamEvent> {
        match self.place {
            Place::BetweenTransactions => Some(StreamEvent::Position(wal_end)),
            Place::InTransaction(_) | Place::InBlock(_) => None,
        }
    }

    /// Whether the next message is one of a transaction that has not ended, or ends a part of it.
    pub(super) const fn is_in_part(&self) -> bool {
        matches!(self.place, Place::InBlock(_))
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// [`AssembleError`]: the connection must not be used further.
    pub(super) fn message(&mut self, message: LogicalMessage) -> Result<Assembled, AssembleError> {
        let kind = message.kind();
        Ok(Assembled::Event(match message {
            LogicalMessage::Begin { final_lsn, commit_time, xid } => {
                self.begin(TransactionStart { xid, commit_lsn: final_lsn, commit_time })?
            }
            LogicalMessage::Commit { commit_lsn, end_lsn, .. } => self.commit(commit_lsn, end_lsn)?,
            LogicalMessage::Relation(relation) => StreamEvent::Shape(relation),
            LogicalMessage::Type(type_info) => StreamEvent::Type(type_info),
            LogicalMessage::Insert { relation, new } => {
                self.change(kind, relation, RowChange::Insert { new })?
            }
            LogicalMessage::Update { relation, old, new } => {
                self.change(kind, relation, RowChange::Update { old, new })?
            }
            LogicalMessage::Delete { relation, old } => {
                self.change(kind, relation, RowChange::Delete { old })?
            }
            LogicalMessage::Truncate { relations, options } => {
                self.inside(kind)?;
                StreamEvent::Truncate { relations, options }
            }
            LogicalMessage::Message { transactional: true, prefix, content, .. }
                if prefix == MARKER_PREFIX =>
            {
                self.inside(kind)?;
                StreamEvent::Marker { nonce: text(&content) }
            }
            LogicalMessage::Message { transactional: true, prefix, content, .. }
                if prefix == REPAIR_PREFIX =>
            {
                self.inside(kind)?;
                StreamEvent::Repair { content }
            }
            LogicalMessage::Message { .. } | LogicalMessage::Origin { .. } => return Ok(Assembled::Nothing),
            LogicalMessage::StreamStart { .. }
            | LogicalMessage::StreamStop
            | LogicalMessage::Streamed { .. }
            | LogicalMessage::StreamCommit { .. }
            | LogicalMessage::StreamAbort { .. } => return self.unended(kind, message),
            LogicalMessage::StreamPrepare { .. }
            | LogicalMessage::BeginPrepare { .. }
            | LogicalMessage::Prepare { .. }
            | LogicalMessage::CommitPrepared { .. }
            | LogicalMessage::RollbackPrepared { .. } => return Err(not_asked_for(kind)),
        }))
    }

    /// Takes a message about a transaction that is sent while it runs.
    fn unended(&mut self, kind: &'static str, message: LogicalMessage) -> Result<Assembled, AssembleError> {
        if self.in_progress == InProgress::Refused {
            return Err(not_asked_for(kind));
        }
        let misplaced = |place| Err(AssembleError::OutOfPlace { message: kind, place });
        if let Place::InTransaction(_) = self.place {
            return misplaced("inside a committed transaction");
        }
        let step = match (self.place, message) {
            (Place::BetweenTransactions, LogicalMessage::StreamStart { xid, first_segment }) => {
                if first_segment != self.aside.insert(xid) {
                    return misplaced("as the first part of a transaction that has one, or the reverse");
                }
                self.place = Place::InBlock(xid);
                AsideStep::Open(xid)
            }
            (Place::InBlock(_), LogicalMessage::Streamed { message, .. }) => match *message {
                LogicalMessage::Message { prefix, .. }
                    if prefix != MARKER_PREFIX && prefix != REPAIR_PREFIX =>
                {
                    return Ok(Assembled::Nothing);
                }
                _ => AsideStep::Keep,
            },
            (Place::InBlock(_), LogicalMessage::StreamStop) => {
                self.place = Place::BetweenTransactions;
                AsideStep::Close
            }
            (Place::BetweenTransactions, LogicalMessage::StreamAbort { xid, subxid, .. }) => {
                let known = if subxid == xid { self.aside.remove(&xid) } else { self.aside.contains(&xid) };
                if !known {
                    // Of what was never sent nothing has to be taken back.
                    return Ok(Assembled::Nothing);
                }
                AsideStep::Discard { xid, part: subxid }
            }
            (
                Place::BetweenTransactions,
                LogicalMessage::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time },
            ) => {
                if !self.aside.remove(&xid) {
                    return misplaced("of a transaction that it never began");
                }
                let begin = LogicalMessage::Begin { final_lsn: commit_lsn, commit_time, xid };
                let commit = LogicalMessage::Commit { flags, commit_lsn, end_lsn, commit_time };
                AsideStep::Replay { xid, begin, commit }
            }
            (Place::InBlock(_), _) => return misplaced("inside a part of an unended transaction"),
            _ => return misplaced("outside a part of an unended transaction"),
        };
        Ok(Assembled::Aside(step))
    }

    fn begin(&mut self, start: TransactionStart) -> Result<StreamEvent, AssembleError> {
        if self.place != Place::BetweenTransactions {
            return Err(AssembleError::OutOfPlace { message: "begin", place: "inside a transaction" });
        }
        if let Some(before) = self.last_commit
            && start.commit_lsn <= before
        {
            return Err(AssembleError::OutOfOrder { before, found: start.commit_lsn });
        }
        self.place = Place::InTransaction(start);
        Ok(StreamEvent::Begin(start))
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<StreamEvent, AssembleError> {
        let Place::InTransaction(start) = self.place else {
            return Err(AssembleError::OutOfPlace { message: "commit", place: "outside a transaction" });
        };
        if start.commit_lsn != commit_lsn || end_lsn < commit_lsn {
            return Err(AssembleError::WrongCommit { expected: start.commit_lsn, found: commit_lsn });
        }
        self.place = Place::BetweenTransactions;
        self.last_commit = Some(commit_lsn);
        Ok(StreamEvent::Commit(TransactionEnd { commit_lsn, end_lsn }))
    }

    const fn inside(&self, message: &'static str) -> Result<(), AssembleError> {
        match self.place {
            Place::InTransaction(_) => Ok(()),
            Place::BetweenTransactions | Place::InBlock(_) => {
                Err(AssembleError::OutOfPlace { message, place: "outside a transaction" })
            }
        }
    }

    fn change(
        &self,
        kind: &'static str,
        relation: Oid,
        change: RowChange,
    ) -> Result<StreamEvent, AssembleError> {
        self.inside(kind)?;
        Ok(StreamEvent::Change { relation, change })
    }
}

const fn not_asked_for(message: &'static str) -> AssembleError {
    AssembleError::OutOfPlace {
        message,
        place: "although neither streaming nor two-phase decoding was asked for",
    }
}

fn text(content: &Bytes) -> String {
    String::from_utf8_lossy(content).into_owned()
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
