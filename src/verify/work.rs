//! The work of a verification: pieces that wait, workers that take them, compare them and rest. A piece that fails because something
//! passes is tried again; one that takes longer than a snapshot may be held is cut, and so is whatever of its table is as large.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::VerifyError;
use super::layout::cut_smaller;
use super::pair::Sessions;
use super::piece::{Compared, Comparing, Slice};
use super::run::{Trouble, VerifyContext, Writing, connect};
use crate::runtime::Backoff;

/// Tries of one piece; and how long a stream that is behind is waited for besides.
const TRIES_MAX: u32 = 12;
const BEHIND_MAX: Duration = Duration::from_secs(600);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// What takes too long is cut until it is this part of a piece, or of its table: what another cause than its size has must not become
/// ever more.
const SMALLEST_PART: u64 = 256;

/// What there is to do. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Work(Arc<Mutex<Pieces>>);

#[derive(Debug)]
struct Pieces {
    queue: VecDeque<Vec<Slice>>,
    /// How many slices of each table are left.
    left: Vec<usize>,
    /// The least size, in bytes, of a slice of these tables that took too long.
    too_long: HashMap<usize, u64>,
    /// What is smaller is not cut, for each table.
    smallest: Vec<u64>,
}

impl Work {
    /// These pieces of tables of these sizes.
    pub(super) fn new(pieces: Vec<Vec<Slice>>, sizes: impl Iterator<Item = u64>, piece_bytes: u64) -> Self {
        let smallest: Vec<u64> = sizes.map(|bytes| bytes.min(piece_bytes) / SMALLEST_PART).collect();
        let mut left = vec![0; smallest.len()];
        pieces.iter().flatten().for_each(|slice| left[slice.table] += 1);
        Self(Arc::new(Mutex::new(Pieces { queue: pieces.into(), left, too_long: HashMap::new(), smallest })))
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    /// A slice of this table is done; `true` for the last.
    fn is_last(&mut self, table: usize) -> bool {
        self.left[table] = self.left[table].saturating_sub(1);
        self.left[table] == 0
    }

    fn can_be_cut(&self, slice: &Slice) -> bool {
        !slice.is_indivisible && slice.bytes >= self.smallest[slice.table]
    }

    /// Whether it has to be cut before it is tried.
    fn has_to_be_cut(&self, slice: &Slice) -> bool {
        self.can_be_cut(slice) && self.too_long.get(&slice.table).is_some_and(|least| slice.bytes >= *least)
    }

    /// It took too long; `true` if that can be helped.
    fn takes_too_long(&mut self, slice: &Slice) -> bool {
        if self.can_be_cut(slice) {
            let least = self.too_long.entry(slice.table).or_insert(slice.bytes);
            *least = slice.bytes.min(*least);
        }
        self.can_be_cut(slice)
    }

    /// These take the place of one of the same table.
    fn replace(&mut self, slices: Vec<Slice>) {
        if let Some(first) = slices.first() {
            self.left[first.table] += slices.len() - 1;
        }
        self.queue.extend(slices.into_iter().map(|slice| vec![slice]));
    }
}

/// What came of a try.
enum Tried {
    Compared(Compared),
    /// It was cut instead.
    Cut(Vec<Slice>),
}

/// Takes pieces until there are none.
pub(super) struct Worker {
    pub(super) context: VerifyContext,
    pub(super) comparing: Arc<Comparing>,
    pub(super) writing: Writing,
    pub(super) work: Work,
    /// `None` until they are needed, or after they were lost.
    pub(super) sessions: Option<Sessions>,
    /// How many there are.
    pub(super) workers: usize,
}

impl Worker {
    /// What could not be compared, if anything.
    pub(super) async fn run(mut self) -> Trouble {
        let mut trouble = None;
        loop {
            let Some(piece) = self.work.lock().queue.pop_front() else { break };
            let begun_at = Instant::now();
            let mut busy = Duration::ZERO;
            match self.try_through_trouble(&piece).await {
                Ok(Tried::Compared(compared)) => {
                    busy = compared.pairs.iter().map(|(_, held)| *held).sum();
                    trouble = trouble.or(self.tell(&piece, compared));
                }
                Ok(Tried::Cut(slices)) => self.work.lock().replace(slices),
                Err(error) => {
                    if matches!(error, VerifyError::TooLong { .. }) {
                        busy = begun_at.elapsed().min(self.context.held_max);
                        self.writing.update(|report| report.held_in_vain(busy));
                    }
                    trouble = trouble.or(self.fails(piece, &error));
                }
            }
            let rest = self.context.share.rest_after(busy, self.workers);
            let is_over = self.work.lock().queue.is_empty();
            if !is_over {
                tokio::time::sleep(rest).await;
            }
        }
        if let Some(sessions) = self.sessions.take() {
            tokio::join!(sessions.source.close(), sessions.target.close());
        }
        trouble
    }

    /// What may succeed in another form goes back to the others.
    fn fails(&self, piece: Vec<Slice>, error: &VerifyError) -> Trouble {
        let mut work = self.work.lock();
        if piece.len() > 1 && error.is_about_tables() {
            // It may be about one of the tables; the others need not suffer for it.
            tracing::debug!(%error, "tables are compared one by one");
            work.queue.extend(piece.into_iter().map(|slice| vec![slice]));
            return None;
        }
        if let ([slice], VerifyError::TooLong { .. }) = (&piece[..], error)
            && work.takes_too_long(slice)
        {
            let table = self.comparing.tables[slice.table].source_name.plain();
            tracing::info!(
                table,
                bytes = slice.bytes,
                "too much for one snapshot: smaller parts are compared"
            );
            work.queue.push_front(piece);
            return None;
        }
        drop(work);
        tracing::warn!(%error, "a part of the tables could not be compared");
        self.writing.update(|report| {
            for slice in &piece {
                report.not_compared(&self.comparing.tables[slice.table].source_name, error.to_string());
            }
        });
        Some((self.describe(&piece, error), error.remedy()))
    }

