//! Whether the copy goes on or pauses, from what was seen of the source and what the operator allows. Pure.

use std::fmt;
use std::time::Duration;

use indicatif::BinaryBytes;

use crate::source::slot::{OldTransaction, TransactionHolder};

/// A pause ends when the pressure is below this share of its limit: a copy that went on right below it would pause
/// again with its next chunk.
const RESUME_PERCENT: u64 = 80;
/// A transaction this old keeps WAL that would be gone without it. Younger ones come and go in every database.
const OLD: Duration = Duration::from_secs(10);

/// What the operator allows; each `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `snapshot.max_wal_retained_bytes`.
    pub wal_retained_bytes: Option<u64>,
    /// `snapshot.max_standby_lag_bytes`.
    pub standby_lag_bytes: Option<u64>,
}

impl Limits {
    /// Whether there is anything to look for.
    #[must_use]
    pub const fn limit_anything(self) -> bool {
        self.wal_retained_bytes.is_some() || self.standby_lag_bytes.is_some()
    }
}

/// What was seen of the source. What is not known stops nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// WAL that our slot keeps; `None` without a slot, or while it keeps none.
    pub wal_retained_bytes: Option<u64>,
    /// The source's oldest transaction that writes: no slot gets past its begin.
    pub oldest_writer: Option<OldTransaction>,
    /// The physical standby that has most to replay; `None` without one, or while none says how far it is.
    pub standby: Option<StandbyBehind>,
    /// Sessions that may be standbys, of which the role may not see how far they are.
    pub hidden_senders: u64,
}

/// A physical standby of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyBehind {
    /// What it calls itself.
    pub application_name: String,
    /// Its walsender on the source.
    pub pid: i32,
    /// WAL of the source that it has not replayed.
    pub lag_bytes: u64,
}

/// Whether the next chunk may begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It may.
    Go,
    /// It waits.
    Pause(Reason),
}

/// Why a chunk waits: with the figures of when the pause began, so that one pause is told once.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The slot keeps more WAL than `snapshot.max_wal_retained_bytes`.
    WalRetained {
        /// Which slot.
        slot: String,
        /// What it keeps.
        retained_bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
        /// The transaction that keeps it from letting WAL go, if one is old enough to be it.
        held_by: Option<OldTransaction>,
    },
    /// A standby is further behind than `snapshot.max_standby_lag_bytes`.
    StandbyLag {
        /// Which, and how far.
        standby: StandbyBehind,
        /// What is allowed.
        limit_bytes: u64,
    },
}

/// Decides, from what was decided `before`. The slot's WAL comes first: a full disk stops the source, a standby that is
/// behind does not.
#[must_use]
pub fn judge(pressure: &Pressure, limits: Limits, slot: &str, before: &Verdict) -> Verdict {
    match wal(pressure, limits, slot, before).or_else(|| standby(pressure, limits, before)) {
        Some(reason) => Verdict::Pause(reason),
        None => Verdict::Go,
    }
}

fn wal(pressure: &Pressure, limits: Limits, slot: &str, before: &Verdict) -> Option<Reason> {
    let (retained_bytes, limit_bytes) = (pressure.wal_retained_bytes?, limits.wal_retained_bytes?);
    let old = pressure.oldest_writer.as_ref().filter(|writer| writer.age.is_none_or(|age| age >= OLD));
    match before {
        Verdict::Pause(reason @ Reason::WalRetained { held_by, .. }) => {
            if !still_over(retained_bytes, limit_bytes) {
                return None;
            }
            if held_by.as_ref().map(|known| &known.holder) == old.map(|old| &old.holder) {
                return Some(reason.clone());
            }
        }
        _ if retained_bytes <= limit_bytes => return None,
        _ => {}
    }
    Some(Reason::WalRetained { slot: slot.to_owned(), retained_bytes, limit_bytes, held_by: old.cloned() })
}

