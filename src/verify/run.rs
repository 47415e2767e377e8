//! One verification from its beginning to its report: it reads what there is, repairs what it was asked to, and has workers compare the
//! pieces. What cannot be compared makes the verification incomplete, never clean.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::difference::DifferenceKind;
use super::error::VerifyError;
use super::layout::{Sizes, cut};
use super::meeting::Meeting;
use super::nudge::Nudge;
use super::pace::SharePercent;
use super::pair::Sessions;
use super::piece::Comparing;
use super::repair::repair;
use super::report::{RowDifference, Scope, VerificationReport};
use super::row_text::{Hashing, RowForm};
use super::structure;
use super::table::{COUNTED_MAX, ComparedTable, columns_sql, read_tables, shapes_of};
use super::work::{Work, Worker};
use crate::config::Config;
use crate::connection::{SqlSession, TextQuery, connect_sql};
use crate::model::{Side, TableName};
use crate::runtime::Shutdown;

/// What a verification needs.
#[derive(Clone, Debug)]
pub struct VerifyContext {
    /// The operator's configuration, in the direction of the stream.
    pub config: Arc<Config>,
    /// Where the stream is met.
    pub meeting: Meeting,
    /// How much of the servers' time it takes.
    pub share: SharePercent,
    /// Sessions on each side that compare at a time.
    pub jobs: usize,
    /// Size of a piece, in bytes on the source.
    pub piece_bytes: u64,
    /// How long a pair of snapshots may be held.
    pub held_max: Duration,
    /// Rows to be repaired before anything is compared.
    pub repair: Arc<[RowDifference]>,
    /// The signal to stop.
    pub shutdown: Shutdown,
}

/// A report that is being written. Cheap to clone.
#[derive(Clone)]
pub struct Writing(Arc<Mutex<Written>>);

struct Written {
    report: VerificationReport,
    publish: Box<dyn FnMut(&VerificationReport) + Send>,
}

impl Writing {
    /// Begins with this report; `publish` is told of every change.
    pub fn new(
        report: VerificationReport,
        publish: impl FnMut(&VerificationReport) + Send + 'static,
    ) -> Self {
        let writing = Self(Arc::new(Mutex::new(Written { report, publish: Box::new(publish) })));
        writing.update(|_| {});
        writing
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut VerificationReport) -> T) -> T {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Written { report, publish } = &mut *written;
        let changed = change(report);
        publish(report);
        changed
    }

    /// As it is now.
    #[must_use]
    pub fn read(&self) -> VerificationReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).report.clone()
    }
}

/// Compares both sides; how it ended is in the report that comes back, and not published. Ends early at shutdown.
pub async fn run(context: VerifyContext, writing: Writing) -> VerificationReport {
    let outcome = tokio::select! {
        outcome = compare_all(&context, &writing) => outcome.map_err(|error| (error.to_string(), error.remedy())),
        () = context.shutdown.requested() => Err(("it was stopped".into(), "Start the verification again.".into())),
    };
    context.meeting.forget();
    let trouble = match outcome {
        Ok(trouble) => trouble,
        Err(trouble) => Some(trouble),
    };
    let mut report = writing.read();
    report.end(Timestamp::now(), trouble);
    report
}

/// What could not be compared, with its remedy.
pub(super) type Trouble = Option<(String, String)>;

async fn compare_all(context: &VerifyContext, writing: &Writing) -> Result<Trouble, VerifyError> {
    let scope = writing.read().scope;
    let sessions = connect(context).await?;
    let mut trouble = None;
    if scope != Scope::Rows {
        let filter = &context.config.source.tables;
        match structure::compare(&sessions.source, &sessions.target, filter).await {
            Ok(compared) => writing.update(|report| report.structure = Some(compared.into())),
            Err(error) => {
                let told = format!("{error}");
                trouble = Some((told, error.remedy()));
                if sessions.abandon().await.is_err() {
                    return Err(error.into());
                }
            }
        }
    }
    if scope == Scope::Structure {
        return Ok(trouble);
    }
    sees_commits_in_doubt(&sessions).await?;
    let form = row_form(&sessions).await?;
    let tables = read_tables(&sessions.source, &sessions.target, &context.config.source.publication).await?;
    writing.update(|report| {
        report.tables_total = (tables.compared.len() + tables.left_out.len()) as u64;
        report.bytes_total = tables.compared.iter().map(|table| table.bytes).sum();
        report.left_out =
            tables.left_out.iter().map(|(table, reason)| (table.clone(), (*reason).to_owned())).collect();
        for (table, rows) in &tables.on_target_alone {
            report.is_at_least |= *rows >= COUNTED_MAX;
            report.found(
                table,
                vec![RowDifference::of_table(table.clone(), DifferenceKind::Extra, *rows)],
                *rows,
            );
        }
    });
    repair_all(context, writing, &sessions, &tables.compared).await?;
    let pieces =
        cut(&sessions.source, &tables.compared, Sizes::new(context.piece_bytes, context.held_max)).await?;
    let comparing = Arc::new(Comparing {
        meeting: context.meeting.clone(),
        nudge: Nudge::new(&context.config),
        form,
        tables: tables.compared,
        held_max: context.held_max,
    });
    let work = Work::new(pieces, comparing.tables.len());
    let mut first = Some(sessions);
    let mut working = JoinSet::new();
    for _ in 0..context.jobs.max(1) {
        let worker = Worker {
            context: context.clone(),
            comparing: Arc::clone(&comparing),
            writing: writing.clone(),
            work: work.clone(),
            sessions: first.take(),
        };
        working.spawn(worker.run());
    }
    while let Some(ended) = working.join_next().await {
        match ended {
            Ok(told) => trouble = trouble.or(told),
            Err(_) => {
                trouble =
                    Some(("a comparing task ended unexpectedly".into(), "Report this with the log.".into()))
            }
        }
    }
    Ok(trouble)
}

