//! How tables join: definition, publication, a temporary slot whose snapshot is the moment from which their changes count,
//! the copy under it, indexes. The order is what makes it exact: published before the slot (trap 17), so that every
//! transaction is either in the snapshot or in the stream with all of its changes. Each step finds what an interrupted
//! join has left; on the source nothing is left but the membership in the publication.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::foreign_keys::build as build_foreign_keys;
use super::request::{family, suitable};
use super::standing::{Joinable, Origin};
use super::{JoinError, place};
use crate::config::{Config, SchemaMode, TableFilter};
use crate::connection::{SqlSession, connect_sql};
use crate::migration::StatusBoard;
use crate::model::{Lsn, Oid, Side, TableName};
use crate::preflight::Severity;
use crate::runtime::Shutdown;
use crate::snapshot::{self, SnapshotContext};
use crate::source::catalog::{self, SourceTable};
use crate::source::fence;
use crate::source::publication;
use crate::source::published::{self, PublishedRelation};
use crate::source::slot::{self, ExportedSlot, OldTransaction};
use crate::target::relations::{self, JoinState, RelationRecord};
use crate::target::{gate, lock, schema};
use crate::telemetry::Metrics;

/// How long closing the gate of the joining tables may wait for locks.
const GATE_LOCK_WAIT: Duration = Duration::from_secs(30);
/// How often membership may change under a join's slot before it is given up for now.
const STEADY_TRIES_MAX: u32 = 5;
/// Slots' names are short.
const SLOT_NAME_PREFIX_MAX: usize = 40;

/// What a join needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JoinContext {
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// Where progress is published.
    pub board: StatusBoard,
    /// Where work is counted.
    pub metrics: Arc<Metrics>,
    /// Ends the join; the next start goes on with it.
    pub shutdown: Shutdown,
}

/// Takes tables into the running migration. When it returns, their changes are applied from their own snapshot on.
///
/// # Errors
/// [`JoinError`]; the next try begins again with what is there.
pub async fn join(context: &JoinContext, tables: &[Joinable]) -> Result<(), JoinError> {
    let (source, target) = connect(context).await?;
    let mut join = Join { context, source, target };
    let requested: Vec<&Joinable> = tables.iter().filter(|table| table.origin == Origin::Requested).collect();
    let roots = join.publish(&requested).await?;
    let chosen: BTreeSet<Oid> = tables.iter().map(|table| table.oid).collect();
    let begun = join.begin(&chosen, &roots).await?;
    join.copy(&begun).await?;
    join.index(&begun).await?;
    join.finish(&begun, &requested).await
}

/// Builds the foreign keys of tables that have joined, between them and all others. The stream has passed their snapshot,
/// so that both sides of each are at the same moment.
///
/// # Errors
/// [`JoinError::ForeignKey`]; those that could be built are.
pub async fn foreign_keys(context: &JoinContext, tables: &[Oid]) -> Result<(), JoinError> {
    let (source, target) = connect(context).await?;
    build_foreign_keys(&source, &target, tables).await?;
    target.batch_execute(&place::finished_sql(tables)).await.map_err(JoinError::target)
}

async fn connect(context: &JoinContext) -> Result<(SqlSession, SqlSession), JoinError> {
    let config = &context.config;
    let source = connect_sql(&config.source.connection, Side::Source, "join").await?;
    let target = connect_sql(&config.target.connection, Side::Target, "join").await?;
    // That a record's table is there already is no news.
    target.batch_execute("SET client_min_messages = warning").await.map_err(JoinError::target)?;
    fence::pass(&*target).await.map_err(JoinError::target)?;
    // A successor of a killed run must not look at the target while this session may still commit.
    lock::join_writers(&target).await.map_err(JoinError::target)?;
    Ok((source, target))
}

/// One join under way.
struct Join<'a> {
    context: &'a JoinContext,
    source: SqlSession,
    target: SqlSession,
}

/// A join that has its snapshot. The slot lives as long as this does.
struct Begun {
    slot: ExportedSlot,
    /// As of the snapshot.
    tables: Vec<SourceTable>,
    relations: Vec<PublishedRelation>,
}

