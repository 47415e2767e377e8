//! What a cleanup did, as text for a person and as JSON. Pure.

use serde_json::{Value, json};

use super::render::Table;
use crate::cutover::{CleanupAction, CleanupOutcome};

/// A line for each thing, and below it why something stays.
#[must_use]
pub fn cleanup_text(actions: &[CleanupAction]) -> String {
    if actions.is_empty() {
        return "Nothing of pgsluice is left on either side.\n".into();
    }
    let mut table = Table::new(&["SIDE", "WHAT", ""]);
    for action in actions {
        table.row([
            action.side.as_str().to_owned(),
            action.subject.clone(),
            action.outcome.as_str().to_owned(),
        ]);
    }
    let mut text = table.text();
    for action in actions {
        if let CleanupOutcome::Kept { why } = &action.outcome {
            text.push_str(&format!("\n{} on the {} is kept. {why}\n", action.subject, action.side));
        }
    }
    text
}

/// `{"actions": [{"side", "what", "outcome", "why"}]}`.
#[must_use]
pub fn cleanup_json(actions: &[CleanupAction]) -> Value {
    let record = |action: &CleanupAction| {
        let (outcome, why) = match &action.outcome {
            CleanupOutcome::Planned => ("planned", None),
            CleanupOutcome::Removed => ("removed", None),
            CleanupOutcome::Kept { why } => ("kept", Some(why)),
        };
        json!({ "side": action.side.as_str(), "what": action.subject, "outcome": outcome, "why": why })
    };
    json!({ "actions": actions.iter().map(record).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Side;

    #[test]
    fn what_is_kept_is_listed_with_the_reason() {
        let actions = [
            CleanupAction {
                side: Side::Source,
                subject: "replication slot pgsluice".into(),
                outcome: CleanupOutcome::Removed,
            },
            CleanupAction {
                side: Side::Source,
                subject: "fence on 3 tables".into(),
                outcome: CleanupOutcome::Kept { why: "It has moved.".into() },
            },
        ];
        let text = cleanup_text(&actions);
        assert!(text.contains("source  replication slot pgsluice  removed\n"), "{text}");
        assert!(text.ends_with("fence on 3 tables on the source is kept. It has moved.\n"), "{text}");
        assert_eq!(cleanup_json(&actions)["actions"][1]["why"], "It has moved.");
    }
}
