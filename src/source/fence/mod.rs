//! The fence: one transaction on the source that closes the turnstile which every writer passes, has the deny
//! triggers refuse, freezes the sequences and writes the fence row. Rolled back it leaves nothing and blocked writers
//! simply go on (INV-9); committed it is the point of no return. This module opens, proves, commits and rolls
//! back that transaction; it never decides which of it is to happen.

mod arm;
mod ddl;
mod hold;
mod lift;
mod lockout;
mod obstacle;
mod plan;
mod still;
mod truth;
mod turnstile;

use crate::connection::ConnectError;
use crate::cutover::SqlFailure;
use crate::model::TableName;

pub(crate) use arm::armed_tables;
pub use arm::{ArmBound, arm, disarm, is_armed};
pub use hold::{CommitAnswer, Fence, FenceTerms};
pub use lift::{closed_tables, lift_sql, pass};
pub use lockout::{Objection, TurnedOut, is_locked_out, objection, turn_out};
pub(crate) use obstacle::ENABLED_SUBSCRIPTIONS;
pub use obstacle::{
    Obstacle, clients, long_transactions, prepared_transactions, subscriptions, wraparound_vacuums,
};
pub use plan::{FencePlan, FencedTable, FrozenSequence, locks_needed, read_plan, unfenced_parents};
pub use truth::{FenceRow, read_truth};
pub use turnstile::stand_down;

/// Schema of everything this program keeps on the source.
const SCHEMA: &str = "pgsluice";
/// What is there of a fence, also where everything else of ours was removed.
pub const TABLES: [&str; 3] = ["fence", "turnstile", "locked_out"];
/// The trigger that refuses writes under the fence, on every published table from arming on.
pub const DENY_TRIGGER: &str = "pgsluice_deny";

/// `pg_trigger.tgenabled` of a trigger that is `ENABLE ALWAYS`.
const ENABLED: u8 = b'A';
/// The setting that a session carries the fence's nonce in, so that the deny triggers let it pass.
const PASS_SETTING: &str = "pgsluice.pass";

/// The fence could not be armed, taken or read. Nothing is committed on the source when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlFailure),
    /// A session could not be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The publication is not there or has no tables.
    #[error("the publication `{publication}` has no tables on the source, so there is nothing to fence")]
    NothingPublished {
        /// Its name.
        publication: String,
    },
    /// Tables or sequences came or went between arming and locking.
    #[error("the set of tables or sequences changed while the cutover was being prepared: {}", names(.differing))]
    SetChanged {
        /// Those that are in one set only.
        differing: Vec<TableName>,
    },
    /// A transaction that wrote before the turnstile was in place has not ended.
    #[error("a transaction that has written did not end within {bound_seconds} s: {obstacle}")]
    OlderWriter {
        /// How long it was waited for.
        bound_seconds: u64,
        /// Whose it is.
        obstacle: Box<Obstacle>,
    },
    /// Somebody made a table or a sequence while the fence was held, has not committed it, and waits for the fence.
    #[error("a transaction that has made a table waits for the fence: {obstacle}")]
    MadeMeanwhile {
        /// Whose it is.
        obstacle: Box<Obstacle>,
    },
    /// The deny triggers do not ask for the turnstile: writers would pass the fence.
    #[error("the deny triggers were changed while the cutover was being prepared")]
    Bypassed,
    /// Somebody changes a table's definition, or vacuums it, and does not end.
    #[error("the definition of {} could not be held still within {bound_seconds} s{}", .table.plain(), in_the_way(.obstacle))]
    DefinitionInUse {
        /// The table.
        table: TableName,
        /// How long it was waited for.
        bound_seconds: u64,
        /// Who holds it.
        obstacle: Option<Box<Obstacle>>,
    },
    /// A table's lock was not to be had while arming.
    #[error("the deny trigger of {table} could not be created within {bound_seconds} s{}", in_the_way(.obstacle))]
    ArmBlocked {
        /// The table.
        table: TableName,
        /// How long it was tried.
        bound_seconds: u64,
        /// Who holds it.
        obstacle: Option<Box<Obstacle>>,
    },
    /// Clients cannot be kept from connecting.
    #[error("clients cannot be locked out, as `cutover.lock_out` says: {problem}")]
    CannotLockOut {
        /// Why.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The rights on the database, or its settings, are being changed by somebody else.
    #[error("somebody changes the rights on the database, or its settings, at this moment")]
    DatabaseInUse,
    /// The fence row cannot be read because the fence transaction is still open on the source.
    #[error("the fence transaction of an earlier cutover is still open on the source")]
    StillOpen,
    /// A row of an earlier cutover is there.
    #[error("the source is fenced already: it has moved to {moved_to} (epoch {epoch})")]
    AlreadyCommitted {
        /// Its epoch.
        epoch: i64,
        /// Where the source's clients are sent.
        moved_to: String,
    },
}

impl FenceError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Sql(failure) => failure.remedy(),
            Self::Connect(error) => error.remedy(),
            Self::NothingPublished { publication } => format!(
                "Check `source.publication`, and that nobody dropped the publication `{publication}`; pgsluice \
                 creates it before the copy."
            ),
            Self::SetChanged { .. } | Self::MadeMeanwhile { .. } => {
                "Start the cutover again: it prepares itself anew. If the table is new, check \
                 that it is in the publication and on the target first."
                    .into()
            }
            Self::Bypassed => "Start the cutover again: it prepares itself anew. Only one pgsluice may run for a migration.".into(),
            Self::DefinitionInUse { .. } => {
                "Let that statement end (CREATE INDEX, VACUUM, ALTER TABLE, say), or end it, then start the cutover again."
                    .into()
            }
            Self::ArmBlocked { .. } | Self::OlderWriter { .. } => {
                "Let the transaction that is in the way end, or end it, then start the cutover again.".into()
            }
            Self::CannotLockOut { remedy, .. } => remedy.clone(),
            Self::DatabaseInUse => "Let them end (GRANT, REVOKE, ALTER DATABASE), then start the cutover again.".into(),
            Self::StillOpen => {
                "Wait: the server ends it after idle_in_transaction_session_timeout; or end the session \
                 `pgsluice fence` with pg_terminate_backend."
                    .into()
            }
            Self::AlreadyCommitted { .. } => {
                "The migration is over. If it was undone by hand, remove the fence with \
                 `pgsluice cleanup --unfence-source`."
                    .into()
            }
        }
    }
}

fn names(tables: &[TableName]) -> String {
    const SHOWN_MAX: usize = 5;
    let mut text = tables.iter().take(SHOWN_MAX).map(TableName::plain).collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = tables.len().checked_sub(SHOWN_MAX) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn in_the_way(obstacle: &Option<Box<Obstacle>>) -> String {
    obstacle.as_ref().map(|obstacle| format!("; in the way: {obstacle}")).unwrap_or_default()
}
