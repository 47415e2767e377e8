//! Whether a verification vouches for the rows that a cutover is about to move clients to, and until when. Pure: the clock is given.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::model::counted;
use crate::verify::{Scope, VerificationOutcome, VerificationReport};

/// What vouches for the rows, as the certificate says it.
pub(super) type Voucher = Value;

/// Why the last verification does not vouch for the rows; `None` if it does.
pub(super) fn trouble_with(
    last: Option<&VerificationReport>,
    age_max: Duration,
    now: Timestamp,
) -> Option<String> {
    let Some(last) = last else { return Some("the rows were never verified".into()) };
    let ended_at = last.ended_at.unwrap_or(last.started_at);
    let (number, hours) = (last.number, age_max.as_secs() / 3_600);
    match &last.outcome {
        VerificationOutcome::Clean if last.scope == Scope::Structure => {
            Some(format!("the last verification ({number}) compared no rows"))
        }
        VerificationOutcome::Clean if age_of(ended_at, now) <= age_max => None,
        VerificationOutcome::Clean => Some(format!(
            "the last verification ({number}) ended at {ended_at}, more than {hours} h ago (verify.max_age_hours)"
        )),
        VerificationOutcome::Differences => Some(format!(
            "the last verification ({number}) found {} on both sides",
            counted(
                usize::try_from(last.differences).unwrap_or(usize::MAX),
                "row that is not the same",
                "rows that are not the same"
            )
        )),
        VerificationOutcome::Incomplete { reason, .. } => {
            Some(format!("the last verification ({number}) was not completed: {reason}"))
        }
        VerificationOutcome::Running => Some(format!("the verification {number} is running")),
    }
}

/// Until when it vouches for the rows; `None` if it does not.
pub(super) fn valid_until(last: Option<&VerificationReport>, age_max: Duration) -> Option<Timestamp> {
    let ended_at = last?.ended_at?;
    let vouches = trouble_with(last, age_max, ended_at).is_none();
    vouches.then(|| ended_at.checked_add(age_max).unwrap_or(Timestamp::MAX))
}

/// What the certificate says: what was in the way and was not heeded, and the verification itself.
pub(super) fn certified(overridden: Option<String>, last: Option<&VerificationReport>) -> Voucher {
    json!({
        "overridden": overridden,
        "last": last.map(summary),
    })
}

fn summary(report: &VerificationReport) -> Value {
    json!({
        "number": report.number,
        "outcome": report.outcome.as_str(),
        "ended_at": report.ended_at.map(|at| at.to_string()),
        "tables_compared": report.tables_compared,
        "rows_compared": report.rows_compared,
        "differences": report.differences,
        "structural_differences": report.structural_differences(),
        "first_lsn": report.lsn.map(|(first, _)| first.to_string()),
        "last_lsn": report.lsn.map(|(_, last)| last.to_string()),
    })
}

/// How long ago that was; no time if it is still to come.
pub(super) fn age_of(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at).max(SignedDuration::ZERO)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Direction;

    fn ended(outcome: VerificationOutcome, at: &str) -> VerificationReport {
        let at: Timestamp = at.parse().unwrap();
        let begun = VerificationReport::begun(7, Direction::Forward, Scope::Everything, at);
        VerificationReport { outcome, ended_at: Some(at), ..begun }
    }

    #[test]
    fn only_a_clean_one_that_is_young_vouches_for_the_rows() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let day = Duration::from_secs(24 * 3_600);
        let trouble = |report: Option<&VerificationReport>| trouble_with(report, day, now);
        let clean = |at| ended(VerificationOutcome::Clean, at);
        assert_eq!(trouble(Some(&clean("2026-03-01T11:00:00Z"))), None);
        assert_eq!(trouble(Some(&clean("2026-02-28T12:00:00Z"))), None);
        assert!(trouble(Some(&clean("2026-02-28T11:59:59Z"))).unwrap().contains("24 h"));
        assert!(trouble(None).unwrap().contains("never"));
        let structure = VerificationReport { scope: Scope::Structure, ..clean("2026-03-01T11:00:00Z") };
        assert!(trouble(Some(&structure)).unwrap().contains("no rows"));
        let differs = ended(VerificationOutcome::Differences, "2026-03-01T11:00:00Z");
        assert!(trouble(Some(&differs)).unwrap().contains("not the same"));
        let reason = VerificationOutcome::Incomplete { reason: "a lock".into(), remedy: String::new() };
        assert!(trouble(Some(&ended(reason.clone(), "2026-03-01T11:00:00Z"))).unwrap().contains("a lock"));

        let until = |report: Option<&VerificationReport>| valid_until(report, day).map(|at| at.to_string());
        assert_eq!(until(Some(&clean("2026-02-28T11:00:00Z"))).as_deref(), Some("2026-03-01T11:00:00Z"));
        for report in [None, Some(&structure), Some(&differs), Some(&ended(reason, "2026-03-01T11:00:00Z"))] {
            assert_eq!(until(report), None);
        }
    }
}
