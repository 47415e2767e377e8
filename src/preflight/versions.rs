//! `source.version`, `target.version`: which versions this program moves between.

use pgsluice_proto::command::ServerVersion;

use super::Finding;

/// Logical messages, which mark the cutover in the stream, reach pgoutput from here on.
const OLDEST_SOURCE: u32 = 14;
const OLDEST_TARGET: u32 = 15;
/// The newest version this program was tested with.
const NEWEST: u32 = 18;

pub(super) fn judge(source: ServerVersion, target: ServerVersion) -> Vec<Finding> {
    let (source, target) = (source.major(), target.major());
    let mut findings = Vec::new();
    if source < OLDEST_SOURCE {
        findings.push(Finding::blocker(
            "source.version",
            "source",
            format!("The source runs PostgreSQL {source}, which is not supported in this version: its stream cannot carry the cutover's marker."),
            format!("Upgrade the source to PostgreSQL {OLDEST_SOURCE} or newer first."),
        ));
    }
    if target < OLDEST_TARGET {
        findings.push(Finding::blocker(
            "target.version",
            "target",
            format!("The target runs PostgreSQL {target}; CloudNativePG's supported versions begin with {OLDEST_TARGET}."),
            format!("Use a target of PostgreSQL {OLDEST_TARGET} to {NEWEST}."),
        ));
    } else if target < source {
        findings.push(Finding::blocker(
            "target.version",
            "target",
            format!("The target runs PostgreSQL {target}, older than the source's {source}: its schema may not exist there."),
            format!("Use a target of PostgreSQL {source} or newer."),
        ));
    }
    for (id, side, major) in [("source.version", "source", source), ("target.version", "target", target)] {
        if major > NEWEST {
            findings.push(Finding::warning(
                id,
                side,
                format!("The {side} runs PostgreSQL {major}, which is newer than what this version was tested with ({NEWEST})."),
                "Look for a newer version of pgsluice, or rehearse before the cutover.",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn ids(source: u32, target: u32) -> Vec<(&'static str, Severity)> {
        let findings = judge(ServerVersion(source * 10_000), ServerVersion(target * 10_000));
        findings.iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn every_upward_pair_of_supported_versions_passes() {
        for source in 14..=18 {
            for target in source.max(15)..=18 {
                assert_eq!(ids(source, target), [], "{source} to {target}");
            }
        }
    }

    #[test]
    fn old_sources_old_targets_and_downgrades_block() {
        assert_eq!(ids(13, 17), [("source.version", Severity::Blocker)]);
        assert_eq!(ids(14, 14), [("target.version", Severity::Blocker)]);
        assert_eq!(ids(17, 16), [("target.version", Severity::Blocker)]);
        assert_eq!(ids(18, 19), [("target.version", Severity::Warning)]);
    }
}
