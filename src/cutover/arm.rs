//! Arming: everything a cutover needs that writers do not notice, done before the pause begins. What it leaves on
//! the servers (triggers that let everybody pass, a closed gate) is reused by the next attempt and removed by `cleanup`.

use std::time::Duration;

use futures_util::future::try_join;
use serde_json::{Value, json};

use super::driver::{lag_is_small, stream_waits};
use super::operation::{Armed, Operation};
use super::securing::enough_standbys;
use super::state::Event;
use super::unfenced::no_large_objects;
use super::{CutoverError, SqlFailure, opening, way_back};
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::join;
use crate::migration::CutoverMode;
use crate::model::Side;
use crate::source::fence::{self, ArmBound, Fence, FencePlan};
use crate::source::publication::{self, PublicationOwner, PublicationShape};
use crate::stream::unfollowed_change;
use crate::target::{gate, sequences};
use crate::traffic::Step;

/// How long closing the target's gate may wait for one table.
const GATE_BOUND: Duration = Duration::from_secs(60);

impl Operation {
    /// Everything that writers do not notice: connections, deny triggers, the target's gate, the adapters, and
    /// every catalog entry read once so that the pause does not have to.
    pub(super) async fn arm(&mut self) -> Result<Event, CutoverError> {
        let config = std::sync::Arc::clone(&self.ctx.config);
        self.armed_way_back = self.mode() == CutoverMode::Cutover;
        // Armed again: what the first time holds would be in the way.
        self.armed = None;
        let source = &config.source.connection;
        let (fence_session, marker) =
            try_join(connect_sql(source, Side::Source, "fence"), connect_sql(source, Side::Source, "marker"))
                .await?;
        marker
            .batch_execute("SET synchronous_commit = on")
            .await
            .map_err(SqlFailure::of(Side::Source, "prepare the marker's session"))?;
        let control = self.control()?;
        let plan = fence::read_plan(control, &self.terms.publication).await?;
        let target = self.target.as_ref().ok_or_else(|| {
            CutoverError::refuted("the target's session is gone", "Start the operation again.")
        })?;
        enough_standbys(target, config.target.durability).await?;
        let missing = sequences::missing(target, &plan.sequence_names()).await?;
        if let Some(first) = missing.first() {
            return Err(CutoverError::refuted(
                format!(
                    "{} of the source's sequences are not on the target, {first} among them",
                    missing.len()
                ),
                "Create them on the target with the source's definition (pg_dump --schema-only), then start again.",
            ));
        }
        fence::arm(control, &plan, &self.terms, ArmBound::default()).await?;
        close(target, &plan).await?;
        let notes = match self.mode() {
            CutoverMode::Cutover => self.traffic.perform(Step::Prepare, &self.traffic_context).await?,
            CutoverMode::Rehearsal => self.traffic.rehearse(&self.traffic_context).await,
        };
        let way_back = match &self.ctx.way_back {
            Some(back) if self.mode() == CutoverMode::Cutover => {
                Some(way_back::prepare(back, control, target, &plan, &self.ctx.shutdown).await?)
            }
            _ => None,
        };
        opening::rehearse(target, self.terms.epoch).await?;
        let servers = try_join(about(control, Side::Source), about(target, Side::Target)).await?;
        // Read again: the triggers are there now.
        let plan = fence::read_plan(control, &self.terms.publication).await?;
        nothing_left_behind(control, target, &config).await?;
        no_large_objects(control, &config).await?;
        definitions_followed(control, target, &config).await?;
        let mut fence = Fence::prepare(fence_session, plan).await?;
        sequences::read(target, Side::Target, &fence.plan().sequence_names()).await?;
        if let Some((problem, remedy)) = stream_waits(&self.ctx.board) {
            return Err(CutoverError::Refuted { problem, remedy });
        }
        let lag = self.ctx.board.with(|status| status.lag.bytes);
        lag_is_small(lag, config.cutover.max_lag_bytes)
            .map_err(|(problem, remedy)| CutoverError::Refuted { problem, remedy })?;
        let clients = fence::clients(control).await?;
        // Last, because others' definitions wait from now on.
        fence.hold_still(control, &self.terms).await?;
        fence.warm_up(&self.terms).await?;
        self.servers = servers.into();
        self.clients = clients;
        self.notes = notes;
        self.armed = Some(Armed { fence, marker, way_back });
        Ok(Event::Armed)
    }
}

