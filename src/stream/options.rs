//! What is asked of the source in one attempt to stream: whether values come in binary form, and whether transactions
//! come while they run. What turned out not to work is not asked for again while this process lives.

use pgsluice_proto::command::{PgoutputOptions, Streaming};
use pgsluice_proto::pgoutput::ProtocolVersion;
use tokio_postgres::error::SqlState;

use crate::config::{BinaryMode, Config, StreamInProgress};
use crate::connection::{SqlSession, connect_sql};
use crate::model::Side;

use super::error::StreamError;
use super::spool::Spool;
use super::value_format::{ValueFormat, decide};

/// What an attempt asks for, and what it needs for that.
#[derive(Debug)]
pub(super) struct Asked {
    /// How values are sent.
    pub format: ValueFormat,
    /// Where transactions that have not ended are kept; `None` if they are not asked for.
    pub spool: Option<Spool>,
}

/// What is not asked for any more, by experience.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Withdrawn {
    binary: bool,
    in_progress: bool,
}

/// What an error says about the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// Nothing.
    None,
    /// The next attempt asks for less, and can begin at once.
    AskForLess,
}

impl Withdrawn {
    /// Draws the lesson of a failed attempt.
    pub(super) fn learn(&mut self, error: &StreamError) -> Lesson {
        match error {
            StreamError::NotBinary(difference) if !self.binary => {
                self.binary = true;
                tracing::info!(reason = %difference, "values are sent as text from here on");
                Lesson::AskForLess
            }
            // The target was altered under a running stream: what it makes of the value's text is the answer that counts.
            StreamError::Apply { table, error, .. } if !self.binary && refuses_binary(error) => {
                self.binary = true;
                tracing::info!(%table, "the target no longer takes this table's binary values; values are sent as text from here on");
                Lesson::AskForLess
            }
            StreamError::Spool(error) if !self.in_progress => {
                self.in_progress = true;
                tracing::warn!(
                    %error,
                    "transactions are streamed only once they have committed from here on, until pgsluice is started again; nothing is lost"
                );
                Lesson::AskForLess
            }
            _ => Lesson::None,
        }
    }

    /// Decides what the next attempt asks for.
    ///
    /// # Errors
    /// [`StreamError::Connect`] if the source's catalog cannot be asked.
    pub(super) async fn choose(
        &mut self,
        config: &Config,
        publication: &str,
        target: &SqlSession,
    ) -> Result<Asked, StreamError> {
        let format = if self.binary || config.source.binary == BinaryMode::Off {
            ValueFormat::Text
        } else {
            choose_format(config, publication, target).await?
        };
        Ok(Asked { format, spool: self.make_spool(config) })
    }

    fn make_spool(&mut self, config: &Config) -> Option<Spool> {
        let StreamInProgress::On(settings) = &config.source.stream_in_progress else { return None };
        if self.in_progress {
            return None;
        }
        match Spool::create(settings) {
            Ok(spool) => Some(spool),
            Err(error) => {
                self.learn(&StreamError::Spool(error));
                None
            }
        }
    }
}

impl Asked {
    /// What the plugin is told. Version 2 is the least that has streaming, and later ones add nothing that is used.
    #[must_use]
    pub(super) fn plugin_options(&self, publication: &str) -> PgoutputOptions {
        let mut options = PgoutputOptions::new(vec![publication.to_owned()]);
        options.messages = true;
        options.binary = matches!(self.format, ValueFormat::Binary(_));
        options.proto_version = self.protocol();
        if self.spool.is_some() {
            options.streaming = Streaming::On;
        }
        options
    }

    /// The version of the messages.
    #[must_use]
    pub(super) const fn protocol(&self) -> ProtocolVersion {
        match self.spool {
            Some(_) => ProtocolVersion::V2,
            None => ProtocolVersion::V1,
        }
    }

    /// The format, for the log.
    #[must_use]
    pub(super) const fn format_name(&self) -> &'static str {
        match self.format {
            ValueFormat::Text => "text",
            ValueFormat::Binary(_) => "binary",
        }
    }
}

/// The same options for transactions that come whole, as the SQL functions send them.
#[must_use]
pub(super) fn whole_transactions(options: &PgoutputOptions) -> PgoutputOptions {
    PgoutputOptions { proto_version: ProtocolVersion::V1, streaming: Streaming::Off, ..options.clone() }
}

async fn choose_format(
    config: &Config,
    publication: &str,
    target: &SqlSession,
) -> Result<ValueFormat, StreamError> {
    let source = connect_sql(&config.source.connection, Side::Source, "catalog")
        .await
        .map_err(|error| StreamError::Connect { side: Side::Source, error: Box::new(error) })?;
    let decided = decide(&source, target, publication).await;
    source.close().await;
    Ok(match decided {
        Ok(Ok(types)) => ValueFormat::Binary(types),
        Ok(Err(difference)) => {
            tracing::debug!(reason = %difference, "values are sent as text");
            ValueFormat::Text
        }
        Err(error) => {
            tracing::warn!(%error, "the catalogs cannot be compared; values are sent as text");
            ValueFormat::Text
        }
    })
}

/// Whether the target could not read a value in binary form.
fn refuses_binary(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(code) if *code == SqlState::INVALID_BINARY_REPRESENTATION || *code == SqlState::PROTOCOL_VIOLATION
    )
}
