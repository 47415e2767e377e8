//! Keeps transactions that are sent while they run on disk until they end: a file for each, its messages as they
//! came, in a directory of one's own. Bounded; when the bound or the disk is reached, the attempt to stream ends and the
//! next one asks for whole transactions only. Nothing here is needed after a crash: the source sends all of it again.
//!
//! What a subtransaction did is told by the xid in each message, and left out when the transaction is read back.
//! PostgreSQL's own apply worker cuts its file at the subtransaction's first change instead, which is as right, but needs
//! a place for every subtransaction rather than for those rolled back.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use pgsluice_proto::DecodeError;
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};

use crate::config::SpoolConfig;
use crate::model::Xid;

use super::reader::FRAME_BYTES_MAX;
use super::spool_directory::SpoolDirectory;

/// Bytes between a file and us: one buffer for the block being written, one for the transaction being read back.
const BUFFER_BYTES: usize = 256 * 1_024;
/// Before each message: its length.
const LENGTH_BYTES: u64 = 4;
/// Rolled back subtransactions remembered of all transactions together (INV-11, INV-12): about 16 MiB.
const DISCARDED_MAX: usize = 1_000_000;

/// Why a transaction cannot be kept. It is still in the source's WAL.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// As configured.
    #[error(
        "transactions that have not ended need more than the {bytes_max} bytes of source.max_spool_bytes"
    )]
    Full {
        /// The bound.
        bytes_max: u64,
    },
    /// More than is remembered.
    #[error(
        "transactions that have not ended have rolled back more than {DISCARDED_MAX} subtransactions, which is the most that is remembered"
    )]
    TooManyDiscarded,
    /// The operating system.
    #[error("a transaction that has not ended cannot be kept in {}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// As the operating system said.
        #[source]
        error: std::io::Error,
    },
    /// What was read back is not what was written.
    #[error("a transaction that was kept on disk cannot be read back: {0}")]
    Unreadable(#[from] DecodeError),
}

impl SpoolError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |error| Self::Io { path, error }
    }
}

/// The transactions of one connection's stream that have not ended. Dropping it removes them from the disk.
#[derive(Debug)]
pub(super) struct Spool {
    directory: SpoolDirectory,
    bytes_max: u64,
    bytes: u64,
    discarded: usize,
    kept: HashMap<Xid, Kept>,
    block: Option<Block>,
}

/// A transaction on disk.
#[derive(Debug, Default)]
struct Kept {
    /// Size of its file; without any there is no file.
    bytes: u64,
    /// Its subtransactions that were rolled back.
    discarded: HashSet<Xid>,
}

/// The part that is coming in.
#[derive(Debug)]
struct Block {
    xid: Xid,
    /// Opened by its first message.
    file: Option<BufWriter<File>>,
}

impl Spool {
    /// An empty spool, in a new directory; what killed runs have left behind is removed.
    ///
    /// # Errors
    /// [`SpoolError::Io`] if the directory cannot be made.
    pub(super) fn create(config: &SpoolConfig) -> Result<Self, SpoolError> {
        Ok(Self {
            directory: SpoolDirectory::create(&config.directory)?,
            bytes_max: config.max_bytes,
            bytes: 0,
            discarded: 0,
            kept: HashMap::new(),
            block: None,
        })
    }

    /// A part of a transaction begins.
    pub(super) fn open(&mut self, xid: Xid) {
        self.kept.entry(xid).or_default();
        self.block = Some(Block { xid, file: None });
    }

