//! Compares one piece: small tables together, or a range of a large one, under one pair of snapshots. Sums tell whether anything
//! differs; where it does, parts of the rows, then single rows, then their columns are asked for under the same pair. What differs in a
//! table that was in flight is looked at again under other pairs until it is equal, or differs while nothing is in flight.

use std::collections::HashSet;
use std::time::Duration;

use super::difference::{DifferenceKind, Differing, Hash, Sums, differing, parts};
use super::error::VerifyError;
use super::meeting::Meeting;
use super::nudge::Nudge;
use super::pair::{Pair, Sessions};
use super::portion::Portion;
use super::question::{KnownKey, Question, Selection, Told, decode_entry, decode_sums};
use super::report::RowDifference;
use super::row_text::RowForm;
use super::table::{ComparedTable, Shape, columns_sql, shapes_of};
use crate::connection::TextRow;
use crate::model::{Lsn, Side};

/// Rows that are compared one by one at a time, and in how many parts a piece is cut for that at most: what bounds our memory and the
/// servers' (INV-12).
const ROWS_PER_PART: u64 = 4_096;
const PARTS_MAX: u64 = 16_384;
const PARTS_AT_ONCE: usize = 4;
/// Differing rows that are looked for in one part of a piece; there may be more then.
const FOUND_MAX: usize = 100;
/// How often rows in flight are looked at.
const LOOKS_MAX: u32 = 300;
/// Between two looks.
const LOOK_AFTER_FIRST: Duration = Duration::from_millis(5);
const LOOK_AFTER_LONGEST: Duration = Duration::from_millis(500);

/// What pieces have in common.
#[derive(Debug)]
pub(super) struct Comparing {
    pub(super) meeting: Meeting,
    pub(super) nudge: Nudge,
    pub(super) form: RowForm,
    pub(super) tables: Vec<ComparedTable>,
    /// How long a pair of snapshots may be held.
    pub(super) held_max: Duration,
}

/// Some rows of a table, by its place in [`Comparing::tables`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) table: usize,
    pub(super) portion: Portion,
    /// The part of the table's size that it has.
    pub(super) bytes: u64,
    /// How often it was cut.
    pub(super) cuts: u8,
    /// It took too long as it is.
    pub(super) is_too_long: bool,
}

/// Nothing is cut more often than that: what another cause than its size has must not become ever more.
pub(super) const CUTS_MAX: u8 = 4;

impl Slice {
    /// As it is laid out at first.
    pub(super) const fn new(table: usize, portion: Portion, bytes: u64) -> Self {
        Self { table, portion, bytes, cuts: 0, is_too_long: false }
    }

    /// The same, which is not cut any more.
    pub(super) fn as_it_is(&self) -> Self {
        Self { cuts: CUTS_MAX, is_too_long: false, ..self.clone() }
    }
}

/// What came of a piece.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) slices: Vec<ComparedSlice>,
    /// Pairs that were taken: as of which position, and how long each was held.
    pub(super) pairs: Vec<(Lsn, Duration)>,
    pub(super) looked_at_again: u64,
}

/// Of sums that differ without any row that does: it must not happen, and is never taken for equal.
const NOT_FOUND: (&str, &str) = (
    "its sums differ and no row was found that does",
    "Start the verification again. Please report this with the log.",
);

/// What came of a slice.
#[derive(Debug)]
pub(super) struct ComparedSlice {
    pub(super) table: usize,
    pub(super) rows: u64,
    pub(super) differences: Vec<RowDifference>,
    /// There may be more.
    pub(super) is_cut: bool,
    /// Why it is not decided, if it is not, and what to do.
    pub(super) undecided: Option<Undecided>,
}

/// Why something is not decided, and what to do.
pub(super) type Undecided = (String, &'static str);

/// What a look at a slice has found.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<(Differing, RowDifference)>,
    /// There may be more.
    is_cut: bool,
}

