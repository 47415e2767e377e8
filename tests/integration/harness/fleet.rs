//! A target with a streaming standby, behind an address that follows the primary: what a failover needs. What the standby
//! receives goes through a proxy, so that it can be left behind.

use std::time::Duration;

use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, StopMode};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};

use super::clusters::{connect, options};
use super::proxy::{Network, Proxy};
use super::stage::{Pair, Stage, streaming, text};
use super::wait::until;

const PROGRESS: &str = "SELECT min(commit_lsn)::text FROM pgsluice.progress";
/// A standby that has received nothing for so long is cut off.
const STILL: Duration = Duration::from_millis(300);

pub(crate) struct Fleet {
    pub(crate) stage: Stage,
    pub(crate) standby: LocalCluster,
    /// Where the standby receives from.
    feed: Proxy,
    /// The target's address: leads to the primary.
    pub(crate) service: Proxy,
}

/// Its WAL is kept for standbys that come later.
fn target_options() -> ClusterOptions {
    options().setting("wal_keep_size", "512MB").setting("wal_retrieve_retry_interval", "100ms")
}

/// A standby of `primary`, and the proxy through which it receives.
pub(crate) async fn standby_of(primary: &LocalCluster, name: &str) -> (LocalCluster, Proxy) {
    let feed = Proxy::start(primary.port()).await;
    let standby = LocalCluster::start_standby(primary, name, feed.port(), &target_options()).await;
    (standby.expect("a standby"), feed)
}

/// Has a standby become a primary.
pub(crate) async fn promote(standby: &LocalCluster) {
    let promoted = text(&connect(&standby.url("postgres")).await, "SELECT pg_promote()::text").await;
    assert_eq!(promoted, "true");
}

impl Fleet {
    pub(crate) async fn new(pair: Pair) -> Self {
        let stage = Stage::with_options(pair, options(), target_options()).await;
        let service = Proxy::start(stage.target.port()).await;
        let (standby, feed) = standby_of(&stage.target, "standby").await;
        Self { stage, standby, feed, service }
    }

    /// The program, which knows the target by its address only.
    pub(crate) fn command(&self, more: &str) -> ReplicatorCommand {
        let target_url = self.service.in_front_of(&self.stage.target_url(), self.stage.target.port());
        ReplicatorCommand { target_url, ..self.stage.command(more) }
    }

    /// The program, which knows both servers and takes the one that is the primary.
    pub(crate) fn command_with_both_hosts(&self, more: &str) -> ReplicatorCommand {
        let (primary, standby) = (self.stage.target.port(), self.standby.port());
        let target_url = self
            .stage
            .target_url()
            .replace(&format!(":{primary}/"), &format!(":{primary},127.0.0.1:{standby}/"))
            + "&target_session_attrs=primary";
        ReplicatorCommand { target_url, ..self.stage.command(more) }
    }

    pub(crate) async fn streaming(&self, more: &str) -> Replicator {
        let mut replicator = self.command(more).start().expect("the program");
        streaming(&mut replicator).await;
        replicator
    }

    /// From now on the standby receives nothing.
    pub(crate) fn starve_the_standby(&self) {
        self.feed.set(Network::Silent);
    }

    /// The same. Returns up to where it has the source's changes, once it has written what was on its way.
    pub(crate) async fn leave_the_standby_behind(&self) -> String {
        self.starve_the_standby();
        let standby = connect(&self.standby.url("app")).await;
        let mut last = String::new();
        let look = "SELECT pg_last_wal_receive_lsn()::text || ' ' || pg_last_wal_replay_lsn()::text";
        loop {
            let seen = text(&standby, look).await;
            if seen == last {
                return text(&standby, PROGRESS).await;
            }
            last = seen;
            tokio::time::sleep(STILL).await;
        }
    }

    /// Waits until the primary has transactions beyond `position` of the source.
    pub(crate) async fn primary_gets_beyond(&self, position: &str, bytes: u32) {
        let primary = self.stage.target_client().await;
        let query = format!("SELECT (min(commit_lsn) - '{position}' > {bytes})::text FROM pgsluice.progress");
        until("the primary to be ahead", || async { text(&primary, &query).await == "true" }).await;
    }

    /// The standby becomes the primary and the address follows; the old primary does not know, and serves whom it has.
    pub(crate) async fn replace_the_primary(&mut self) {
        promote(&self.standby).await;
        std::mem::swap(&mut self.stage.target, &mut self.standby);
        self.service.lead_to(self.stage.target.port());
    }

    /// The standby becomes the primary, the old primary is gone, the address follows.
    pub(crate) async fn fail_over(&mut self) {
        promote(&self.standby).await;
        self.stage.target.stop(StopMode::Kill).await.expect("the old primary's end");
        std::mem::swap(&mut self.stage.target, &mut self.standby);
        self.service.lead_to(self.stage.target.port());
    }

    /// A new standby of the present primary, in the place of the old one.
    pub(crate) async fn add_standby(&mut self) {
        (self.standby, self.feed) = standby_of(&self.stage.target, "standby").await;
    }
}
