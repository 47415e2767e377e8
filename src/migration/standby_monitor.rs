//! Looks at the target's standbys every few seconds and publishes how many there are and how far behind. Only observes: what
//! may be confirmed to the source is decided by the durability watch, with looks of its own. A target that cannot be reached,
//! and a role that may not see standbys, leave it unknown; whoever needs the target says so.

use std::time::Duration;

use tokio::sync::watch;

use super::legs::Leg;
use super::status::{StandbyView, StatusBoard};
use crate::config::{Config, Durability};
use crate::connection::{SqlSession, connect_sql};
use crate::model::Side;
use crate::runtime::Shutdown;
use crate::target::standbys::{self, Standbys};

/// How often the target is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Watches until shutdown, in whatever direction changes go.
pub(super) async fn run(mut leg: watch::Receiver<Leg>, board: StatusBoard, shutdown: Shutdown) {
    let mut session = None;
    loop {
        let config = leg.borrow_and_update().config.clone();
        let seen = tokio::select! {
            seen = look(&config, &mut session) => seen,
            () = shutdown.requested() => return,
        };
        // What was seen of one direction says nothing of the other.
        if leg.has_changed().unwrap_or(false) {
            session = None;
            continue;
        }
        let view = view(wanted(config.target.durability), seen.as_ref());
        board.update(|status| status.standbys = Some(view));
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            _ = leg.changed() => session = None,
        }
    }
}

async fn look(config: &Config, session: &mut Option<SqlSession>) -> Option<Standbys> {
    if session.is_none() {
        *session = connect_sql(&config.target.connection, Side::Target, "standby monitor").await.ok();
    }
    let asked = standbys::look(session.as_ref()?);
    let seen = tokio::time::timeout(ANSWER_MAX, asked).await.ok().and_then(Result::ok);
    if seen.is_none() {
        *session = None;
    }
    seen
}

const fn wanted(durability: Durability) -> u32 {
    match durability {
        Durability::Local => 0,
        Durability::Standbys(wanted) => wanted.get(),
    }
}

fn view(wanted: u32, seen: Option<&Standbys>) -> StandbyView {
    let connected = seen.and_then(Standbys::known_connected);
    StandbyView {
        wanted,
        connected: connected.map(|connected| u32::try_from(connected).unwrap_or(u32::MAX)),
        lag_bytes: seen.and_then(Standbys::lag_bytes),
    }
}
