//! The target's standbys, as its primary sees them, and how far they have flushed its WAL. Only what could be promoted
//! counts: a subscriber, `pg_receivewal` and `pg_basebackup` are in `pg_stat_replication` too and save nothing.
//! Never decides what is done about too few of them.

use std::num::NonZeroU32;

use pgsluice_proto::command::quote_ident;

use crate::connection::SqlSession;
use crate::model::Lsn;

/// A session of `pg_stat_replication` is a standby that counts when
/// - it is in no database: the walsender of a subscriber is in one;
/// - it says what it has replayed: programs that only keep or copy WAL replay nothing;
/// - it has flushed no more than it was sent: a standby with another history (it was ahead of the one that was promoted)
///   connects again and again, and says what it flushed of its own WAL;
/// - and it streams, or catches up: its flushed position holds in both.
///
/// Without the right to see more of others' sessions than their pid, everything else of them is NULL.
const LOOK: &str = "
SELECT pg_current_wal_flush_lsn()::text,
       coalesce(array_agg(flush_lsn::text ORDER BY flush_lsn DESC) FILTER (WHERE counts), '{}'),
       count(*) FILTER (WHERE hidden), current_user::text
  FROM (SELECT r.flush_lsn, r.state IS NULL AS hidden,
               a.datid IS NULL AND r.replay_lsn IS NOT NULL AND r.flush_lsn <= r.sent_lsn
               AND r.state IN ('streaming', 'catchup') AS counts
          FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid)) AS senders";

/// One look at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standbys {
    /// How far the primary itself has flushed.
    primary_flushed: Option<Lsn>,
    /// What each has flushed of the target's WAL, the furthest first.
    flushed: Vec<Lsn>,
    /// Sessions of which the role may not see what they are.
    hidden: u64,
    /// The role that looked.
    role: String,
}

/// Nothing can be confirmed to the source, because standbys of the target are missing or stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyShortage {
    /// Standbys asked for.
    pub wanted: NonZeroU32,
    /// Standbys that are connected.
    pub connected: usize,
    /// The role, if it may not see whether there are more.
    pub blind_role: Option<String>,
}

/// Looks at the standbys of the server that `target` is connected to.
///
/// # Errors
/// What the server answered.
pub async fn look(target: &SqlSession) -> Result<Standbys, tokio_postgres::Error> {
    let row = target.query_typed_one(LOOK, &[]).await?;
    let flushed: Vec<String> = row.get(1);
    Ok(Standbys {
        primary_flushed: row.get::<_, &str>(0).parse().ok(),
        flushed: flushed.iter().filter_map(|text| text.parse().ok()).collect(),
        hidden: u64::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
        role: row.get(3),
    })
}

impl Standbys {
    /// How many are connected.
    #[must_use]
    pub const fn connected(&self) -> usize {
        self.flushed.len()
    }

    /// The same, if the role may see it: `None` where it sees none, and may not see what some sessions are.
    #[must_use]
    pub const fn known_connected(&self) -> Option<usize> {
        if self.flushed.is_empty() && self.hidden > 0 { None } else { Some(self.flushed.len()) }
    }

    /// Bytes of the primary's flushed WAL that the one furthest behind has not flushed; `None` without one.
    #[must_use]
    pub fn lag_bytes(&self) -> Option<u64> {
        let behind = self.flushed.last()?;
        Some(self.primary_flushed?.as_u64().saturating_sub(behind.as_u64()))
    }

    /// How far `wanted` of them, and the primary, have flushed; `None` when fewer are connected.
    #[must_use]
    pub fn flushed_by(&self, wanted: NonZeroU32) -> Option<Lsn> {
        let index = usize::try_from(wanted.get()).ok()?.checked_sub(1)?;
        Some((*self.flushed.get(index)?).min(self.primary_flushed?))
    }

    /// Why `wanted` of them have not flushed what is waited for.
    #[must_use]
    pub fn shortage(&self, wanted: NonZeroU32) -> StandbyShortage {
        let is_blind = self.hidden > 0 && self.flushed_by(wanted).is_none();
        StandbyShortage {
            wanted,
            connected: self.connected(),
            blind_role: is_blind.then(|| self.role.clone()),
        }
    }
}