    /// Puts a message of the open part aside, as the source sent it.
    ///
    /// # Errors
    /// [`SpoolError`]: the spool must be dropped.
    pub(super) async fn keep(&mut self, payload: &Bytes) -> Result<(), SpoolError> {
        let Some(block) = &mut self.block else { return Ok(()) };
        let path = file_of(&self.directory, block.xid);
        let length =
            u32::try_from(payload.len()).map_err(|_| SpoolError::Full { bytes_max: self.bytes_max })?;
        let bytes = LENGTH_BYTES + u64::from(length);
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(SpoolError::Full { bytes_max: self.bytes_max });
        }
        let file = match &mut block.file {
            Some(file) => file,
            None => block.file.insert(append_to(&path).await.map_err(SpoolError::io(&path))?),
        };
        file.write_u32(length).await.map_err(SpoolError::io(&path))?;
        file.write_all(payload).await.map_err(SpoolError::io(&path))?;
        self.bytes += bytes;
        if let Some(kept) = self.kept.get_mut(&block.xid) {
            kept.bytes += bytes;
        }
        Ok(())
    }

    /// The open part ends.
    ///
    /// # Errors
    /// [`SpoolError::Io`] if it could not be written: the spool must be dropped.
    pub(super) async fn close(&mut self) -> Result<(), SpoolError> {
        let Some(block) = self.block.take() else { return Ok(()) };
        if let Some(mut file) = block.file {
            file.flush().await.map_err(SpoolError::io(&file_of(&self.directory, block.xid)))?;
        }
        Ok(())
    }

    /// A subtransaction, or all of a transaction, was rolled back.
    ///
    /// # Errors
    /// [`SpoolError`]: the spool must be dropped.
    pub(super) async fn discard(&mut self, xid: Xid, part: Xid) -> Result<(), SpoolError> {
        if part == xid {
            let Some(kept) = self.forget(xid) else { return Ok(()) };
            return if kept.bytes > 0 { remove(&file_of(&self.directory, xid)).await } else { Ok(()) };
        }
        if let Some(kept) = self.kept.get_mut(&xid)
            && kept.bytes > 0
            && kept.discarded.insert(part)
        {
            self.discarded += 1;
        }
        if self.discarded > DISCARDED_MAX { Err(SpoolError::TooManyDiscarded) } else { Ok(()) }
    }

    /// Takes a transaction out that has committed.
    ///
    /// # Errors
    /// [`SpoolError::Io`] if its file cannot be opened.
    pub(super) async fn replay(&mut self, xid: Xid) -> Result<Replay, SpoolError> {
        let kept = self.forget(xid).unwrap_or_default();
        let path = file_of(&self.directory, xid);
        let file = if kept.bytes > 0 {
            let file = File::open(&path).await.map_err(SpoolError::io(&path))?;
            // The file lives until it is closed, whatever becomes of us.
            remove(&path).await?;
            Some(BufReader::with_capacity(BUFFER_BYTES, file))
        } else {
            None
        };
        let decoder = Decoder::in_streamed_block(ProtocolVersion::V2);
        Ok(Replay { path, file, bytes_left: kept.bytes, discarded: kept.discarded, decoder })
    }

    fn forget(&mut self, xid: Xid) -> Option<Kept> {
        let kept = self.kept.remove(&xid)?;
        self.bytes -= kept.bytes;
        self.discarded -= kept.discarded.len();
        Some(kept)
    }
}

/// A committed transaction on its way out: its messages in order, without those of subtransactions that were rolled back.
#[derive(Debug)]
pub(super) struct Replay {
    path: PathBuf,
    file: Option<BufReader<File>>,
    bytes_left: u64,
    discarded: HashSet<Xid>,
    decoder: Decoder,
}

impl Replay {
    /// The next message; `None` at the end. Reads a little at a time (INV-12).
    ///
    /// # Errors
    /// [`SpoolError`]: the transaction must be asked for again.
    pub(super) async fn next(&mut self) -> Result<Option<LogicalMessage>, SpoolError> {
        while self.bytes_left > 0 {
            let Some(file) = &mut self.file else { return Ok(None) };
            let payload = read_message(file).await.map_err(SpoolError::io(&self.path))?;
            self.bytes_left = self.bytes_left.saturating_sub(LENGTH_BYTES + payload.len() as u64);
            match self.decoder.decode(payload)? {
                LogicalMessage::Streamed { xid, .. } if self.discarded.contains(&xid) => {}
                LogicalMessage::Streamed { message, .. } => return Ok(Some(*message)),
                other => return Ok(Some(other)),
            }
        }
        Ok(None)
    }
}

async fn read_message(file: &mut BufReader<File>) -> std::io::Result<Bytes> {
    let length = file.read_u32().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut payload = BytesMut::zeroed(length);
    file.read_exact(&mut payload).await?;
    Ok(payload.freeze())
}

/// Between two of its parts a transaction's file is closed: the source may have any number of them under way.
async fn append_to(path: &Path) -> std::io::Result<BufWriter<File>> {
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(path).await?;
    file.set_max_buf_size(BUFFER_BYTES);
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}

async fn remove(path: &Path) -> Result<(), SpoolError> {
    tokio::fs::remove_file(path).await.map_err(SpoolError::io(path))
}

fn file_of(directory: &SpoolDirectory, xid: Xid) -> PathBuf {
    directory.path().join(xid.0.to_string())
}