/// Repairs the rows that were named, table by table.
async fn repair_all(
    context: &VerifyContext,
    writing: &Writing,
    sessions: &Sessions,
    tables: &[ComparedTable],
) -> Result<(), VerifyError> {
    let mut by_table: BTreeMap<&TableName, Vec<&RowDifference>> = BTreeMap::new();
    context.repair.iter().for_each(|row| by_table.entry(&row.table).or_default().push(row));
    for (name, rows) in by_table {
        let Some(table) = tables.iter().find(|table| table.source_name == *name) else {
            let reason = "it is not compared".to_owned();
            writing.update(|report| report.not_repaired.push((name.clone(), reason)));
            continue;
        };
        let columns = sessions.ask(|side| columns_sql(side, &[table])).await?;
        let Some(shape) = shapes_of(&[table], columns)?.pop() else { continue };
        let repaired = repair(&sessions.source, &context.meeting, table, &shape, &rows).await?;
        writing.update(|report| {
            report.rows_repaired += repaired.rows;
            report.not_repaired.extend(repaired.refused);
        });
    }
    Ok(())
}

/// Two sessions for comparing.
///
/// # Errors
/// [`VerifyError`].
pub(super) async fn connect(context: &VerifyContext) -> Result<Sessions, VerifyError> {
    let one = async |side: Side| -> Result<SqlSession, VerifyError> {
        let settings = match side {
            Side::Source => &context.config.source.connection,
            Side::Target => &context.config.target.connection,
        };
        let session = connect_sql(settings, side, "verify").await?;
        // One core of a server is enough. Should we be gone in the middle, the server ends what it does for us soon.
        let mut settings = "SET max_parallel_workers_per_gather = 0".to_owned();
        if session.server_version().0 >= 140_000 {
            settings.push_str("; SET client_connection_check_interval = '2s'");
        }
        session.batch_execute(&settings).await.map_err(|error| VerifyError::sql(side)(error.into()))?;
        Ok(session)
    };
    let (source, target) = tokio::try_join!(one(Side::Source), one(Side::Target))?;
    Ok(Sessions { source, target })
}

/// What waits for a synchronous standby is streamed already, and not visible: it has to be seen that somebody waits.
async fn sees_commits_in_doubt(sessions: &Sessions) -> Result<(), VerifyError> {
    let sql = "SELECT current_setting('synchronous_standby_names') = '' OR pg_has_role('pg_read_all_stats', 'USAGE') AS sees";
    let rows = sessions.source.rows(sql).await.map_err(VerifyError::source)?;
    let sees = rows.first().and_then(|row| row.get("sees"));
    if sees == Some("t") { Ok(()) } else { Err(VerifyError::CommitsUnseen) }
}

/// How rows are hashed so that equal rows are equal on both.
async fn row_form(sessions: &Sessions) -> Result<RowForm, VerifyError> {
    let ask = async |side: Side| {
        let sql = "SELECT hashtextextended('pgsluice' COLLATE \"C\", 1) AS hash, current_setting('server_encoding') AS encoding";
        let rows = sessions.of(side).rows(sql).await.map_err(VerifyError::sql(side))?;
        let row = rows.into_iter().next().ok_or(VerifyError::Unreadable { side })?;
        Ok::<_, VerifyError>((row.get("hash").map(str::to_owned), row.get("encoding").map(str::to_owned)))
    };
    let (source, target) = tokio::try_join!(ask(Side::Source), ask(Side::Target))?;
    let hashing = if source.0 == target.0 { Hashing::Native } else { Hashing::Md5 };
    Ok(RowForm { hashing, is_same_encoding: source.1 == target.1 })
}
