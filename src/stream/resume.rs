//! Whether a stream may go on where the progress record says (INV-4). Pure. A slot that was dropped and made again,
//! a target that lost commits in a failover, another database: each is refused, because going on would lose changes.

use crate::model::{Disposition, Lsn};
use crate::target::progress::Progress;
use crate::target::records::{MigrationIdentity, MigrationRecord};

/// What the source says about itself and the slot, on the very connection that will stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFacts {
    /// `IDENTIFY_SYSTEM.systemid`.
    pub system_id: String,
    /// `IDENTIFY_SYSTEM.timeline`.
    pub timeline: i32,
    /// `IDENTIFY_SYSTEM.xlogpos`: the end of its WAL.
    pub wal_end: Lsn,
    /// The slot, `None` if it is not there.
    pub slot: Option<SlotFacts>,
}

/// The row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotFacts {
    /// Output plugin.
    pub plugin: String,
    /// Database it decodes.
    pub database: String,
    /// Up to here the source was told that everything is safe; `None` while it is being created.
    pub confirmed_lsn: Option<Lsn>,
    /// `wal_status` is `lost`: the WAL it needs is gone.
    pub wal_lost: bool,
}

/// Why the stream must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeRefused {
    /// The slot is gone.
    #[error(
        "replication slot \"{slot}\" does not exist on the source any more, and with it the changes since {progress}"
    )]
    SlotGone {
        /// Its name.
        slot: String,
        /// Where the target is.
        progress: Lsn,
    },
    /// The slot has lost its WAL.
    #[error("replication slot \"{slot}\" has lost WAL that the target still needs (after {progress})")]
    WalLost {
        /// Its name.
        slot: String,
        /// Where the target is.
        progress: Lsn,
    },
    /// The slot is ahead of the target.
    #[error(
        "replication slot \"{slot}\" was confirmed up to {confirmed}, but the target only has changes up to {progress}: those in between are missing"
    )]
    SlotAhead {
        /// Its name.
        slot: String,
        /// The slot's position.
        confirmed: Lsn,
        /// The target's position.
        progress: Lsn,
    },
    /// The slot is somebody else's.
    #[error(
        "replication slot \"{slot}\" belongs to database \"{database}\" and plugin \"{plugin}\", not to this migration"
    )]
    ForeignSlot {
        /// Its name.
        slot: String,
        /// Its database.
        database: String,
        /// Its plugin.
        plugin: String,
    },
    /// Another server answers under the source's address.
    #[error(
        "the source is another server than the one this migration began with (system identifier {found}, recorded {recorded})"
    )]
    OtherSource {
        /// As recorded.
        recorded: String,
        /// As found.
        found: String,
    },
    /// The source was promoted.
    #[error(
        "the source is on timeline {found}, the migration began on timeline {recorded}: a standby of it was promoted, which may have lost commits that the target has"
    )]
    OtherTimeline {
        /// As recorded.
        recorded: i32,
        /// As found.
        found: i32,
    },
    /// The progress record is not there.
    #[error("the target has no progress record for this migration")]
    NoProgress,
}

impl ResumeRefused {
    /// Always a halt: no retry can bring changes back.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        let remedy = match self {
            Self::OtherSource { .. } | Self::ForeignSlot { .. } => {
                "Check source.url, source.slot and target.url: they do not belong to the same migration. Nothing was changed."
            }
            Self::SlotAhead { .. } => {
                "The target has lost commits that were already confirmed, as by a failover to a standby that was behind \
                 (with durability = \"local\"), or the slot was made again. If the target's old primary still has them, bring it back. \
                 Otherwise start over: `pgsluice cleanup`, empty the target, `pgsluice run`; set target.durability = \"standbys\" \
                 so that it cannot happen again."
            }
            Self::SlotGone { .. } | Self::WalLost { .. } | Self::NoProgress => {
                "The changes in between cannot be had any more. Start over: `pgsluice cleanup`, empty the target, `pgsluice run`."
            }
            Self::OtherTimeline { .. } => {
                "Compare source and target before going on. If in doubt, start over: `pgsluice cleanup`, empty the target, \
                 `pgsluice run`."
            }
        };
        Disposition::Halt { remedy: remedy.into() }
    }
}

