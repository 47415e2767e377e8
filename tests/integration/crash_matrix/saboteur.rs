//! Who strikes: told of every action of the operation, it brings down what it is to bring down at the moment it was told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgsluice::cutover::{Action, Again, Probe};
use pgsluice::demo::cluster::StopMode;
use tokio::sync::Notify;

use crate::harness::clusters::connect;
use crate::harness::proxy::{Network, Proxy};
use crate::harness::stage::Stage;

/// How long a server is away, and how long the network is.
const SERVER_AWAY: Duration = Duration::from_millis(200);
const NETWORK_AWAY: Duration = Duration::from_millis(700);

/// A cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) action: Action,
    pub(super) moment: Moment,
    pub(super) victim: Victim,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Before,
    After,
    /// The action is done, what is to be struck is struck, and the action is done again; where the program dies, it has done
    /// it twice.
    Repeated,
}

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Replicator,
    Source,
    Target,
    Network,
}

/// The place of an action in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

impl Moment {
    pub(super) const ALL: [Self; 3] = [Self::Before, Self::After, Self::Repeated];

    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::Before => "bef",
            Self::After => "aft",
            Self::Repeated => "rep",
        }
    }
}

impl Victim {
    pub(super) const ALL: [Self; 4] = [Self::Replicator, Self::Source, Self::Target, Self::Network];

    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::Replicator => "repl",
            Self::Source => "sour",
            Self::Target => "targ",
            Self::Network => "netw",
        }
    }
}

/// Where in the operation the plan is.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cell: Cell,
    performed: u32,
}

pub(super) struct Saboteur {
    stage: Arc<tokio::sync::Mutex<Stage>>,
    proxies: Arc<[Proxy; 2]>,
    plan: Mutex<Option<Plan>>,
    has_struck: AtomicBool,
    /// The program is to die.
    pub(super) death: Notify,
    /// The operation is to be aborted.
    pub(super) abort: Notify,
}

impl std::fmt::Debug for Saboteur {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saboteur").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Saboteur {
    /// `proxies`: those that the program reaches the source and the target by.
    pub(super) fn new(stage: Arc<tokio::sync::Mutex<Stage>>, proxies: [Proxy; 2]) -> Self {
        Self {
            stage,
            proxies: Arc::new(proxies),
            plan: Mutex::new(None),
            has_struck: AtomicBool::new(false),
            death: Notify::new(),
            abort: Notify::new(),
        }
    }

    pub(super) fn arm(&self, cell: Cell) {
        self.has_struck.store(false, Ordering::SeqCst);
        *self.plan.lock().expect("no panic under the lock") = Some(Plan { cell, performed: 0 });
    }

    pub(super) fn has_struck(&self) -> bool {
        self.has_struck.load(Ordering::SeqCst)
    }

    fn plan(&self) -> Option<Plan> {
        *self.plan.lock().expect("no panic under the lock")
    }

    async fn strike(&self, victim: Victim) {
        *self.plan.lock().expect("no panic under the lock") = None;
        self.has_struck.store(true, Ordering::SeqCst);
        let (stage, proxies) = (Arc::clone(&self.stage), Arc::clone(&self.proxies));
        // In a task of its own: an operation that gives up meanwhile must not leave a server lying.
        let struck = match victim {
            Victim::Replicator => {
                self.death.notify_one();
                return std::future::pending().await;
            }
            Victim::Source => tokio::spawn(async move {
                let mut stage = stage.lock().await;
                stage.source.stop(StopMode::Kill).await.expect("killed");
                tokio::time::sleep(SERVER_AWAY).await;
                stage.source.start_again().await.expect("the source is back");
            }),
            Victim::Target => tokio::spawn(async move {
                let mut stage = stage.lock().await;
                stage.target.stop(StopMode::Kill).await.expect("killed");
                tokio::time::sleep(SERVER_AWAY).await;
                stage.target.start_again().await.expect("the target is back");
            }),
            Victim::Network => tokio::spawn(async move {
                for proxy in proxies.iter() {
                    proxy.set(Network::Down);
                }
                tokio::time::sleep(NETWORK_AWAY).await;
                for proxy in proxies.iter() {
                    proxy.set(Network::Up);
                }
            }),
        };
        struck.await.expect("no panic");
    }

    /// Some actions come only when something goes wrong: makes it go wrong.
    async fn lead_to(&self, wanted: Action, action: Action) {
        match (wanted, action) {
            (Action::ReleaseFence | Action::UndoTraffic | Action::Disarm, Action::SecureTarget) => {
                self.abort.notify_one();
                std::future::pending().await
            }
            (Action::ReadTruth, Action::CommitFence) => {
                let end = "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name = 'pgsluice fence'";
                let (source, target) = {
                    let stage = self.stage.lock().await;
                    (stage.source_url(), stage.target_url())
                };
                for url in [source, target] {
                    connect(&url).await.batch_execute(end).await.expect("ended");
                }
            }
            _ => {}
        }
    }
}

#[async_trait::async_trait]
impl Probe for Saboteur {
    async fn before(&self, action: Action) {
        let Some(plan) = self.plan() else { return };
        self.lead_to(plan.cell.action, action).await;
        if (plan.cell.action, plan.cell.moment) == (action, Moment::Before) {
            self.strike(plan.cell.victim).await;
        }
    }

    async fn after(&self, action: Action) -> Again {
        let Some(plan) = self.plan().filter(|plan| plan.cell.action == action) else { return Again::No };
        match (plan.cell.moment, plan.cell.victim, plan.performed) {
            (Moment::Before, ..) => Again::No,
            (Moment::Repeated, Victim::Replicator, 0) => {
                *self.plan.lock().expect("no panic under the lock") = Some(Plan { performed: 1, ..plan });
                Again::Yes
            }
            (Moment::Repeated, victim, _) => {
                self.strike(victim).await;
                Again::Yes
            }
            (Moment::After, victim, _) => {
                self.strike(victim).await;
                Again::No
            }
        }
    }
}
