//! What a verification has come to is recorded on the target, however often that has to be tried: a restart must not let an older one
//! vouch for rows that are known to differ.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::connection::connect_sql;
use crate::model::Side;
use crate::runtime::Backoff;
use crate::verify::{VerificationReport, VerifyError, records};

/// Tries to record how one ended, and the delays between them.
const RECORD_TRIES_MAX: u32 = 8;
const RECORD_RETRY_FIRST: Duration = Duration::from_millis(200);
const RECORD_RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Records that rows differ as soon as it is known: a crash must not let an older verification vouch for them. Never ends.
pub(super) async fn note_differences(
    config: &Config,
    number: i64,
    mut differs: watch::Receiver<bool>,
) -> Infallible {
    if differs.wait_for(|differs| *differs).await.is_ok() {
        let mut backoff = Backoff::new(RECORD_RETRY_FIRST, RECORD_RETRY_LONGEST);
        let note = async || -> Result<(), VerifyError> {
            let target = connect_sql(&config.target.connection, Side::Target, "verify records").await?;
            Ok(records::note_differences(&target, number).await?)
        };
        while let Err(error) = note().await {
            tracing::debug!(%error, "that rows differ could not be recorded yet");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
    pending().await
}

/// Records how one has ended. What cannot be recorded is told in the log.
pub(super) async fn record_persistently(config: &Config, report: &VerificationReport) {
    let mut backoff = Backoff::new(RECORD_RETRY_FIRST, RECORD_RETRY_LONGEST);
    for tries_left in (0..RECORD_TRIES_MAX).rev() {
        let Err(error) = record(config, report).await else { return };
        if tries_left == 0 {
            let number = report.number;
            tracing::warn!(number, %error, "how the verification ended could not be recorded; a restart knows nothing of it");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn record(config: &Config, report: &VerificationReport) -> Result<(), VerifyError> {
    let target = connect_sql(&config.target.connection, Side::Target, "verify records").await?;
    records::close(&target, report).await?;
    target.close().await;
    Ok(())
}
