//! What a comparison has to say: how much was compared, what differs, what was not looked at. Bounded: of a target that has
//! nothing the first differences are enough, and all are counted.

use std::collections::BTreeMap;

use super::object::ObjectKind;

/// How many differences a report keeps, and how many notes; all are counted.
pub const KEPT_MAX: usize = 1_000;

/// How much a difference matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know: applications would not notice, or it is as the versions are.
    Note,
    /// The target is not like the source.
    Difference,
}

impl Severity {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Difference => "difference",
        }
    }
}

/// One thing in which the target is not like the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructuralDifference {
    /// What kind of object it is about.
    pub kind: ObjectKind,
    /// Its name, quoted, as SQL addresses it.
    pub object: String,
    /// What differs, in sentences. Never a value of a row; defaults and checks are definitions.
    pub what: String,
    /// SQL for the target that makes it like the source: one statement, or those that belong together, each on a line of its
    /// own. `None` if there is none that could be run as it is: `what` says what to do.
    pub fix: Option<String>,
    /// How much it matters.
    pub severity: Severity,
}

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StructureReport {
    /// How many objects of the source were compared, by kind.
    pub compared: BTreeMap<ObjectKind, usize>,
    /// Differences and notes, at most [`KEPT_MAX`] of each, in the order in which their fixes can be run.
    pub differences: Vec<StructuralDifference>,
    /// How many differences there are, kept or not.
    pub differences_found: usize,
    /// How many notes.
    pub notes_found: usize,
    /// What was not compared because the two versions do not allow it, as sentences.
    pub not_compared: Vec<String>,
}

impl StructureReport {
    /// How many objects were compared.
    #[must_use]
    pub fn objects_compared(&self) -> usize {
        self.compared.values().sum()
    }

    /// Whether the target is like the source. Nothing compared is nothing proven.
    #[must_use]
    pub fn is_alike(&self) -> bool {
        self.differences_found == 0 && self.objects_compared() > 0
    }

    pub(super) fn add(&mut self, difference: StructuralDifference) {
        let found = match difference.severity {
            Severity::Difference => &mut self.differences_found,
            Severity::Note => &mut self.notes_found,
        };
        *found += 1;
        if *found <= KEPT_MAX {
            self.differences.push(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_notes_leave_room_for_differences() {
        let mut report = StructureReport::default();
        assert!(!report.is_alike(), "nothing was compared");
        report.compared.insert(ObjectKind::Table, 1);
        let of = |severity| StructuralDifference {
            kind: ObjectKind::Table,
            object: "\"t\"".to_owned(),
            what: "It is missing.".to_owned(),
            fix: None,
            severity,
        };
        for _ in 0..KEPT_MAX + 5 {
            report.add(of(Severity::Note));
        }
        assert!(report.is_alike());
        report.add(of(Severity::Difference));
        assert!(!report.is_alike());
        assert_eq!((report.notes_found, report.differences_found), (KEPT_MAX + 5, 1));
        assert_eq!(report.differences.len(), KEPT_MAX + 1);
    }
}
