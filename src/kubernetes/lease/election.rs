//! What to do about a Lease, given what was read of it. Pure, and synchronous: the time is passed in, and is that of our own
//! monotonic clock. As in client-go's leader election, the times that stand in a Lease are never compared with it, because they
//! are of another clock: a Lease is over once we have seen it unchanged for as long as it is valid.

use std::time::Instant;

use super::record::{Holder, LeaseRecord};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is none: make it, held by us.
    Create,
    /// Nobody has it any more, by our clock or by the former holder's own word: take it.
    TakeOver,
    /// It is ours: renew it.
    Renew,
    /// Somebody else has it.
    Wait(Holder),
}

/// One process's view of a Lease.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    /// What was seen last, and when it was seen first.
    seen: Option<(LeaseRecord, Instant)>,
}

impl Election {
    /// For a process that nobody else is called like.
    #[must_use]
    pub const fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// Who we are in the Lease.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Decides by what was read just now; `None` if there is no Lease.
    pub fn decide(&mut self, read: Option<&LeaseRecord>, now: Instant) -> Decision {
        let Some(record) = read else {
            self.seen = None;
            return Decision::Create;
        };
        let unchanged_since = match &self.seen {
            Some((seen, since)) if seen.says_the_same_as(record) => *since,
            _ => {
                self.seen = Some((record.clone(), now));
                now
            }
        };
        match &record.holder {
            None => Decision::TakeOver,
            Some(holder) if *holder == self.identity => Decision::Renew,
            Some(_) if now.saturating_duration_since(unchanged_since) >= record.duration => {
                Decision::TakeOver
            }
            Some(holder) => Decision::Wait(record.described(holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(holder: &str, renewal: &str) -> LeaseRecord {
        LeaseRecord {
            holder: (!holder.is_empty()).then(|| holder.to_owned()),
            duration: Duration::from_secs(15),
            // By a clock that is ten years ahead: nobody is to look at it.
            acquired_at: Some("2036-01-01T00:00:00.000000Z".into()),
            renewed_at: Some(format!("2036-01-01T00:00:0{renewal}.000000Z")),
            transitions: 3,
            version: "1".into(),
        }
    }

    fn waits(decision: &Decision) -> bool {
        matches!(decision, Decision::Wait(holder) if holder.identity == "theirs")
    }

    #[test]
    fn what_nobody_has_is_taken_at_once_and_what_is_ours_is_renewed() {
        let now = Instant::now();
        let mut election = Election::new("ours".into());
        assert_eq!(election.decide(None, now), Decision::Create);
        assert_eq!(election.decide(Some(&record("", "1")), now), Decision::TakeOver);
        assert_eq!(election.decide(Some(&record("ours", "2")), now), Decision::Renew);
        // However long we were away: nobody has taken it.
        let late = now + Duration::from_secs(3600);
        assert_eq!(election.decide(Some(&record("ours", "2")), late), Decision::Renew);
    }

    #[test]
    fn another_holder_is_over_when_it_was_seen_unchanged_for_as_long_as_it_is_valid() {
        let begun = Instant::now();
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let mut election = Election::new("ours".into());
        // The first look says nothing of how old it is.
        assert!(waits(&election.decide(Some(&record("theirs", "1")), at(100.0))));
        assert!(waits(&election.decide(Some(&record("theirs", "1")), at(114.9))));
        // Renewed: from the beginning.
        assert!(waits(&election.decide(Some(&record("theirs", "2")), at(115.1))));
        assert!(waits(&election.decide(Some(&record("theirs", "2")), at(130.0))));
        // That somebody has put a label on it is no renewal.
        let mut labelled = record("theirs", "2");
        labelled.version = "9".into();
        assert_eq!(election.decide(Some(&labelled), at(130.2)), Decision::TakeOver);
    }

    #[test]
    fn the_holder_says_how_long_it_is_valid() {
        let begun = Instant::now();
        let mut election = Election::new("ours".into());
        let mut long = record("theirs", "1");
        long.duration = Duration::from_secs(60);
        assert!(waits(&election.decide(Some(&long), begun)));
        assert!(waits(&election.decide(Some(&long), begun + Duration::from_secs(59))));
        assert_eq!(election.decide(Some(&long), begun + Duration::from_secs(60)), Decision::TakeOver);
    }

    #[test]
    fn a_lease_that_was_deleted_and_made_again_by_another_is_waited_for_from_the_beginning() {
        let begun = Instant::now();
        let mut election = Election::new("ours".into());
        assert!(waits(&election.decide(Some(&record("theirs", "1")), begun)));
        assert_eq!(election.decide(None, begun + Duration::from_secs(14)), Decision::Create);
        assert!(waits(&election.decide(Some(&record("theirs", "1")), begun + Duration::from_secs(16))));
    }
}