impl Comparing {
    /// Compares these slices.
    ///
    /// # Errors
    /// [`VerifyError`]; nothing is known of any of them then.
    pub(super) async fn compare(
        &self,
        sessions: &Sessions,
        slices: &[Slice],
    ) -> Result<Compared, VerifyError> {
        let tables: Vec<&ComparedTable> = slices.iter().map(|slice| &self.tables[slice.table]).collect();
        let mut compared = Compared::default();
        let pair = sessions.take_pair((&self.meeting, &self.nudge), &tables, self.held_max).await?;
        let lsn = pair.lsn;
        let shapes = shapes_of(&tables, pair.ask(sessions, |side| columns_sql(side, &tables)).await?)?;
        let questions: Vec<Question<'_>> =
            slices.iter().zip(&shapes).map(|(slice, shape)| self.question(slice, shape)).collect();
        let sums = sums(sessions, &pair, &questions).await?;
        let mut found = Vec::with_capacity(slices.len());
        for (question, (source, target)) in questions.iter().zip(&sums) {
            found.push(if source == target {
                Found::default()
            } else {
                look(sessions, &pair, question, source.rows.max(target.rows)).await?
            });
        }
        let parted = pair.end(sessions).await?;
        compared.pairs.push((lsn, parted.held));
        for (((slice, question), found), (source, target)) in
            slices.iter().zip(&questions).zip(found).zip(sums)
        {
            let is_different = source != target;
            let is_doubtful = !found.rows.is_empty() && parted.touched.contains(&question.table.source_oid);
            let is_lost = is_different && found.rows.is_empty() && !question.may_be_elsewhere();
            let (found, undecided) = if is_doubtful {
                compared.looked_at_again += found.rows.len() as u64;
                self.look_again(sessions, question, found, &mut compared.pairs).await?
            } else {
                (found, is_lost.then_some(NOT_FOUND).map(|(reason, remedy)| (reason.to_owned(), remedy)))
            };
            compared.slices.push(ComparedSlice {
                table: slice.table,
                rows: source.rows,
                is_cut: found.is_cut,
                differences: found.rows.into_iter().map(|(_, told)| told).collect(),
                undecided: undecided.or_else(|| lacking(question.shape)),
            });
        }
        Ok(compared)
    }

    fn question<'a>(&'a self, slice: &'a Slice, shape: &'a Shape) -> Question<'a> {
        Question { form: self.form, table: &self.tables[slice.table], shape, portion: &slice.portion }
    }

    /// Looks at what differed in a table that was in flight, until it is decided.
    async fn look_again(
        &self,
        sessions: &Sessions,
        question: &Question<'_>,
        mut found: Found,
        pairs: &mut Vec<(Lsn, Duration)>,
    ) -> Result<(Found, Option<Undecided>), VerifyError> {
        let mut delay = LOOK_AFTER_FIRST;
        for _ in 0..LOOKS_MAX {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LOOK_AFTER_LONGEST);
            let pair =
                sessions.take_pair((&self.meeting, &self.nudge), &[question.table], self.held_max).await?;
            let lsn = pair.lsn;
            found = if found.is_cut || question.shape.key.is_empty() {
                let (source, target) =
                    sums(sessions, &pair, std::slice::from_ref(question)).await?.swap_remove(0);
                if source == target {
                    Found::default()
                } else {
                    look(sessions, &pair, question, source.rows.max(target.rows)).await?
                }
            } else {
                Found { rows: by_key(sessions, &pair, question, &found.rows).await?, is_cut: false }
            };
            let parted = pair.end(sessions).await?;
            pairs.push((lsn, parted.held));
            if found.rows.is_empty() || !parted.touched.contains(&question.table.source_oid) {
                return Ok((found, None));
            }
        }
        let reason = format!("{} of its rows were in flight at each of {LOOKS_MAX} looks", found.rows.len());
        Ok((Found::default(), Some((reason, "Start the verification again when less is written to it."))))
    }
}

/// What cannot be compared of a table whose rows are the same otherwise.
fn lacking(shape: &Shape) -> Option<Undecided> {
    (!shape.missing.is_empty()).then(|| {
        (
            format!("the target does not have its column {}", shape.missing.join(", ")),
            "Add the column to the target; the stream says how, once it is needed.",
        )
    })
}