impl StandbyShortage {
    /// Whether all that were asked for are there, and only stand still.
    #[must_use]
    pub fn all_are_connected(&self) -> bool {
        usize::try_from(self.wanted.get()).is_ok_and(|wanted| self.connected >= wanted)
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        if let Some(role) = &self.blind_role {
            return format!(
                "As a superuser of the target: GRANT pg_read_all_stats TO {};",
                quote_ident(role)
            );
        }
        let what = if self.all_are_connected() {
            "Find out why they receive or flush nothing"
        } else {
            "Bring the missing standby back"
        };
        format!(
            "{what}: SELECT application_name, state, sent_lsn, flush_lsn FROM pg_stat_replication; on the target. It goes on by \
             itself then. Changes are applied meanwhile, and the source keeps its WAL: watch its disk. If a standby will not come \
             back, lower target.standbys, or set target.durability = \"local\", and start pgsluice again."
        )
    }
}

impl std::fmt::Display for StandbyShortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wanted, connected, blind_role } = self;
        write!(
            f,
            "what is applied is not confirmed to the source before {wanted} of the target's standbys {} it, and ",
            if wanted.get() == 1 { "has" } else { "have" }
        )?;
        match blind_role {
            Some(role) => write!(f, "role {role} may not see what they have"),
            None if self.all_are_connected() => match connected {
                1 => write!(f, "the one that is connected does not get further"),
                _ => write!(f, "the {connected} connected do not get further"),
            },
            None => write!(f, "{connected} {} connected", if *connected == 1 { "is" } else { "are" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).expect("not zero")
    }

    fn seen(flushed: &[u64], hidden: u64) -> Standbys {
        Standbys {
            primary_flushed: Some(Lsn::new(500)),
            flushed: flushed.iter().map(|lsn| Lsn::new(*lsn)).collect(),
            hidden,
            role: "app".into(),
        }
    }

    #[test]
    fn as_many_standbys_as_asked_for_have_flushed_the_position() {
        // Trap 3: the fastest standby says nothing about the others.
        let standbys = seen(&[600, 400, 300], 0);
        assert_eq!(standbys.flushed_by(wanted(1)), Some(Lsn::new(500)), "never beyond the primary");
        assert_eq!(standbys.flushed_by(wanted(2)), Some(Lsn::new(400)));
        assert_eq!(standbys.flushed_by(wanted(3)), Some(Lsn::new(300)));
        assert_eq!(standbys.flushed_by(wanted(4)), None);
    }

    #[test]
    fn the_lag_is_that_of_the_one_furthest_behind_and_what_may_not_be_seen_is_not_counted() {
        let standbys = seen(&[600, 400, 300], 1);
        assert_eq!((standbys.known_connected(), standbys.lag_bytes()), (Some(3), Some(200)));
        assert_eq!(seen(&[600], 0).lag_bytes(), Some(0), "ahead by a look is not behind");
        assert_eq!((seen(&[], 0).known_connected(), seen(&[], 0).lag_bytes()), (Some(0), None));
        assert_eq!(seen(&[], 2).known_connected(), None);
    }

    #[test]
    fn a_shortage_says_what_is_missing_and_what_to_do() {
        let missing = seen(&[400], 0).shortage(wanted(2));
        assert!(
            missing.to_string().ends_with("before 2 of the target's standbys have it, and 1 is connected")
        );
        assert!(missing.remedy().starts_with("Bring the missing standby back"));
        let still = seen(&[400], 0).shortage(wanted(1));
        assert!(still.to_string().ends_with("the one that is connected does not get further"));
        assert!(still.remedy().starts_with("Find out why"));
        let blind = seen(&[], 2).shortage(wanted(1));
        assert!(blind.to_string().ends_with("role app may not see what they have"));
        assert!(blind.remedy().ends_with("GRANT pg_read_all_stats TO \"app\";"));
    }
}
