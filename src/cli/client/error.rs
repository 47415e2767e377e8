//! Why a command for a running instance could not be carried out, what the shell is told, and what to do.

use reqwest::StatusCode;

use crate::cli::{Exit, Failure};
use crate::connection::TlsError;
use crate::control::ProblemRecord;

/// Why a command could not be carried out. What it says is for a person; [`ClientError::exit`] for the shell.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error("\"{given}\" is not the address of an API: {reason}")]
    Address {
        /// As given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up on this machine.
    #[error("TLS cannot be set up here: {0}")]
    Tls(String),
    /// `--ca-file` cannot be used.
    #[error("{0}")]
    Authority(#[from] TlsError),
    /// The instance's certificate does not prove that it is the one that is meant.
    #[error("the certificate of {address} is not trusted: {reason}. Nothing was sent")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers.
    #[error("no pgsluice answers at {address}: {reason}. Nothing was changed")]
    Unreachable {
        /// Where.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The command was sent, and no answer came.
    #[error("{address} took the command and did not answer: {reason}. It may be carried out all the same")]
    NoAnswer {
        /// Where.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The instance refused.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemRecord>),
    /// Something else than an instance stands in between, and sends elsewhere.
    #[error("{address} sends elsewhere: {to}. It was not gone to")]
    Redirected {
        /// Where it was asked.
        address: String,
        /// Where it sends.
        to: String,
    },
    /// Another operation was answered with than was asked for.
    #[error("{address} answered with a {got} where a {asked} was asked for")]
    AnotherOperation {
        /// Where.
        address: String,
        /// What was asked for.
        asked: &'static str,
        /// What it says that it is.
        got: &'static str,
    },
    /// Something answers, but not as a pgsluice of this version does.
    #[error("{address} answered with status {status} and not as this version of pgsluice does ({reason})")]
    Unexpected {
        /// Where.
        address: String,
        /// HTTP status.
        status: StatusCode,
        /// What does not fit.
        reason: String,
        /// Whether it was asked to do something, which it may have done.
        may_be_done: bool,
    },
    /// The operation was accepted, and then nothing more was heard of it.
    #[error(
        "operation {epoch} was accepted, and its end is not known: {reason}. The instance rolls back or finishes it by \
         itself when it starts again"
    )]
    LostSight {
        /// The operation.
        epoch: i64,
        /// What happened.
        reason: String,
    },
    /// The command was interrupted; what it has started goes on.
    #[error("interrupted: verification {number} goes on")]
    Interrupted {
        /// Which.
        number: i64,
    },
    /// The verification was accepted, and then nothing more was heard of it.
    #[error(
        "verification {number} was accepted, and how it ended is not known: {reason}. It changes nothing on either side"
    )]
    LostVerification {
        /// Which.
        number: i64,
        /// What happened.
        reason: String,
    },
    /// Standard output is closed.
    #[error("the result cannot be printed: {0}")]
    Output(#[from] std::io::Error),
}

impl ClientError {
    /// How the program ends because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            // Exit 1 says that the source is still primary, which nobody knows here.
            Self::Refused(problem)
                if problem.is(ProblemRecord::PAST_THE_POINT_OF_NO_RETURN)
                    || problem.is(ProblemRecord::UNRESPONSIVE) =>
            {
                Exit::Decision
            }
            Self::Refused(problem) if matches!(problem.status, 404 | 409 | 503) => Exit::Failed,
            Self::LostSight { .. }
            | Self::NoAnswer { .. }
            | Self::AnotherOperation { .. }
            | Self::Unexpected { may_be_done: true, .. } => Exit::Decision,
            Self::Output(_) | Self::Interrupted { .. } | Self::LostVerification { .. } => Exit::Failed,
            Self::Refused(_)
            | Self::Address { .. }
            | Self::Tls(_)
            | Self::Authority(_)
            | Self::Untrusted { .. }
            | Self::Unreachable { .. }
            | Self::Redirected { .. }
            | Self::Unexpected { .. } => Exit::Usage,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Address { .. } => "Use a URL such as http://127.0.0.1:8080.",
            Self::Tls(_) => "Check the certificates of this machine.",
            Self::Authority(_) => {
                "Check --ca-file (PGSLUICE_CA_FILE): it names a file with certificates in PEM format."
            }
            Self::Untrusted { .. } => {
                "Pass --ca-file (or PGSLUICE_CA_FILE) with the certificate authority that signed it (in Kubernetes `ca.crt` of its \
                 Secret), or with the certificate itself if it is self-signed; and let --api name the host by a name that the \
                 certificate is made out to."
            }
            Self::Unreachable { .. } => {
                "Check that `pgsluice run` is running and that --api names the address it listens on (api.listen)."
            }
            Self::NoAnswer { .. } => "Look with `pgsluice status` before repeating it.",
            Self::Refused(problem) => &problem.remedy,
            Self::Redirected { .. } => {
                "Name in --api where pgsluice itself listens: the token is for it alone. Nothing was changed."
            }
            Self::AnotherOperation { .. } | Self::Unexpected { may_be_done: true, .. } => {
                "It may be carried out all the same: look with `pgsluice status` before repeating it, check --api, and that both are \
                 of the same version."
            }
            Self::Unexpected { .. } => "Check --api, and that both are of the same version.",
            Self::LostSight { .. } => "Look with `pgsluice status` before doing anything else.",
            Self::Interrupted { .. } => {
                "`pgsluice verify --show` tells how far it is, `pgsluice verify --stop` ends it."
            }
            Self::LostVerification { .. } => {
                "See `pgsluice verify --show`; start it again if that tells of another one: one that is cut off is not gone on with."
            }
            Self::Output(_) => "Look with `pgsluice status`: only what it says is lost.",
        }
        .to_owned()
    }

    /// What is told of it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(self.exit(), self, self.remedy())
    }
}