fn standby(pressure: &Pressure, limits: Limits, before: &Verdict) -> Option<Reason> {
    let (standby, limit_bytes) = (pressure.standby.as_ref()?, limits.standby_lag_bytes?);
    match before {
        Verdict::Pause(reason @ Reason::StandbyLag { standby: known, .. }) => {
            if !still_over(standby.lag_bytes, limit_bytes) {
                return None;
            }
            if known.pid == standby.pid {
                return Some(reason.clone());
            }
        }
        _ if standby.lag_bytes <= limit_bytes => return None,
        _ => {}
    }
    Some(Reason::StandbyLag { standby: standby.clone(), limit_bytes })
}

/// Whether a pause goes on.
const fn still_over(bytes: u64, limit_bytes: u64) -> bool {
    bytes >= resumes_below(limit_bytes)
}

const fn resumes_below(limit_bytes: u64) -> u64 {
    // Not by way of a product that may overflow.
    limit_bytes / 100 * RESUME_PERCENT + limit_bytes % 100 * RESUME_PERCENT / 100
}

impl Reason {
    /// What the operator can do, and that nothing need be done if it can wait.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::WalRetained { held_by: Some(old), .. } => format!(
                "{} The WAL since it began is kept for it, whatever the copy does. If the source's disk has room, raise \
                 snapshot.max_wal_retained_bytes and start pgsluice again: it goes on where it was.",
                end(&old.holder)
            ),
            Self::WalRetained { .. } => {
                "Nothing, if it can wait: the copy goes on by itself as soon as the changes so far are applied. If it takes long, see \
                 in `pgsluice status` whether changes are applied; write less on the source, or if its disk has room raise \
                 snapshot.max_wal_retained_bytes and start pgsluice again: it goes on where it was. To give the migration up and free the \
                 WAL at once: `pgsluice cleanup`."
                    .to_owned()
            }
            Self::StandbyLag { standby, .. } => format!(
                "Nothing, if it can wait: the copy goes on by itself when the standby has caught up. If it does not, look on the \
                 standby for a query that holds replay up (SELECT pid, now() - xact_start AS age FROM pg_stat_activity WHERE state <> 'idle' \
                 ORDER BY xact_start;) and for a paused replay (SELECT pg_get_wal_replay_pause_state();), and on the source at \
                 SELECT * FROM pg_stat_replication WHERE pid = {}; or raise snapshot.max_standby_lag_bytes and start pgsluice again: it goes \
                 on where it was.",
                standby.pid
            ),
        }
    }
}

fn end(holder: &TransactionHolder) -> String {
    match holder {
        TransactionHolder::Session { pid, .. } => format!(
            "Have that transaction ended by whoever runs it, or on the source: SELECT pg_terminate_backend({pid});"
        ),
        TransactionHolder::Prepared { gid } => format!(
            "On the source, in its database: COMMIT PREPARED '{0}'; or ROLLBACK PREPARED '{0}';",
            gid.replace('\'', "''")
        ),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WalRetained { slot, retained_bytes, limit_bytes, held_by } => {
                write!(
                    f,
                    "the copy pauses: replication slot \"{slot}\" keeps {} of WAL on the source, and \
                     snapshot.max_wal_retained_bytes allows {}; no new chunk is begun until it keeps less than {}",
                    BinaryBytes(*retained_bytes),
                    BinaryBytes(*limit_bytes),
                    BinaryBytes(resumes_below(*limit_bytes)),
                )?;
                match held_by {
                    Some(old) => write!(f, ". It is held up by a transaction of the source: {old}"),
                    None => Ok(()),
                }
            }
            Self::StandbyLag { standby, limit_bytes } => write!(
                f,
                "the copy pauses: standby \"{}\" of the source (walsender {}) has {} of WAL to replay, and \
                 snapshot.max_standby_lag_bytes allows {}; no new chunk is begun until it is less than {} behind",
                standby.application_name,
                standby.pid,
                BinaryBytes(standby.lag_bytes),
                BinaryBytes(*limit_bytes),
                BinaryBytes(resumes_below(*limit_bytes)),
            ),
        }
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