/// The position to stream from: exactly where the target is, never `max(stored, slot)` (trap 8).
///
/// # Errors
/// [`ResumeRefused`].
pub(super) fn start_position(
    record: &MigrationRecord,
    progress: Option<&Progress>,
    source: &SourceFacts,
) -> Result<Lsn, ResumeRefused> {
    let MigrationIdentity { source_system_id, source_database, slot, .. } = &record.identity;
    let progress = progress.ok_or(ResumeRefused::NoProgress)?;
    for recorded in [source_system_id, &progress.source_system_id] {
        if *recorded != source.system_id {
            return Err(ResumeRefused::OtherSource {
                recorded: recorded.clone(),
                found: source.system_id.clone(),
            });
        }
    }
    if let Some(recorded) = record.source_timeline
        && recorded != source.timeline
    {
        return Err(ResumeRefused::OtherTimeline { recorded, found: source.timeline });
    }
    let position = progress.commit_lsn;
    let Some(found) = &source.slot else {
        return Err(ResumeRefused::SlotGone { slot: slot.clone(), progress: position });
    };
    if found.plugin != "pgoutput" || found.database != *source_database {
        return Err(ResumeRefused::ForeignSlot {
            slot: slot.clone(),
            database: found.database.clone(),
            plugin: found.plugin.clone(),
        });
    }
    if found.wal_lost {
        return Err(ResumeRefused::WalLost { slot: slot.clone(), progress: position });
    }
    match found.confirmed_lsn {
        Some(confirmed) if confirmed > position => {
            Err(ResumeRefused::SlotAhead { slot: slot.clone(), confirmed, progress: position })
        }
        _ => Ok(position),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::records::RecordedPhase;
    use jiff::Timestamp;

    fn facts() -> (MigrationRecord, Progress, SourceFacts) {
        let record = MigrationRecord {
            identity: MigrationIdentity {
                source_system_id: "7001".into(),
                source_database: "shop".into(),
                target_system_id: "7002".into(),
                slot: "pgsluice".into(),
                publication: "pgsluice".into(),
            },
            phase: RecordedPhase::Streaming,
            snapshot_lsn: Some(Lsn::new(100)),
            source_timeline: Some(1),
            created_at: Timestamp::UNIX_EPOCH,
            slot_snapshot: None,
        };
        let progress = Progress {
            source_system_id: "7001".into(),
            slot: "pgsluice".into(),
            commit_lsn: Lsn::new(500),
            lanes: vec![Lsn::new(500)],
            target_wal_end: Lsn::new(9),
        };
        let source = SourceFacts {
            system_id: "7001".into(),
            timeline: 1,
            wal_end: Lsn::new(900),
            slot: Some(SlotFacts {
                plugin: "pgoutput".into(),
                database: "shop".into(),
                confirmed_lsn: Some(Lsn::new(400)),
                wal_lost: false,
            }),
        };
        (record, progress, source)
    }

    #[test]
    fn the_stream_goes_on_from_the_targets_progress_and_not_from_the_slots() {
        let (record, progress, source) = facts();
        assert_eq!(start_position(&record, Some(&progress), &source), Ok(Lsn::new(500)));
    }

    #[test]
    fn a_slot_ahead_of_the_target_is_refused() {
        // INV-4; traps 3 and 8: a failover lost commits, or the slot was dropped and made again.
        let (record, progress, mut source) = facts();
        if let Some(slot) = &mut source.slot {
            slot.confirmed_lsn = Some(Lsn::new(501));
        }
        let refused = start_position(&record, Some(&progress), &source);
        assert!(matches!(refused, Err(ResumeRefused::SlotAhead { .. })));
    }

    #[test]
    fn another_server_database_timeline_or_a_lost_slot_is_refused() {
        let (record, progress, source) = facts();
        let refusal = |change: fn(&mut SourceFacts)| {
            let mut changed = source.clone();
            change(&mut changed);
            start_position(&record, Some(&progress), &changed).expect_err("it is refused")
        };
        assert!(matches!(refusal(|facts| facts.system_id = "8".into()), ResumeRefused::OtherSource { .. }));
        assert!(matches!(refusal(|facts| facts.timeline = 2), ResumeRefused::OtherTimeline { .. }));
        assert!(matches!(refusal(|facts| facts.slot = None), ResumeRefused::SlotGone { .. }));
        let foreign = refusal(|facts| {
            if let Some(slot) = &mut facts.slot {
                slot.database = "other".into();
            }
        });
        assert!(matches!(foreign, ResumeRefused::ForeignSlot { .. }));
        let lost = refusal(|facts| {
            if let Some(slot) = &mut facts.slot {
                slot.wal_lost = true;
            }
        });
        assert!(matches!(lost, ResumeRefused::WalLost { .. }));
        assert_eq!(start_position(&record, None, &source), Err(ResumeRefused::NoProgress));
    }
}