async fn sums(
    sessions: &Sessions,
    pair: &Pair,
    questions: &[Question<'_>],
) -> Result<Vec<(Sums, Sums)>, VerifyError> {
    // One statement, for which the time that is left holds as a whole.
    let sql = |side| {
        let each = questions.iter().enumerate().map(|(number, question)| question.sums(side, number));
        each.collect::<Vec<_>>().join(" UNION ALL ")
    };
    let (source, target) = pair.ask(sessions, sql).await?;
    let decode = |rows: &[TextRow], side| {
        let mut sums: Vec<Option<Sums>> = vec![None; questions.len()];
        for row in rows {
            let number = row.get("number").and_then(|text| text.parse::<usize>().ok());
            if let Some(place) = number.and_then(|number| sums.get_mut(number)) {
                *place = decode_sums(row);
            }
        }
        sums.into_iter().collect::<Option<Vec<Sums>>>().ok_or(VerifyError::Unreadable { side })
    };
    Ok(decode(&source, Side::Source)?.into_iter().zip(decode(&target, Side::Target)?).collect())
}

/// Finds the rows that differ, one part of them after the other.
async fn look(
    sessions: &Sessions,
    pair: &Pair,
    question: &Question<'_>,
    rows: u64,
) -> Result<Found, VerifyError> {
    let of = if let Portion::Part { of, .. } = question.portion { *of } else { 1 };
    let parts = of * parts(rows, ROWS_PER_PART, PARTS_MAX);
    let mut differing_parts: Vec<u64> = if parts == 1 {
        vec![0]
    } else {
        let (source, target) = pair.ask(sessions, |side| question.sums_of_parts(side, parts)).await?;
        let decode = |rows: Vec<TextRow>, side| {
            let part = |row: &TextRow| Some((row.get("part")?.parse::<u64>().ok()?, decode_sums(row)?));
            rows.iter().map(part).collect::<Option<HashSet<_>>>().ok_or(VerifyError::Unreadable { side })
        };
        let (source, target) = (decode(source, Side::Source)?, decode(target, Side::Target)?);
        source.symmetric_difference(&target).map(|(part, _)| *part).collect()
    };
    differing_parts.sort_unstable();
    differing_parts.dedup();
    let mut found = Found::default();
    for chosen in differing_parts.chunks(PARTS_AT_ONCE) {
        if found.rows.len() >= FOUND_MAX {
            found.is_cut = true;
            break;
        }
        let selection = Selection::Parts { parts, chosen: chosen.to_vec() };
        let differing = entries(sessions, pair, question, &selection).await?;
        for some in differing.chunks(FOUND_MAX) {
            if found.rows.len() >= FOUND_MAX {
                found.is_cut = true;
                break;
            }
            let keys = some.iter().map(|each| KnownKey { hash: each.key, values: Vec::new() }).collect();
            let rows = tell(sessions, pair, question, some.to_vec(), &Selection::Keys(keys)).await?;
            found.rows.extend(if question.may_be_elsewhere() {
                by_key(sessions, pair, question, &rows).await?
            } else {
                rows
            });
        }
    }
    Ok(found)
}

/// The same rows, found by their keys wherever they are: where the sides' collations differ, so do their ranges.
async fn by_key(
    sessions: &Sessions,
    pair: &Pair,
    question: &Question<'_>,
    rows: &[(Differing, RowDifference)],
) -> Result<Vec<(Differing, RowDifference)>, VerifyError> {
    let everywhere = Question { portion: &Portion::All, ..*question };
    let selection = Selection::Keys(rows.iter().map(known).collect());
    let differing = entries(sessions, pair, &everywhere, &selection).await?;
    tell(sessions, pair, &everywhere, differing, &selection).await
}

fn known((differing, told): &(Differing, RowDifference)) -> KnownKey {
    KnownKey { hash: differing.key, values: told.key.iter().map(|(_, value)| value.clone()).collect() }
}

/// Which of the selected rows differ.
async fn entries(
    sessions: &Sessions,
    pair: &Pair,
    question: &Question<'_>,
    selection: &Selection,
) -> Result<Vec<Differing>, VerifyError> {
    let (source, target) = pair.ask(sessions, |side| question.entries(side, selection)).await?;
    let decode = |rows: Vec<TextRow>, side| {
        rows.iter().map(decode_entry).collect::<Option<Vec<_>>>().ok_or(VerifyError::Unreadable { side })
    };
    Ok(differing(&decode(source, Side::Source)?, &decode(target, Side::Target)?))
}

/// What is told of these rows.
async fn tell(
    sessions: &Sessions,
    pair: &Pair,
    question: &Question<'_>,
    differing: Vec<Differing>,
    selection: &Selection,
) -> Result<Vec<(Differing, RowDifference)>, VerifyError> {
    if differing.is_empty() {
        return Ok(Vec::new());
    }
    let (source, target) = pair.ask(sessions, |side| question.told(side, selection)).await?;
    let decode =
        |rows: Vec<TextRow>| rows.iter().map(|row| question.decode_told(row)).collect::<Option<Vec<Told>>>();
    let unreadable = |side| VerifyError::Unreadable { side };
    let source = decode(source).ok_or_else(|| unreadable(Side::Source))?;
    let target = decode(target).ok_or_else(|| unreadable(Side::Target))?;
    let of = |side: &[Told], key: Hash| side.iter().find(|told| told.key == key).cloned();
    let told = differing.into_iter().map(|each| {
        let (source, target) = (of(&source, each.key), of(&target, each.key));
        let told = RowDifference {
            table: question.table.source_name.clone(),
            kind: each.kind,
            key: key_of(
                question,
                source.as_ref().filter(|_| each.kind != DifferenceKind::Extra).or(target.as_ref()),
            ),
            columns: match (&source, &target, each.kind) {
                (Some(source), Some(target), DifferenceKind::Differs) => columns_of(question, source, target),
                _ => Vec::new(),
            },
            count: each.count,
        };
        (each, told)
    });
    Ok(told.collect())
}

fn key_of(question: &Question<'_>, told: Option<&Told>) -> Vec<(String, String)> {
    let Some(told) = told else { return Vec::new() };
    if question.shape.key.is_empty() {
        return told.values.iter().map(|place| ("ctid".to_owned(), place.clone())).collect();
    }
    question.shape.key.iter().map(|column| column.name.clone()).zip(told.values.iter().cloned()).collect()
}

fn columns_of(question: &Question<'_>, source: &Told, target: &Told) -> Vec<String> {
    let names = question.shape.columns.iter().zip(source.columns.iter().zip(&target.columns));
    names.filter(|(_, (source, target))| source != target).map(|(column, _)| column.name.clone()).collect()
}
