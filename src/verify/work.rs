//! The work of a verification: pieces that wait, workers that take them, compare them and rest. A piece that fails because something
//! passes is tried again; one that takes longer than a snapshot may be held is cut, and once two of a table did, so are its others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::VerifyError;
use super::layout::cut_smaller;
use super::pair::Sessions;
use super::piece::{CUTS_MAX, Compared, Comparing, Slice};
use super::run::{Trouble, VerifyContext, Writing, connect};
use crate::runtime::Backoff;

/// Tries of one piece; and how long a stream that is behind is waited for besides.
const TRIES_MAX: u32 = 12;
const BEHIND_MAX: Duration = Duration::from_secs(600);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Pieces of a table that have to have taken too long before the others are cut without being tried: one may have met a bad moment.
const SLOW_PIECES: u32 = 2;
/// How often a worker without work looks whether there is any again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What there is to do. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Work(Arc<Mutex<Pieces>>);

#[derive(Debug)]
struct Pieces {
    queue: VecDeque<Vec<Slice>>,
    /// How many slices of each table are left.
    left: Vec<usize>,
    /// How many slices of these tables took too long as they were laid out.
    too_long: HashMap<usize, u32>,
    /// Workers that have a piece, or rest after one.
    at_work: usize,
}

impl Work {
    /// These pieces of so many tables.
    pub(super) fn new(pieces: Vec<Vec<Slice>>, tables: usize) -> Self {
        let mut left = vec![0; tables];
        pieces.iter().flatten().for_each(|slice| left[slice.table] += 1);
        let (queue, too_long) = (pieces.into(), HashMap::new());
        Self(Arc::new(Mutex::new(Pieces { queue, left, too_long, at_work: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece; `None` once there is none, and nobody is at one that may come back in parts. Cancel safe.
    async fn next(&self) -> Option<(Vec<Slice>, AtWork)> {
        loop {
            {
                let mut pieces = self.lock();
                if let Some(piece) = pieces.queue.pop_front() {
                    pieces.at_work += 1;
                    return Some((piece, AtWork(self.clone())));
                }
                if pieces.at_work == 0 {
                    return None;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A worker has a piece, or rests after it.
struct AtWork(Work);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
    }
}

impl Pieces {
    /// A slice of this table is done; `true` for the last.
    fn is_last(&mut self, table: usize) -> bool {
        self.left[table] = self.left[table].saturating_sub(1);
        self.left[table] == 0
    }

    /// Whether it has to be cut before it is tried.
    fn has_to_be_cut(&self, slice: &Slice) -> bool {
        let is_slow = || self.too_long.get(&slice.table).is_some_and(|pieces| *pieces >= SLOW_PIECES);
        slice.is_too_long || (slice.cuts == 0 && is_slow())
    }

    /// It took too long: it comes back, to be cut, if it can be.
    fn takes_too_long(&mut self, slice: &Slice) -> bool {
        if slice.cuts >= CUTS_MAX {
            return false;
        }
        if slice.cuts == 0 {
            *self.too_long.entry(slice.table).or_default() += 1;
        }
        self.queue.push_front(vec![Slice { is_too_long: true, ..slice.clone() }]);
        true
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
}

impl Worker {
    /// What could not be compared, if anything.
    pub(super) async fn run(mut self) -> Trouble {
        let mut trouble = None;
        loop {
            let Some((piece, _at_work)) = self.work.next().await else { break };
            let begun_at = Instant::now();
            let mut busy = Duration::ZERO;
            match self.try_through_trouble(&piece).await {
                Ok(Tried::Compared(compared)) => {
                    busy = compared.pairs.iter().map(|(_, held)| *held).sum();
                    trouble = trouble.or(self.tell(&piece, compared));
                }
                Ok(Tried::Cut(slices)) => {
                    busy = begun_at.elapsed();
                    self.work.lock().replace(slices);
                }
                Err(error) => {
                    if matches!(error, VerifyError::TooLong { .. }) {
                        busy = begun_at.elapsed().min(self.context.held_max);
                        self.writing.update(|report| report.held_in_vain(busy));
                    }
                    trouble = trouble.or(self.fails(piece, &error));
                }
            }
            let (is_over, at_work) = {
                let work = self.work.lock();
                (work.queue.is_empty(), work.at_work)
            };
            if !is_over {
                tokio::time::sleep(self.context.share.rest_after(busy, at_work)).await;
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

    fn slice(table: usize) -> Slice {
        Slice::new(table, Portion::All, 8)
    }

    #[test]
    fn what_takes_too_long_is_cut_and_soon_the_others_of_its_table_are() {
        let work = Work::new(vec![vec![slice(0)], vec![slice(0), slice(1)]], 2);
        let mut pieces = work.lock();
        assert!(!pieces.has_to_be_cut(&slice(0)), "it was not tried");
        assert!(pieces.takes_too_long(&slice(0)));
        let back = pieces.queue.pop_front().unwrap().pop().unwrap();
        assert!(pieces.has_to_be_cut(&back), "it comes back, to be cut");
        assert!(!pieces.has_to_be_cut(&slice(0)), "it may have been a bad moment");
        assert!(pieces.takes_too_long(&slice(0)));
        assert!(pieces.has_to_be_cut(&slice(0)) && !pieces.has_to_be_cut(&slice(1)));
        let smaller = Slice { cuts: 1, ..slice(0) };
        assert!(!pieces.has_to_be_cut(&smaller), "what was cut is tried");
        assert!(pieces.takes_too_long(&smaller));
    }

    /// A lock that somebody holds for ever must not have a verification go on for ever.
    #[test]
    fn what_cannot_be_cut_is_tried_once_more_and_given_up() {
        let work = Work::new(vec![vec![slice(0)]], 1);
        let mut pieces = work.lock();
        let as_it_is = Slice { is_too_long: true, ..slice(0) }.as_it_is();
        assert!(!pieces.has_to_be_cut(&as_it_is) && !pieces.takes_too_long(&as_it_is));
        assert!(!pieces.takes_too_long(&Slice { cuts: CUTS_MAX, ..slice(0) }));
    }

    #[test]
    fn a_table_is_done_when_its_last_slice_is() {
        let work = Work::new(vec![vec![slice(0)], vec![slice(0), slice(1)]], 2);
        let mut pieces = work.lock();
        assert!(!pieces.is_last(0) && pieces.is_last(1));
        pieces.replace(vec![slice(0), slice(0)]);
        assert_eq!(pieces.queue.len(), 4);
        assert!(!pieces.is_last(0) && pieces.is_last(0));
    }

    #[tokio::test]
    async fn nobody_ends_while_a_piece_may_come_back_in_parts() {
        let work = Work::new(vec![vec![slice(0)]], 1);
        let at_work = work.next().await.unwrap();
        let other = tokio::spawn({
            let work = work.clone();
            async move { work.next().await.is_some() }
        });
        tokio::time::sleep(LOOK_EVERY).await;
        work.lock().replace(vec![slice(0)]);
        assert!(other.await.unwrap());
        drop(at_work);
        assert!(work.next().await.is_none());
    }
}
