//! Both directions of a migration, one after the other: forward until the cutover, then back, so that the side that was
//! left stays current and a rollback loses nothing, and forward again after a rollback. Each leg knows only a source and a
//! target; which of the configured databases they are, and when the direction turns, is here.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::command::Command;
use super::error::MigrationError;
use super::status::{Blocking, LagView, Phase, Positions, Problem, SlotView, StatusBoard};
use super::task::{LegEnd, Migration};
use crate::config::Config;
use crate::cutover::Probe;
use crate::kubernetes::cnpg::ClusterWatch;
use crate::model::{Direction, Side};
use crate::runtime::{Backoff, Shutdown};
use crate::snapshot::PostDataAhead;
use crate::stream::{StreamHandle, StreamPublisher};
use crate::telemetry::Metrics;

/// Delays between tries to reach the side that was left: it is needed for the way back only.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(15);

/// The direction in which changes go now.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The configuration in this direction.
    pub config: Arc<Config>,
    /// What its stream has done.
    pub stream: StreamHandle,
}

/// A migration with its way back.
#[derive(Debug)]
pub struct Legs {
    forward: Arc<Config>,
    back: Arc<Config>,
    probe: Option<Arc<dyn Probe>>,
    cluster: Option<ClusterWatch>,
    board: StatusBoard,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    current: watch::Sender<Leg>,
    first: Option<StreamPublisher>,
}

impl Legs {
    /// A migration that has not begun, and the leg it is on.
    #[must_use]
    pub fn new(
        forward: Arc<Config>,
        board: StatusBoard,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) -> (Self, watch::Receiver<Leg>) {
        let (publisher, stream) = StreamPublisher::new();
        let (current, seen) = watch::channel(Leg { config: Arc::clone(&forward), stream });
        let back = Arc::new(forward.way_back());
        let first = Some(publisher);
        let legs =
            Self { forward, back, probe: None, cluster: None, board, metrics, shutdown, current, first };
        (legs, seen)
    }

    /// The same, into a cluster that is watched.
    #[must_use]
    pub fn into_cluster(mut self, cluster: Option<ClusterWatch>) -> Self {
        self.cluster = cluster;
        self
    }

    /// The same, with somebody who is told of every action of its cutovers and rollbacks.
    #[must_use]
    pub fn watched_by(mut self, probe: Arc<dyn Probe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Runs until shutdown, one leg after the other.
    ///
    /// # Errors
    /// [`MigrationError`]: its exit code says whether a person has to decide something.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), MigrationError> {
        let mut direction = Direction::Forward;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let leg = self.begin(direction);
            match Box::pin(leg.run(&mut commands)).await {
                Ok(LegEnd::Stopped) => return Ok(()),
                Ok(LegEnd::Turned) => {
                    direction = direction.opposite();
                    backoff.reset();
                    tracing::info!(%direction, "the direction has turned");
                }
                Ok(LegEnd::NoWayBack) => {
                    let leg = self.begin(Direction::Forward);
                    tracing::info!("the cutover was made without a way back");
                    return leg.serve_without_way_back(&mut commands).await;
                }
                Err(MigrationError::Connect(error))
                    if direction == Direction::Back && error.side() == Side::Target =>
                {
                    if !self.forward.cutover.reverse {
                        return self.begin(Direction::Forward).serve_without_way_back(&mut commands).await;
                    }
                    self.way_back_waits(&error.to_string(), error.remedy());
                    if self.refusing(&mut commands, backoff.next_delay()).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What runs in `direction`, with positions of its own: those of the other direction are of another server's WAL.
    fn begin(&mut self, direction: Direction) -> Migration {
        let (config, other) = match direction {
            Direction::Forward => (&self.forward, &self.back),
            Direction::Back => (&self.back, &self.forward),
        };
        let (config, other) = (Arc::clone(config), Arc::clone(other));
        let (publisher, stream) = match self.first.take() {
            Some(publisher) => (publisher, self.current.borrow().stream.clone()),
            None => StreamPublisher::new(),
        };
        self.current.send_replace(Leg { config: Arc::clone(&config), stream: stream.clone() });
        self.board.update(|status| {
            status.direction = config.direction;
            status.positions = Positions::default();
            status.lag = LagView::default();
            status.slot = SlotView::default();
            status.standbys = None;
            status.standings.clear();
            status.join_notes.clear();
            status.problem = None;
        });
        Migration {
            config,
            other,
            probe: self.probe.clone(),
            board: self.board.clone(),
            cluster: self.cluster.clone(),
            metrics: Arc::clone(&self.metrics),
            publisher,
            stream,
            post_data: PostDataAhead::default(),
            shutdown: self.shutdown.clone(),
        }
    }

    fn way_back_waits(&self, error: &str, remedy: String) {
        let message = format!(
            "The target is the primary and works. The side that was left is not kept current: {error} (on the way back it is \
             the target). Meanwhile the new primary keeps the WAL for it"
        );
        tracing::warn!(message, remedy, "way back");
        let remedy = format!(
            "{remedy} If it does not come back, stop pgsluice and end the way back: `pgsluice cleanup --without-source`."
        );
        let problem = Problem { message, remedy, at: Timestamp::now(), blocking: Blocking::Retrying };
        self.board.update(|status| status.problem = Some(problem));
        self.board.enter(Phase::CutOver);
    }

    /// Waits, refusing commands; whether the program is to stop.
    async fn refusing(&self, commands: &mut mpsc::Receiver<Command>, delay: Duration) -> bool {
        let over = tokio::time::sleep(delay);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = self.shutdown.requested() => return true,
                () = &mut over => return false,
                Some(command) = commands.recv() => {
                    super::cut_over::answer_cut_over(command, &self.board, None);
                }
            }
        }
    }
}
