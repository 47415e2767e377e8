//! What a verification tells: how far it is, what it compared, and every row that is not the same, by table, key, kind and columns.
//! Values other than those of keys are in none of it.

use std::time::Duration;

use jiff::Timestamp;

use super::difference::DifferenceKind;
use super::structure::{Severity, StructuralDifference, StructureReport};
use crate::model::{Direction, Lsn, TableName};

/// Rows that are told one by one; beyond, they are counted (INV-11).
pub const ROWS_TOLD_MAX: usize = 1_000;

/// How a verification stands, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationOutcome {
    /// Under way.
    Running,
    /// Every row was compared, and is the same. What differs of the structure is told beside it.
    Clean,
    /// Rows differ; or, where only structure was compared, that does.
    Differences,
    /// Not everything could be compared; what was is the same.
    Incomplete {
        /// What could not be, and why.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

impl VerificationOutcome {
    /// The name in the API, the metrics and the records.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Clean => "clean",
            Self::Differences => "differences",
            Self::Incomplete { .. } => "incomplete",
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Rows and structure.
    #[default]
    Everything,
    /// Rows alone.
    Rows,
    /// Structure alone.
    Structure,
}

impl Scope {
    /// The name in the API and the records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Rows => "rows",
            Self::Structure => "structure",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Everything, Self::Rows, Self::Structure].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDifference {
    /// Its table, as the source calls it; of rows that only the target can have, as the target does.
    pub table: TableName,
    /// How it differs.
    pub kind: DifferenceKind,
    /// The columns of its key with their values; of a row without a key its place (`ctid`) on the side that has it; empty
    /// where rows are counted, and not told apart.
    pub key: Vec<(String, String)>,
    /// The columns that are not the same; empty unless both sides have the row.
    pub columns: Vec<String>,
    /// How many equal rows; more than one only without a key.
    pub count: u64,
}

impl RowDifference {
    /// Rows of a table that are not told apart.
    pub(super) const fn of_table(table: TableName, kind: DifferenceKind, count: u64) -> Self {
        Self { table, kind, key: Vec::new(), columns: Vec::new(), count }
    }
}

/// A table with rows that are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableComparison {
    /// As the source calls it.
    pub table: TableName,
    /// Rows that are not the same.
    pub differences: u64,
}

/// A verification, while it runs and afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct VerificationReport {
    /// Counts up with each one, kept on the target.
    pub number: i64,
    /// In which direction changes went.
    pub direction: Direction,
    /// What is compared.
    pub scope: Scope,
    /// How it stands.
    pub outcome: VerificationOutcome,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Tables to compare.
    pub tables_total: u64,
    /// Tables that are compared.
    pub tables_compared: u64,
    /// Rows of the source that were compared.
    pub rows_compared: u64,
    /// Size of the tables on the source, in bytes, with TOAST and without indexes.
    pub bytes_total: u64,
    /// The part of it that is compared, as far as sizes tell.
    pub bytes_compared: u64,
    /// The first and the last position of the source's WAL as of which rows were compared.
    pub lsn: Option<(Lsn, Lsn)>,
    /// Rows that are not the same, as far as they were looked for.
    pub differences: u64,
    /// There may be more: where very many differ, it is not looked for all of them.
    pub is_at_least: bool,
    /// The first of them, one by one.
    pub rows: Vec<RowDifference>,
    /// Tables that have any, and how many.
    pub differing_tables: Vec<TableComparison>,
    /// Rows that differed under a pair of snapshots, were in flight, and were looked at again.
    pub rows_looked_at_again: u64,
    /// Rows that were repaired before anything was compared.
    pub rows_repaired: u64,
    /// Tables with rows that were to be repaired and were not, with the reason.
    pub not_repaired: Vec<(TableName, String)>,
    /// Tables that were not compared, or not as a whole, with the reason.
    pub left_out: Vec<(TableName, String)>,
    /// The longest time that a pair of snapshots was held.
    pub longest_snapshot: Duration,
    /// Pairs of snapshots that were taken.
    pub snapshots: u64,
    /// How the structure of both sides compares; `None` until it is known.
    pub structure: Option<StructureComparison>,
}

/// How the structure of both sides compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StructureComparison {
    /// Objects of the source that were compared.
    pub objects: u64,
    /// What is not the same.
    pub differences: Vec<StructureDifference>,
    /// How many there are that are more than remarks, told or not.
    pub differences_total: u64,
    /// What could not be compared because of the servers' versions, in sentences.
    pub not_compared: Vec<String>,
}