    async fn try_through_trouble(&mut self, piece: &[Slice]) -> Result<Tried, VerifyError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let (mut tries, begun_at) = (0, Instant::now());
        loop {
            let error = match self.try_once(piece).await {
                Ok(tried) => return Ok(tried),
                Err(error) => error,
            };
            // A large transaction, or a backlog, is no trouble of ours.
            let is_behind = matches!(error, VerifyError::Behind { .. }) && begun_at.elapsed() < BEHIND_MAX;
            tries += u32::from(!is_behind);
            if !error.passes() || tries >= TRIES_MAX {
                return Err(error);
            }
            tracing::debug!(%error, "a piece is compared again");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn try_once(&mut self, piece: &[Slice]) -> Result<Tried, VerifyError> {
        let sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            None => connect(&self.context).await?,
        };
        let tried = self.cut_or_compare(&sessions, piece).await;
        // After an error a session may be lost, and a transaction open.
        if tried.is_ok() || sessions.abandon().await.is_ok() {
            self.sessions = Some(sessions);
        }
        tried
    }

    async fn cut_or_compare(&self, sessions: &Sessions, piece: &[Slice]) -> Result<Tried, VerifyError> {
        if let [slice] = piece
            && self.work.lock().has_to_be_cut(slice)
        {
            let table = &self.comparing.tables[slice.table];
            return Ok(Tried::Cut(cut_smaller(&sessions.source, table, slice, self.context.held_max).await?));
        }
        Ok(Tried::Compared(self.comparing.compare(sessions, piece).await?))
    }

    fn describe(&self, piece: &[Slice], error: &VerifyError) -> String {
        let first = piece.first().map(|slice| self.comparing.tables[slice.table].source_name.plain());
        let others = if piece.len() > 1 { format!(" and {} more", piece.len() - 1) } else { String::new() };
        format!("table {}{others} could not be compared: {error}", first.unwrap_or_default())
    }

    fn tell(&self, piece: &[Slice], compared: Compared) -> Trouble {
        let mut trouble = None;
        self.writing.update(|report| {
            let mut work = self.work.lock();
            for (lsn, held) in compared.pairs {
                report.held(lsn, held);
            }
            report.rows_looked_at_again += compared.looked_at_again;
            for (slice, of_slice) in piece.iter().zip(compared.slices) {
                let table = &self.comparing.tables[of_slice.table].source_name;
                report.rows_compared += of_slice.rows;
                report.bytes_compared += slice.bytes;
                report.tables_compared += u64::from(work.is_last(of_slice.table));
                report.is_at_least |= of_slice.is_cut;
                let count = of_slice.differences.iter().map(|each| each.count).sum();
                report.found(table, of_slice.differences, count);
                if let Some((reason, remedy)) = of_slice.undecided {
                    report.not_compared(table, reason.clone());
                    trouble = Some((
                        format!("table {} could not be compared: {reason}", table.plain()),
                        remedy.into(),
                    ));
                }
            }
        });
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::super::portion::Portion;
    use super::*;

    fn slice(table: usize, bytes: u64) -> Slice {
        Slice::new(table, Portion::All, bytes)
    }

    #[test]
    fn what_takes_too_long_is_cut_and_so_is_what_is_as_large() {
        let work = Work::new(
            vec![vec![slice(0, 8_000)], vec![slice(0, 8_000), slice(1, 9_000)]],
            [999_000, 9_000].into_iter(),
            256_000,
        );
        let mut pieces = work.lock();
        assert!(!pieces.has_to_be_cut(&slice(0, 8_000)), "it was not tried");
        assert!(pieces.takes_too_long(&slice(0, 8_000)));
        assert!(pieces.has_to_be_cut(&slice(0, 8_000)) && !pieces.has_to_be_cut(&slice(0, 7_999)));
        assert!(!pieces.has_to_be_cut(&slice(1, 9_000)), "another table");
        assert!(pieces.takes_too_long(&slice(0, 8_000)), "another worker was at it meanwhile");
        let indivisible = Slice { is_indivisible: true, ..slice(0, 8_000) };
        assert!(!pieces.takes_too_long(&indivisible) && !pieces.has_to_be_cut(&indivisible));
        assert!(pieces.takes_too_long(&slice(0, 2_000)));
        assert!(!pieces.takes_too_long(&slice(0, 999)), "it is no piece any more");
        assert!(!pieces.has_to_be_cut(&slice(0, 999)));
        assert!(pieces.takes_too_long(&slice(1, 36)) && !pieces.takes_too_long(&slice(1, 34)));
    }

    #[test]
    fn a_table_is_done_when_its_last_slice_is() {
        let work =
            Work::new(vec![vec![slice(0, 8)], vec![slice(0, 8), slice(1, 9)]], [16, 9].into_iter(), 256);
        let mut pieces = work.lock();
        assert!(!pieces.is_last(0) && pieces.is_last(1));
        pieces.replace(vec![slice(0, 4), slice(0, 4)]);
        assert_eq!(pieces.queue.len(), 4);
        assert!(!pieces.is_last(0) && pieces.is_last(0));
    }
}
