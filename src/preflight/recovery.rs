//! `source.recovery`, `target.recovery`: both must be primaries.

use super::Finding;

pub(super) fn judge(source_in_recovery: bool, target_in_recovery: bool) -> Vec<Finding> {
    let source = source_in_recovery.then(|| {
        Finding::blocker(
            "source.recovery",
            "source",
            "The source is a standby: neither a publication nor the cutover's fence can be made there.",
            "Point source.url at the primary, or list all servers with target_session_attrs=primary.",
        )
    });
    let target = target_in_recovery.then(|| {
        Finding::blocker(
            "target.recovery",
            "target",
            "The target is a standby, or still recovering: nothing can be written to it.",
            "Point target.url at the primary (in CloudNativePG: the service <cluster>-rw), or wait for recovery to end.",
        )
    });
    source.into_iter().chain(target).collect()
}
