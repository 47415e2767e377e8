//! Which rows of a table are compared at a time, and how they are cut smaller. Pure.

use pgsluice_proto::command::{quote_ident, quote_literal};

/// Parts of a table at most: each reads all of its rows and hashes their keys, so that more would hardly take less time each.
pub(super) const PARTS_MAX: u64 = 16;
/// What takes too long is cut into so many.
pub(super) const CUT_INTO: u64 = 4;

/// Which rows of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Portion {
    /// All.
    #[default]
    All,
    /// Those of a range of keys, which an index finds.
    Range(Range),
    /// Those whose key's hash ends like this number, of so many, a power of two: the whole table is read for them.
    Part { number: u64, of: u64 },
}

impl Portion {
    /// The same rows, cut into parts; empty if there are too many of them already.
    pub(super) fn in_parts(&self) -> Vec<Self> {
        let (number, of) = match self {
            Self::Part { number, of } => (*number, *of),
            Self::All => (0, 1),
            Self::Range(_) => return Vec::new(),
        };
        if of * CUT_INTO > PARTS_MAX {
            return Vec::new();
        }
        (0..CUT_INTO).map(|each| Self::Part { number: number + each * of, of: of * CUT_INTO }).collect()
    }
}

/// Values of the columns that a table is ranged by, printed.
pub(super) type Bound = Vec<String>;

/// Those whose key is at least the one bound and less than the other, in the order of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: Option<Bound>,
    pub(super) end: Option<Bound>,
}

impl Range {
    /// The ranges between these bounds, which are in it and ordered, and beyond them.
    pub(super) fn cut(&self, bounds: Vec<Bound>) -> Vec<Self> {
        let mut ranges = Vec::with_capacity(bounds.len() + 1);
        let mut first = self.first.clone();
        for bound in bounds {
            ranges.push(Self { first: first.replace(bound.clone()), end: Some(bound) });
        }
        ranges.push(Self { first, end: self.end.clone() });
        ranges
    }

    /// The conditions on these columns. A literal takes its column's type.
    ///
    /// What both bounds have in common is said to be equal, and of several columns the first is bounded by itself as well: it changes
    /// nothing, and tells the planner how few rows there are, which it does not see in a comparison of rows.
    pub(super) fn conditions(&self, columns: &[String]) -> Vec<String> {
        let common = match (&self.first, &self.end) {
            (Some(first), Some(end)) => first.iter().zip(end).take_while(|(first, end)| first == end).count(),
            _ => 0,
        };
        let common = common.min(columns.len().saturating_sub(1));
        let mut conditions = Vec::new();
        if let Some(first) = &self.first {
            conditions.extend(
                columns.iter().zip(first).take(common).map(|(name, value)| compare(name, "=", value)),
            );
        }
        let rest = &columns[common..];
        for (bound, operator, loosely) in [(&self.first, ">=", ">="), (&self.end, "<", "<=")] {
            let Some(values) = bound.as_ref().and_then(|values| values.get(common..)) else { continue };
            if let ([name], [value]) = (rest, values) {
                conditions.push(compare(name, operator, value));
            } else if let (Some(name), Some(value)) = (rest.first(), values.first()) {
                conditions.push(compare(name, loosely, value));
                let names: Vec<String> = rest.iter().map(|name| quote_ident(name)).collect();
                let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
                conditions.push(format!("({}) {operator} ({})", names.join(", "), values.join(", ")));
            }
        }
        conditions
    }
}

fn compare(name: &str, operator: &str, value: &str) -> String {
    format!("{} {operator} {}", quote_ident(name), quote_literal(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(values: &[&str]) -> Bound {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn range(first: &[&str], end: &[&str]) -> Range {
        let of = |values: &[&str]| (!values.is_empty()).then(|| bound(values));
        Range { first: of(first), end: of(end) }
    }

    #[test]
    fn ranges_leave_no_row_out() {
        assert_eq!(Range::default().cut(Vec::new()), [Range::default()]);
        let bounds = || vec![bound(&["5"]), bound(&["9"])];
        assert_eq!(
            Range::default().cut(bounds()),
            [range(&[], &["5"]), range(&["5"], &["9"]), range(&["9"], &[])]
        );
        assert_eq!(
            range(&["2"], &["10"]).cut(bounds()),
            [range(&["2"], &["5"]), range(&["5"], &["9"]), range(&["9"], &["10"])]
        );
    }

    #[test]
    fn parts_of_parts_leave_no_row_out() {
        let mut portions = vec![Portion::All];
        while let [first, ..] = &portions[..]
            && !first.in_parts().is_empty()
        {
            portions = portions.iter().flat_map(Portion::in_parts).collect();
        }
        let mut numbers: Vec<u64> = portions
            .iter()
            .map(|portion| match portion {
                Portion::Part { number, of: PARTS_MAX } => *number,
                other => panic!("{other:?}"),
            })
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..PARTS_MAX).collect::<Vec<u64>>());
    }

    #[test]
    fn one_column_is_compared_by_itself() {
        let columns = bound(&["id"]);
        assert_eq!(Range::default().conditions(&columns), Vec::<String>::new());
        assert_eq!(range(&["5"], &["9"]).conditions(&columns), [r#""id" >= '5'"#, r#""id" < '9'"#]);
        assert_eq!(range(&["5"], &["5"]).conditions(&columns), [r#""id" >= '5'"#, r#""id" < '5'"#]);
    }

    #[test]
    fn several_columns_are_compared_as_rows_and_the_first_by_itself() {
        let columns = bound(&["a", "b", "c"]);
        assert_eq!(
            range(&["1", "2", "3"], &["4", "5", "6"]).conditions(&columns),
            [
                r#""a" >= '1'"#,
                r#"("a", "b", "c") >= ('1', '2', '3')"#,
                r#""a" <= '4'"#,
                r#"("a", "b", "c") < ('4', '5', '6')"#
            ]
        );
        assert_eq!(
            range(&["1", "2", "3"], &["1", "5", "6"]).conditions(&columns),
            [
                r#""a" = '1'"#,
                r#""b" >= '2'"#,
                r#"("b", "c") >= ('2', '3')"#,
                r#""b" <= '5'"#,
                r#"("b", "c") < ('5', '6')"#
            ]
        );
        assert_eq!(
            range(&["1", "2", "3"], &["1", "2", "6"]).conditions(&columns),
            [r#""a" = '1'"#, r#""b" = '2'"#, r#""c" >= '3'"#, r#""c" < '6'"#]
        );
        assert_eq!(
            range(&["1", "2", "3"], &[]).conditions(&columns),
            [r#""a" >= '1'"#, r#"("a", "b", "c") >= ('1', '2', '3')"#]
        );
    }
}
