//! Why an established connection of our own framing failed. Every end of a stream is one of these, with the server's SQLSTATE
//! where there is one; positions and data are not part of it.

use std::io;
use std::time::Duration;

use pgsluice_proto::frame::FrameError;
use pgsluice_proto::{DecodeError, EncodeError};

use super::disposition::{REPORT_BUG, disposition_of_sqlstate};
use super::error::ServerMessage;
use crate::model::Disposition;

/// An established connection failed. It is of no more use, except after [`Server`](Self::Server) from a simple query or
/// a copy.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The server reported an error.
    #[error("the source reports: {0}")]
    Server(ServerMessage),
    /// The server reported why it ends the session.
    #[error("the source has ended the session: {0}")]
    Ended(ServerMessage),
    /// The connection broke.
    #[error("the connection to the source was lost ({0})")]
    Lost(#[source] io::Error),
    /// Nothing could be sent or received within a bound.
    #[error("the source did not {awaited} within {} s", .after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        awaited: &'static str,
        /// The bound.
        after: Duration,
    },
    /// A frame that is none.
    #[error("the connection to the source is out of step: {0}")]
    Frame(#[from] FrameError),
    /// A message that is none.
    #[error("the connection to the source is out of step: {0}")]
    Decode(#[from] DecodeError),
    /// A command that cannot be sent.
    #[error("the command cannot be sent: {0}")]
    Encode(#[from] EncodeError),
    /// A simple query answered with more than is kept.
    #[error("the source's answer is larger than {bytes_max} bytes")]
    ResultTooLarge {
        /// The bound, in bytes of values.
        bytes_max: usize,
    },
    /// A message that has no place here.
    #[error("the source sent {found} where {expected} was expected")]
    Unexpected {
        /// The message's name.
        found: &'static str,
        /// What should have come.
        expected: &'static str,
    },
}

impl WireError {
    /// The server's SQLSTATE, if it was the server that reported it.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(message) | Self::Ended(message) => Some(&message.sqlstate),
            _ => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Server(message) => disposition_of_sqlstate(&message.sqlstate),
            // The connection alone is spoilt; a new one resumes from what is durable.
            Self::Ended(_)
            | Self::Lost(_)
            | Self::Timeout { .. }
            | Self::Frame(_)
            | Self::Decode(_)
            | Self::Unexpected { .. } => Disposition::Retry,
            Self::Encode(_) | Self::ResultTooLarge { .. } => {
                Disposition::Halt { remedy: REPORT_BUG.to_owned() }
            }
        }
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self.disposition() {
            Disposition::Retry => {
                "Nothing: it reconnects by itself and resumes from what is durable.".to_owned()
            }
            Disposition::WaitForOperator { remedy } | Disposition::Halt { remedy } => remedy,
        }
    }
}
