//! Looks at the source a few times a second and publishes positions, lag, what the slot keeps, and throughput; and now and
//! then at the target's standbys. Only observes: nothing is decided by what it finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::types::{ToSql, Type};

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::kubernetes::cnpg::ClusterWatch;
use crate::model::{Lsn, Side};
use crate::runtime::Shutdown;
use crate::stream::StreamHandle;
use crate::telemetry::{LagTracker, Metrics};

use super::legs::Leg;
use super::standby_monitor;
use super::status::{LagView, Positions, SlotView, StatusBoard, Throughput};

/// How often the source is looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// Throughput is measured over this time.
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(5);

/// What the monitor needs.
#[derive(Debug)]
pub struct Monitor {
    /// Where the source is, and what the stream has done: both change when the direction turns.
    pub leg: watch::Receiver<Leg>,
    /// Where it is published.
    pub board: StatusBoard,
    /// Gauges follow the board.
    pub metrics: Arc<Metrics>,
    /// The cluster that is moved into, as its operator sees it, if that is told.
    pub cluster: Option<ClusterWatch>,
}

#[derive(Clone, Copy, Debug)]
struct SourceView {
    wal_end: Lsn,
    slot: SlotView,
}

impl Monitor {
    /// Watches until shutdown. A side that cannot be reached is looked for again at the next round; one that is silent does
    /// not keep the other from being looked at.
    pub async fn run(self, shutdown: Shutdown) {
        let standbys = standby_monitor::run(self.leg.clone(), self.board.clone(), shutdown.clone());
        tokio::join!(self.watch_the_source(shutdown), standbys);
    }

    async fn watch_the_source(mut self, shutdown: Shutdown) {
        let mut session = None;
        let mut lag = LagTracker::new();
        let mut rates = Rates::default();
        loop {
            if self.leg.has_changed().unwrap_or(false) {
                (session, lag, rates) = (None, LagTracker::new(), Rates::default());
            }
            let leg = self.leg.borrow_and_update().clone();
            let view = look(&leg.config, &mut session).await;
            // What was seen of one direction says nothing of the other.
            if !self.leg.has_changed().unwrap_or(false) {
                self.publish(&leg.stream, view, &mut lag, &mut rates);
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    fn publish(
        &self,
        stream: &StreamHandle,
        view: Option<SourceView>,
        lag: &mut LagTracker,
        rates: &mut Rates,
    ) {
        let now = Instant::now();
        let applied = stream.applied_lsn();
        if let Some(view) = view {
            lag.observe_source(view.wal_end, now);
        }
        if let Some(applied) = applied {
            lag.observe_applied(applied);
        }
        let (transactions, rows) = stream.counts();
        let throughput = rates.observe(now, transactions, rows);
        let lag_view = applied.and_then(|_| lag.lag(now)).map_or_else(LagView::default, LagView::from);
        self.board.update(|status| {
            status.positions = Positions {
                source: view.map(|view| view.wal_end).or(status.positions.source),
                received: stream.received_lsn().max(applied),
                applied,
                durable: stream.durable_lsn().map(crate::target::DurableLsn::lsn),
            };
            status.lag = lag_view;
            status.throughput = throughput;
            status.slot = view.map(|view| view.slot).unwrap_or_default();
            status.cluster = self.cluster.as_ref().map(ClusterWatch::sight);
        });
        self.board.with(|status| self.metrics.publish(status));
    }
}

async fn look(config: &Config, session: &mut Option<SqlSession>) -> Option<SourceView> {
    if session.is_none() {
        *session = connect_sql(&config.source.connection, Side::Source, "monitor").await.ok();
    }
    let view = match session {
        Some(session) => ask(session, &config.source.slot).await,
        None => return None,
    };
    if view.is_none() {
        *session = None;
    }
    view
}

/// `age` counts from the next transaction. A logical slot has a `catalog_xmin` only, unless it was made to export a snapshot
/// and nobody has connected since.
const ASK: &str = "
SELECT pg_current_wal_flush_lsn()::text AS wal_end,
       greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS retained,
       greatest(safe_wal_size, 0) AS safe,
       greatest(age(xmin), age(catalog_xmin))::bigint AS xmin_age
  FROM (VALUES ($1)) AS asked (name)
  LEFT JOIN pg_replication_slots ON slot_name = name";

async fn ask(session: &SqlSession, slot: &str) -> Option<SourceView> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&slot, Type::TEXT)];
    let asked = session.query_typed_one(ASK, &parameters);
    let row = tokio::time::timeout(INTERVAL * 10, asked).await.ok()?.ok()?;
    let number = |column: &str| row.get::<_, Option<i64>>(column).and_then(|number| number.try_into().ok());
    Some(SourceView {
        wal_end: row.get::<_, &str>("wal_end").parse().ok()?,
        slot: SlotView {
            retained_wal_bytes: number("retained"),
            safe_wal_bytes: number("safe"),
            xmin_age_transactions: number("xmin_age"),
        },
    })
}

/// Counters of the last few seconds, oldest first.
#[derive(Debug, Default)]
struct Rates(std::collections::VecDeque<(Instant, u64, u64)>);

impl Rates {
    fn observe(&mut self, now: Instant, transactions: u64, rows: u64) -> Throughput {
        while self.0.front().is_some_and(|(at, ..)| now.duration_since(*at) > THROUGHPUT_WINDOW) {
            self.0.pop_front();
        }
        let (since, transactions_then, rows_then) = *self.0.front().unwrap_or(&(now, transactions, rows));
        self.0.push_back((now, transactions, rows));
        let seconds = now.duration_since(since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is an approximation")]
        let rate = |now: u64, then: u64| if seconds > 0.0 { (now - then) as f64 / seconds } else { 0.0 };
        Throughput {
            transactions_per_second: rate(transactions, transactions_then),
            rows_per_second: rate(rows, rows_then),
            transactions_total: transactions,
            rows_total: rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds_only() {
        let mut rates = Rates::default();
        let begin = Instant::now();
        rates.observe(begin, 0, 0);
        let early = rates.observe(begin + Duration::from_secs(2), 2_000, 8_000);
        assert!((early.transactions_per_second - 1_000.0).abs() < 1e-6);
        let later = rates.observe(begin + Duration::from_secs(60), 2_000, 8_000);
        assert!(later.transactions_per_second.abs() < f64::EPSILON);
        assert_eq!(later.rows_total, 8_000);
    }
}