/// An object that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructureDifference {
    /// What kind of object, e.g. `index`.
    pub kind: String,
    /// Its name, quoted.
    pub object: String,
    /// What is different.
    pub what: String,
    /// The statement for the target that makes it the same.
    pub fix: Option<String>,
    /// Whether it is only remarked: it makes no verification fail.
    pub is_note: bool,
}

impl From<StructureReport> for StructureComparison {
    fn from(report: StructureReport) -> Self {
        let objects = report.objects_compared() as u64;
        let difference = |difference: StructuralDifference| StructureDifference {
            kind: difference.kind.to_string(),
            object: difference.object,
            what: difference.what,
            fix: difference.fix,
            is_note: difference.severity == Severity::Note,
        };
        Self {
            objects,
            differences: report.differences.into_iter().map(difference).collect(),
            differences_total: report.differences_found as u64,
            not_compared: report.not_compared,
        }
    }
}

impl VerificationReport {
    /// One that begins now.
    #[must_use]
    pub fn begun(number: i64, direction: Direction, scope: Scope, now: Timestamp) -> Self {
        Self {
            number,
            direction,
            scope,
            outcome: VerificationOutcome::Running,
            started_at: now,
            ended_at: None,
            tables_total: 0,
            tables_compared: 0,
            rows_compared: 0,
            bytes_total: 0,
            bytes_compared: 0,
            lsn: None,
            differences: 0,
            is_at_least: false,
            rows: Vec::new(),
            differing_tables: Vec::new(),
            rows_looked_at_again: 0,
            rows_repaired: 0,
            not_repaired: Vec::new(),
            left_out: Vec::new(),
            longest_snapshot: Duration::ZERO,
            snapshots: 0,
            structure: None,
        }
    }