impl Begun {
    fn oids(&self) -> Vec<Oid> {
        self.tables.iter().map(|table| table.oid).collect()
    }

    fn names(&self) -> Vec<TableName> {
        self.tables.iter().map(|table| table.name.clone()).collect()
    }
}

impl Join<'_> {
    /// Definition and publication of what was asked for; the names of the partitioned tables among it come back.
    async fn publish(&self, requested: &[&Joinable]) -> Result<BTreeSet<TableName>, JoinError> {
        let config = &self.context.config;
        let all = catalog::read_tables(&self.source, &TableFilter::default()).await?;
        let wanted: Vec<&SourceTable> =
            all.iter().filter(|table| requested.iter().any(|each| each.oid == table.oid)).collect();
        let parts: Vec<&SourceTable> = wanted.iter().flat_map(|table| family(&all, table)).collect();
        parts.iter().try_for_each(|table| suitable(table))?;
        if config.schema.mode == SchemaMode::Copy {
            self.define(&parts).await?;
        }
        if !wanted.is_empty() {
            publication::add(&self.source, &config.source.publication, &wanted, &self.context.shutdown)
                .await?;
        }
        Ok(wanted.iter().filter(|table| !table.holds_rows()).map(|table| table.name.clone()).collect())
    }

    /// Creates those tables that the target lacks; one that it has is taken as it is.
    async fn define(&self, parts: &[&SourceTable]) -> Result<(), JoinError> {
        let names: Vec<String> = parts.iter().map(|table| table.name.to_string()).collect();
        let rows = self
            .target
            .query("SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL", &[&names])
            .await
            .map_err(JoinError::target)?;
        let missing: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let (oids, names): (Vec<Oid>, Vec<TableName>) = parts
            .iter()
            .filter(|table| missing.contains(&table.name.to_string()))
            .map(|table| (table.oid, table.name.clone()))
            .unzip();
        if names.is_empty() {
            return Ok(());
        }
        let context = self.context;
        schema::copy_table_definitions(
            &context.config,
            &self.source,
            &self.target,
            &names,
            &place::defined_sql(&oids),
            &context.shutdown,
        )
        .await
        .map_err(JoinError::Definition)
    }

    /// Slot and snapshot, and what the tables are at that moment.
    ///
    /// Their place in the publication is compared from before the slot to the snapshot: what was detached and attached in
    /// between may have lost changes of transactions that are in neither.
    async fn begin(
        &mut self,
        chosen: &BTreeSet<Oid>,
        roots: &BTreeSet<TableName>,
    ) -> Result<Begun, JoinError> {
        let context = self.context;
        let publication = &context.config.source.publication;
        let records = relations::read(&self.target).await?;
        let is_joined = |oid| records.get(&oid).is_some_and(|record| record.state == JoinState::Joined);
        // The running stream applies changes of joined tables, and goes on with that: they are not for a join to take back.
        let is_chosen = |relation: &PublishedRelation| {
            let below_a_chosen = relation.root.as_ref().is_some_and(|root| roots.contains(root));
            chosen.contains(&relation.oid) || (below_a_chosen && !is_joined(relation.oid))
        };
        for _ in 0..STEADY_TRIES_MAX {
            publication::refresh(&self.source, publication).await?;
            let mut before = published::read(&self.source, publication).await?;
            before.retain(is_chosen);
            self.announce(&before).await?;
            let slot = self.create_slot(&before).await?;
            let mut relations = self.read_at(&slot.snapshot_name, publication).await?;
            relations.1.retain(is_chosen);
            let places = |relations: &[PublishedRelation]| -> BTreeMap<Oid, String> {
                relations.iter().map(|each| (each.oid, each.membership.clone())).collect()
            };
            if places(&before) == places(&relations.1) {
                let (mut tables, relations) = relations;
                tables.retain(|table| relations.iter().any(|relation| relation.oid == table.oid));
                let begun = Begun { slot, tables, relations };
                self.compare(&begun).await?;
                return Ok(begun);
            }
            tracing::info!(
                "the joining tables were attached or detached meanwhile: another snapshot is taken"
            );
        }
        Err(JoinError::Unsteady)
    }

    /// Says that they join, before there is a snapshot: what the stream meets of them until then waits. Closes the target.
    async fn announce(&self, relations: &[PublishedRelation]) -> Result<(), JoinError> {
        let names: Vec<TableName> = relations.iter().map(|relation| relation.name.clone()).collect();
        gate::close(&self.target, &names, GATE_LOCK_WAIT).await?;
        self.record(relations, None).await
    }

    async fn record(&self, relations: &[PublishedRelation], join_lsn: Option<Lsn>) -> Result<(), JoinError> {
        let records: Vec<String> = relations
            .iter()
            .map(|relation| {
                relations::upsert_sql(&RelationRecord {
                    source_oid: relation.oid,
                    name: relation.name.clone(),
                    columns: relation.columns.clone(),
                    target_oid: None,
                    state: JoinState::Copying,
                    join_lsn,
                    membership: relation.membership.clone(),
                })
            })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        let sql = format!("BEGIN; {}; COMMIT", records.join("; "));
        self.target.batch_execute(&sql).await.map_err(JoinError::target)
    }

    async fn create_slot(&self, joining: &[PublishedRelation]) -> Result<ExportedSlot, JoinError> {
        let context = self.context;
        let prefix: String = context.config.source.slot.chars().take(SLOT_NAME_PREFIX_MAX).collect();
        let name = format!("{prefix}_join_{:08x}", rand::random::<u32>());
        let names: Vec<&TableName> = joining.iter().map(|relation| &relation.name).collect();
        let created = slot::create_temporary(
            &context.config.source.connection,
            &name,
            |older| note_waiting(&context.board, &names, older),
            &context.shutdown,
        )
        .await;
        note_waiting(&context.board, &names, &[]);
        Ok(created?)
    }

    /// The catalog as of the snapshot.
    async fn read_at(
        &self,
        snapshot_name: &str,
        publication: &str,
    ) -> Result<(Vec<SourceTable>, Vec<PublishedRelation>), JoinError> {
        let session =
            connect_sql(&self.context.config.source.connection, Side::Source, "join catalog").await?;
        snapshot::import_snapshot(&session, snapshot_name).await?;
        let tables = catalog::read_tables(&session, &TableFilter::default()).await?;
        let relations = published::read(&session, publication).await?;
        session.close().await;
        Ok((tables, relations))
    }

    /// The target's tables must be able to take every row.
    async fn compare(&self, begun: &Begun) -> Result<(), JoinError> {
        begun.tables.iter().try_for_each(suitable)?;
        for table in &begun.tables {
            self.refuse_rows_of_another(table).await?;
        }
        let findings =
            schema::compare_existing(&self.target, &begun.tables).await.map_err(JoinError::Definition)?;
        let blocker = findings.into_iter().find(|finding| finding.severity == Severity::Blocker);
        match blocker {
            None => Ok(()),
            Some(finding) => {
                let table = begun.tables.iter().find(|table| table.name.plain() == finding.subject);
                Err(JoinError::Unsuitable {
                    table: table
                        .map_or_else(|| TableName::new("", &finding.subject), |table| table.name.clone()),
                    problem: finding.finding,
                    remedy: finding.remedy,
                })
            }
        }
    }

    /// The target's table of this name may hold the rows of a table that the source has renamed since: they are not to go.
    async fn refuse_rows_of_another(&self, table: &SourceTable) -> Result<(), JoinError> {
        let holders = self
            .target
            .query(
                "SELECT source_oid FROM pgsluice.relation
                  WHERE target_oid = to_regclass($1)::oid AND source_oid <> $2",
                &[&table.name.to_string(), &table.oid.0],
            )
            .await
            .map_err(JoinError::target)?;
        let holders: Vec<u32> = holders.iter().map(|row| row.get(0)).collect();
        let living = self
            .source
            .query(
                "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = ANY ($1) LIMIT 1",
                &[&holders],
            )
            .await
            .map_err(JoinError::source)?;
        let Some(row) = living.first() else { return Ok(()) };
        let other = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        Err(JoinError::Unsuitable {
            table: table.name.clone(),
            problem: format!(
                "the target's table of this name holds the rows of the source's table {}, which had this name before",
                other.plain()
            ),
            remedy: format!(
                "Give the target's {} the name {} first, as the source did; it is tried again by itself.",
                table.name,
                other.plain()
            ),
        })
    }

    /// Rows of an earlier copy go; those of this one come, under the snapshot.
    async fn copy(&mut self, begun: &Begun) -> Result<(), JoinError> {
        let context = self.context;
        let names = begun.names();
        snapshot::reset_tables(&mut self.target, &names).await?;
        self.record(&begun.relations, Some(begun.slot.consistent_lsn)).await?;
        tracing::info!(tables = names.len(), consistent_lsn = %begun.slot.consistent_lsn, "tables are being copied");
        let summary = snapshot::copy_all(SnapshotContext {
            source: &context.config.source.connection,
            target: &context.config.target.connection,
            snapshot_name: &begun.slot.snapshot_name,
            slot: &context.config.source.slot,
            tables: &begun.tables,
            config: &context.config.snapshot,
            board: &context.board,
            metrics: &context.metrics,
            shutdown: &context.shutdown,
        })
        .await?;
        tracing::info!(rows = summary.rows, bytes = summary.bytes, "tables are copied");
        Ok(())
    }

    /// Statistics, then indexes and constraints where the definition is ours.
    async fn index(&self, begun: &Begun) -> Result<(), JoinError> {
        for table in &begun.tables {
            let analyze = format!("ANALYZE {}", table.name);
            self.target.batch_execute(&analyze).await.map_err(JoinError::target)?;
        }
        let due: BTreeSet<Oid> = place::read(&self.target)
            .await?
            .into_iter()
            .filter(|(_, place)| place.indexes_due)
            .map(|(oid, _)| oid)
            .collect();
        let all = catalog::read_tables(&self.source, &TableFilter::default()).await?;
        let ours = begun.oids();
        let is_ours = |table: &&SourceTable| {
            let below_ours = family(&all, table).iter().any(|part| ours.contains(&part.oid));
            due.contains(&table.oid) && (below_ours || !table.holds_rows())
        };
        let (oids, names): (Vec<Oid>, Vec<TableName>) =
            all.iter().filter(is_ours).map(|table| (table.oid, table.name.clone())).unzip();
        if names.is_empty() {
            return Ok(());
        }
        let context = self.context;
        schema::copy_table_indexes(
            &context.config,
            &self.source,
            &self.target,
            &names,
            &place::indexed_sql(&oids),
            &context.shutdown,
        )
        .await
        .map_err(JoinError::Definition)
    }

    /// From here on their changes are applied. A wish for a partitioned table is fulfilled by its partitions.
    async fn finish(&self, begun: &Begun, requested: &[&Joinable]) -> Result<(), JoinError> {
        let joined = begun.tables.iter().map(|table| relations::joined_sql(table.oid));
        let fulfilled = requested
            .iter()
            .filter(|wish| !begun.tables.iter().any(|table| table.oid == wish.oid))
            .map(|wish| relations::forget_sql(wish.oid));
        let statements: Vec<String> = joined.chain(fulfilled).collect();
        let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
        self.target.batch_execute(&sql).await.map_err(JoinError::target)?;
        for table in &begun.tables {
            tracing::info!(table = %table.name.plain(), "table has joined the migration");
        }
        Ok(())
    }
}

/// Says whom the slot waits for (trap 18).
fn note_waiting(board: &StatusBoard, tables: &[&TableName], older: &[OldTransaction]) {
    let note = older.first().map(|first| {
        format!("Its snapshot waits for {} older transaction(s) on the source, first {first}", older.len())
    });
    board.update(|status| {
        for table in tables {
            match &note {
                Some(note) => status.join_notes.insert(
                    (*table).clone(),
                    crate::migration::JoinNote {
                        message: note.clone(),
                        remedy:
                            "Let them end, or end them with SELECT pg_terminate_backend(pid); on the source."
                                .into(),
                        is_failure: false,
                    },
                ),
                None => status.join_notes.remove(*table),
            };
        }
    });
}
