//! From the plugin's messages to the events of whole transactions: decodes, assembles, and keeps on disk what has not
//! ended until it has. One message may mean many events, when a transaction that was kept commits: they are taken one by
//! one, so that none of them waits in memory (INV-12).

use bytes::Bytes;
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion};

use crate::model::Lsn;

use super::assemble::{AsideStep, AssembleError, Assembled, Assembler, InProgress, StreamEvent};
use super::error::StreamError;
use super::spool::{Replay, Spool};

/// The messages of one connection. A new connection needs a new one.
#[derive(Debug)]
pub(super) struct Intake {
    decoder: Decoder,
    assembler: Assembler,
    /// There if transactions that have not ended are asked for.
    spool: Option<Spool>,
    ending: Option<Ending>,
}

/// A transaction that has committed, on its way back from the disk.
#[derive(Debug)]
struct Ending {
    replay: Replay,
    commit: LogicalMessage,
}

/// What a message comes to.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing.
    Nothing,
    /// It happens next on the target.
    Event(StreamEvent),
    /// It is about a transaction that has not ended: [`Intake::put_aside`].
    Aside(Aside),
}

/// A message about a transaction that has not ended.
#[derive(Debug)]
pub(super) struct Aside {
    step: AsideStep,
    /// There inside a part of a transaction.
    as_it_came: Option<Bytes>,
}

const NOT_IN_PART: AssembleError =
    AssembleError::OutOfPlace { message: "a change", place: "outside a part of an unended transaction" };

impl Intake {
    /// At the beginning of a stream of this version; `spool` is there if transactions come while they run.
    #[must_use]
    pub(super) fn new(version: ProtocolVersion, spool: Option<Spool>) -> Self {
        let in_progress = if spool.is_some() { InProgress::Accepted } else { InProgress::Refused };
        Self { decoder: Decoder::new(version), assembler: Assembler::new(in_progress), spool, ending: None }
    }

    /// Takes a keepalive.
    pub(super) const fn keepalive(&self, wal_end: Lsn) -> Option<StreamEvent> {
        self.assembler.keepalive(wal_end)
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// [`StreamError`]: the connection must not be used further.
    pub(super) fn message(&mut self, payload: Bytes) -> Result<Heard, StreamError> {
        let as_it_came = self.assembler.is_in_part().then(|| payload.clone());
        let message = self.decoder.decode(payload)?;
        Ok(match self.assembler.message(message)? {
            Assembled::Nothing => Heard::Nothing,
            Assembled::Event(event) => Heard::Event(event),
            Assembled::Aside(step) => Heard::Aside(Aside { step, as_it_came }),
        })
    }

    /// Does what a message about a transaction that has not ended asks for; whatever event comes of it, [`Self::more`] is to be
    /// called until it has no more.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub(super) async fn put_aside(&mut self, aside: Aside) -> Result<Option<StreamEvent>, StreamError> {
        let Some(spool) = &mut self.spool else { return Ok(None) };
        match aside.step {
            AsideStep::Open(xid) => spool.open(xid),
            AsideStep::Keep => spool.keep(&aside.as_it_came.ok_or(NOT_IN_PART)?).await?,
            AsideStep::Close => spool.close().await?,
            AsideStep::Discard { xid, part } => spool.discard(xid, part).await?,
            AsideStep::Replay { xid, begin, commit } => {
                self.ending = Some(Ending { replay: spool.replay(xid).await?, commit });
                return self.assemble(begin);
            }
        }
        Ok(None)
    }

    /// The next event of the message taken last.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub(super) async fn more(&mut self) -> Result<Option<StreamEvent>, StreamError> {
        while let Some(ending) = &mut self.ending {
            let message = match ending.replay.next().await? {
                Some(next) => next,
                None => match self.ending.take() {
                    Some(ended) => ended.commit,
                    None => return Ok(None),
                },
            };
            if let Some(event) = self.assemble(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn assemble(&mut self, message: LogicalMessage) -> Result<Option<StreamEvent>, StreamError> {
        match self.assembler.message(message)? {
            Assembled::Event(event) => Ok(Some(event)),
            Assembled::Nothing | Assembled::Aside(_) => Ok(None),
        }
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