    /// Whether it says if rows are the same.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        let is_decided =
            matches!(self.outcome, VerificationOutcome::Clean | VerificationOutcome::Differences);
        is_decided && self.scope != Scope::Structure
    }

    /// Differences of structure that are more than remarks.
    #[must_use]
    pub fn structural_differences(&self) -> u64 {
        self.structure.as_ref().map_or(0, |structure| structure.differences_total)
    }

    /// Adds what one comparison of a table has found.
    pub fn found(&mut self, table: &TableName, rows: Vec<RowDifference>, count: u64) {
        if count == 0 {
            return;
        }
        self.differences += count;
        let room = ROWS_TOLD_MAX.saturating_sub(self.rows.len());
        self.rows.extend(rows.into_iter().take(room));
        match self.differing_tables.iter_mut().find(|each| each.table == *table) {
            Some(known) => known.differences += count,
            None => self.differing_tables.push(TableComparison { table: table.clone(), differences: count }),
        }
    }

    /// A table could not be compared, or not all of it.
    pub fn not_compared(&mut self, table: &TableName, reason: String) {
        if !self.left_out.iter().any(|(known, _)| known == table) {
            self.left_out.push((table.clone(), reason));
        }
    }

    /// A pair of snapshots was held for so long, as of this position.
    pub fn held(&mut self, lsn: Lsn, held: Duration) {
        self.snapshots += 1;
        self.longest_snapshot = self.longest_snapshot.max(held);
        let (first, last) = self.lsn.unwrap_or((lsn, lsn));
        self.lsn = Some((first.min(lsn), last.max(lsn)));
    }

    /// A pair of snapshots was held for so long, and nothing came of it.
    pub fn held_in_vain(&mut self, held: Duration) {
        self.snapshots += 1;
        self.longest_snapshot = self.longest_snapshot.max(held);
    }

    /// The rest is compared, or cannot be.
    pub fn end(&mut self, now: Timestamp, trouble: Option<(String, String)>) {
        self.ended_at = Some(now);
        let nothing_compared = self.scope != Scope::Structure && self.rows_compared == 0;
        let differs =
            self.differences > 0 || (self.scope == Scope::Structure && self.structural_differences() > 0);
        self.outcome = if differs {
            VerificationOutcome::Differences
        } else if let Some((reason, remedy)) = trouble {
            VerificationOutcome::Incomplete { reason, remedy }
        } else if let Some((table, reason)) = self.left_out.first() {
            VerificationOutcome::Incomplete {
                reason: format!("table {} was not compared: {reason}", table.plain()),
                remedy: "`pgsluice tables` says what is in the way; then start the verification again."
                    .into(),
            }
        } else if nothing_compared {
            VerificationOutcome::Incomplete {
                reason: "no row was compared".into(),
                remedy: "See that the migration has tables with rows (`pgsluice tables`).".into(),
            }
        } else {
            VerificationOutcome::Clean
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableName {
        TableName::new("public", "t")
    }

    fn report(scope: Scope) -> VerificationReport {
        VerificationReport::begun(1, Direction::Forward, scope, Timestamp::UNIX_EPOCH)
    }

    fn compared(rows_compared: u64) -> VerificationReport {
        VerificationReport { rows_compared, ..report(Scope::Everything) }
    }

    fn structure(differences_total: u64) -> Option<StructureComparison> {
        Some(StructureComparison { differences_total, ..StructureComparison::default() })
    }

    fn outcome(mut report: VerificationReport, trouble: Option<&str>) -> VerificationOutcome {
        report.end(Timestamp::UNIX_EPOCH, trouble.map(|reason| (reason.to_owned(), "Again.".to_owned())));
        report.outcome
    }

    fn reason(report: VerificationReport, trouble: Option<&str>) -> String {
        match outcome(report, trouble) {
            VerificationOutcome::Incomplete { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_was_compared_whole_is_clean() {
        assert_eq!(outcome(compared(5), None), VerificationOutcome::Clean);
        assert_eq!(reason(compared(5), Some("it was stopped")), "it was stopped");
        assert_eq!(reason(compared(0), None), "no row was compared");
        let left_out = VerificationReport { left_out: vec![(table(), "a lock".into())], ..compared(5) };
        assert_eq!(reason(left_out, None), "table public.t was not compared: a lock");
    }

    #[test]
    fn a_difference_is_told_whatever_else_happened() {
        let mut differs = compared(5);
        differs.found(&table(), Vec::new(), 1);
        differs.left_out.push((table(), "a lock".into()));
        assert_eq!(outcome(differs, Some("it was stopped")), VerificationOutcome::Differences);
    }

    #[test]
    fn structure_decides_only_where_nothing_else_was_compared() {
        let rows_too = VerificationReport { structure: structure(1), ..compared(5) };
        assert_eq!(outcome(rows_too, None), VerificationOutcome::Clean);
        let of = |differences| VerificationReport {
            structure: structure(differences),
            ..report(Scope::Structure)
        };
        assert_eq!(outcome(of(0), None), VerificationOutcome::Clean);
        assert_eq!(outcome(of(1), None), VerificationOutcome::Differences);
    }

    #[test]
    fn only_compared_rows_are_conclusive() {
        let ended = |scope, outcome| VerificationReport { outcome, ..report(scope) };
        let incomplete = VerificationOutcome::Incomplete { reason: String::new(), remedy: String::new() };
        for scope in [Scope::Everything, Scope::Rows] {
            assert!(ended(scope, VerificationOutcome::Clean).is_conclusive());
            assert!(ended(scope, VerificationOutcome::Differences).is_conclusive());
        }
        assert!(!ended(Scope::Structure, VerificationOutcome::Clean).is_conclusive());
        assert!(!ended(Scope::Rows, VerificationOutcome::Running).is_conclusive());
        assert!(!ended(Scope::Rows, incomplete).is_conclusive());
    }

    #[test]
    fn rows_beyond_those_that_are_told_are_counted() {
        let row = RowDifference {
            table: table(),
            kind: DifferenceKind::Missing,
            key: Vec::new(),
            columns: Vec::new(),
            count: 1,
        };
        let mut report = compared(5_000);
        for _ in 0..2 {
            report.found(&table(), vec![row.clone(); 800], 900);
        }
        report.found(&TableName::new("public", "other"), Vec::new(), 0);
        assert_eq!((report.rows.len(), report.differences), (ROWS_TOLD_MAX, 1_800));
        assert_eq!(report.differing_tables, [TableComparison { table: table(), differences: 1_800 }]);
    }

    #[test]
    fn positions_and_times_span_all_pairs_of_snapshots() {
        let mut report = compared(5);
        for (lsn, seconds) in [(20, 2), (10, 3), (30, 1)] {
            report.held(Lsn::new(lsn), Duration::from_secs(seconds));
        }
        assert_eq!(report.lsn, Some((Lsn::new(10), Lsn::new(30))));
        assert_eq!((report.snapshots, report.longest_snapshot), (3, Duration::from_secs(3)));
    }
}