/// Closes the target to applications, table by table: by the fence that closed it when it was left, or by the gate.
async fn close(target: &SqlSession, plan: &FencePlan) -> Result<(), CutoverError> {
    let fenced = fence::closed_tables(target).await?;
    let open: Vec<_> = plan.table_names().into_iter().filter(|table| !fenced.contains(table)).collect();
    if !open.is_empty() {
        gate::close(target, &open, GATE_BOUND).await?;
    }
    Ok(())
}

/// Every selected table is in the stream with all of its changes (INV-5), and the target shows no rows that the source has
/// dropped. Asked when an operation is accepted, and again when everything is armed: what comes later, the fence finds.
pub(super) async fn nothing_left_behind(
    source: &SqlSession,
    target: &SqlSession,
    config: &Config,
) -> Result<(), CutoverError> {
    let view = join::look(source, target, &config.source.publication).await.map_err(|error| {
        CutoverError::refuted(format!("The tables cannot be looked at: {error}."), error.remedy())
    })?;
    if let Some((table, outside)) = join::assess(&view, &config.source.tables).first_obstacle() {
        return Err(CutoverError::refuted(
            format!("Table {} would be left behind or wrong: {}", table.plain(), outside.explanation),
            outside.remedy.clone(),
        ));
    }
    let name = &config.source.publication;
    let state = publication::inspect(source, name).await.map_err(|error| {
        CutoverError::refuted(format!("The publication cannot be looked at: {error}."), "Start it again.")
    })?;
    match state {
        Some(state) if state.owner == PublicationOwner::Ours && state.shape == PublicationShape::Whole => {
            Ok(())
        }
        _ => Err(CutoverError::refuted(
            format!(
                "Publication \"{name}\" on the source is not as pgsluice made it: changes of its tables may be missing \
                 on the target."
            ),
            "Leave the source the primary and start the migration over: `pgsluice cleanup`, then an empty target.",
        )),
    }
}

/// Every table on the target has the shape of the source's, also where nothing was written since it was changed.
pub(super) async fn definitions_followed(
    source: &SqlSession,
    target: &SqlSession,
    config: &Config,
) -> Result<(), CutoverError> {
    match unfollowed_change(source, target, &config.source.publication).await {
        Ok(None) => Ok(()),
        Ok(Some(difference)) => Err(CutoverError::refuted(difference.to_string(), difference.remedy)),
        Err(error) => Err(CutoverError::refuted(
            format!("The definitions of the two sides cannot be compared: {error}."),
            "Start it again.",
        )),
    }
}

/// What the certificate says of a server. The system identifier is left out where the role may not read it.
async fn about(session: &SqlSession, side: Side) -> Result<Value, CutoverError> {
    let row = session
        .query_typed_one(
            "SELECT current_setting('server_version'), current_database()::text,
                    has_function_privilege('pg_control_system()', 'EXECUTE')",
            &[],
        )
        .await
        .map_err(SqlFailure::of(side, "read the server's version"))?;
    let may_read: bool = row.get(2);
    let system_id: Option<String> = if may_read {
        let row = session
            .query_typed_one("SELECT system_identifier::text FROM pg_control_system()", &[])
            .await
            .map_err(SqlFailure::of(side, "read the server's identity"))?;
        row.get(0)
    } else {
        None
    };
    Ok(json!({
        "version": row.get::<_, String>(0),
        "database": row.get::<_, String>(1),
        "system_identifier": system_id,
    }))
}
