//! Blockers the operator takes upon himself: `preflight.waive` turns them into warnings, where that can be waived.
//! Pure.

use super::{Finding, Severity};

/// What can be waived: things that are not moved, or only slow the beginning down. Everything else would lose data
/// or fail later.
pub const WAIVABLE: [&str; 7] = [
    "source.large_objects",
    "source.prepared_transactions",
    "source.subscriptions",
    "source.uncopied_tables",
    "source.unlogged_tables",
    "target.connections",
    "target.extensions",
];

pub(super) fn apply(findings: Vec<Finding>, waived: &[String]) -> Vec<Finding> {
    let is_waived =
        |finding: &Finding| WAIVABLE.contains(&finding.id) && waived.iter().any(|id| id == finding.id);
    let mut judged: Vec<Finding> = findings
        .into_iter()
        .map(|finding| if is_waived(&finding) { waive(finding) } else { finding })
        .collect();
    judged.extend(waived.iter().filter(|id| !WAIVABLE.contains(&id.as_str())).map(|id| {
        Finding::warning(
            "preflight.waive",
            id,
            format!(
                "`{id}` in preflight.waive has no effect: there is no such check, or it cannot be waived."
            ),
            format!("Remove it; what can be waived: {}.", WAIVABLE.join(", ")),
        )
    }));
    judged
}

fn waive(mut finding: Finding) -> Finding {
    if finding.severity == Severity::Blocker {
        finding.severity = Severity::Warning;
        finding.finding.push_str(" Waived.");
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_waived_is() {
        let blocker = |id| Finding::blocker(id, "x", "Found.", "Fix.");
        let findings = vec![blocker("source.unlogged_tables"), blocker("source.wal_level")];
        let waived = ["source.unlogged_tables".to_owned(), "source.wal_level".to_owned()];
        let judged = apply(findings, &waived);
        assert_eq!(judged[0].severity, Severity::Warning);
        assert_eq!(judged[0].finding, "Found. Waived.");
        assert_eq!(judged[1].severity, Severity::Blocker);
        assert_eq!(judged[2].id, "preflight.waive");
    }
}
