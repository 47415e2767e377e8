//! Two databases on real servers, the fence's and the journal's real code, and a stand-in for the stream: it
//! reads the slot and reports the marker as applied without applying rows. What is applied is the business of the
//! stream's own tests; here it matters when the marker is reported, and when it is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::cutover::{CutoverContext, CutoverReport, RunningCutover, start};
use crate::demo::binaries::{Installation, discover};
use crate::demo::cluster::{ClusterOptions, LocalCluster};
use crate::migration::{CutoverMode, CutoverRequest, Phase, Refusal, StatusBoard};
use crate::model::{Direction, Lsn, Side};
use crate::runtime::Shutdown;
use crate::source::publication::OWNER_COMMENT;
use crate::stream::{AppliedMarker, MARKER_PREFIX, StreamPublisher};
use crate::target::{CommitReceipt, DurableLsn, lock};

const PUBLICATION: &str = "pgsluice";

/// The source's schema: serial, identity and free sequences of all kinds, a partitioned table, a table that
/// is not migrated because it is in no WAL.
pub(super) const SCHEMA: &str = "
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    CREATE TABLE items (id serial PRIMARY KEY, note text);
    CREATE SCHEMA \"Odd \"\"Names\"\"\";
    CREATE TABLE \"Odd \"\"Names\"\"\".\"Table\" (id int PRIMARY KEY);
    CREATE TABLE events (at date, id int, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
    CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE events_rest PARTITION OF events DEFAULT;
    CREATE UNLOGGED TABLE unpublished (id serial PRIMARY KEY);
    CREATE SEQUENCE descending INCREMENT -3 MINVALUE -1000 MAXVALUE 50 START 50;
    CREATE SEQUENCE untouched START 77;
    CREATE SEQUENCE set_not_called; SELECT setval('set_not_called', 500, false);
    CREATE SEQUENCE cached CACHE 10;";

const TABLES: &str = "public.orders, public.items, \"Odd \"\"Names\"\"\".\"Table\", public.events";

pub(super) struct Rig {
    pub(super) source: LocalCluster,
    pub(super) target: Option<LocalCluster>,
    pub(super) ctx: CutoverContext,
    publisher: StreamPublisher,
    stand_in: JoinSet<()>,
}

fn installation(major: u32) -> Installation {
    discover().remove(&major).unwrap_or_else(|| {
        panic!("PostgreSQL {major} is not installed: run scripts/install-postgres.sh {major}")
    })
}

async fn cluster(major: u32) -> LocalCluster {
    let options =
        ClusterOptions::new().setting("shared_buffers", "16MB").setting("max_prepared_transactions", "5");
    LocalCluster::start(&installation(major), &options).await.expect("a cluster")
}

pub(super) async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

pub(super) async fn run(url: &str, sql: &str) {
    client(url).await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

impl Rig {
    /// Source and target on one server: quick, and enough for what happens on the source.
    pub(super) async fn quick(settings: &[(&str, &str)]) -> Self {
        Self::quick_on(17, settings).await
    }

    /// The same on another version.
    pub(super) async fn quick_on(major: u32, settings: &[(&str, &str)]) -> Self {
        Self::on(cluster(major).await, None, settings).await
    }

    /// On two servers of these versions.
    pub(super) async fn pair(source: u32, target: u32, settings: &[(&str, &str)]) -> Self {
        Self::on(cluster(source).await, Some(cluster(target).await), settings).await
    }

    async fn on(source: LocalCluster, target: Option<LocalCluster>, settings: &[(&str, &str)]) -> Self {
        let target_server = target.as_ref().unwrap_or(&source);
        run(&source.url("postgres"), "CREATE DATABASE old").await;
        run(&target_server.url("postgres"), "CREATE DATABASE new").await;
        run(&source.url("old"), SCHEMA).await;
        run(&target_server.url("new"), SCHEMA).await;
        let publication = format!(
            "CREATE PUBLICATION {PUBLICATION} FOR TABLE {TABLES}; COMMENT ON PUBLICATION {PUBLICATION} IS '{OWNER_COMMENT}'"
        );
        run(&source.url("old"), &publication).await;
        let mut environment = vec![
            ("PGSLUICE_SOURCE__URL".to_owned(), source.url("old")),
            ("PGSLUICE_TARGET__URL".to_owned(), target_server.url("new")),
        ];
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config: Config = crate::config::load(None, environment.into_iter()).expect("a configuration");
        let (publisher, stream) = StreamPublisher::new();
        let board = StatusBoard::new(Timestamp::now());
        board.update(|status| {
            status.phase = Phase::Streaming;
            status.lag.bytes = Some(0);
        });
        let (config, shutdown) = (Arc::new(config), Shutdown::new());
        let ctx =
            CutoverContext { config, way_back: None, probe: None, stream, board, cluster: None, shutdown };
        let mut rig = Self { source, target, ctx, publisher, stand_in: JoinSet::new() };
        let slot = "SELECT pg_create_logical_replication_slot('pgsluice', 'pgoutput')";
        run(&rig.old_url(), slot).await;
        rig.let_the_stream_run();
        rig
    }

    pub(super) fn old_url(&self) -> String {
        self.source.url("old")
    }

    pub(super) fn new_url(&self) -> String {
        self.target.as_ref().unwrap_or(&self.source).url("new")
    }

    /// From now on no marker is reported as applied.
    pub(super) async fn stall_the_stream(&mut self) {
        self.stand_in.shutdown().await;
    }

    pub(super) fn let_the_stream_run(&mut self) {
        let (url, publisher) = (self.old_url(), self.publisher.clone());
        let config = Arc::clone(&self.ctx.config);
        self.stand_in.spawn(async move {
            let session = client(&url).await;
            // A stream has its place on the target for itself.
            let mut place: Option<SqlSession> = None;
            loop {
                if place.as_ref().is_none_or(|session| session.is_closed()) {
                    place = connect_sql(&config.target.connection, Side::Target, "apply").await.ok();
                    if let Some(session) = &place {
                        let _ = lock::become_replicator(session).await;
                    }
                }
                for marker in markers(&session).await {
                    publisher.applied(marker.receipt.source_lsn());
                    let flushed = Lsn::new(u64::MAX);
                    publisher.durable(DurableLsn::confirmed_by(marker.receipt, flushed).expect("flushed"));
                    publisher.marker(marker);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }

    pub(super) async fn start(
        &self,
        mode: CutoverMode,
        max_pause: Duration,
    ) -> Result<(CutoverReport, RunningCutover), Refusal> {
        let request = CutoverRequest {
            mode,
            direction: Direction::Forward,
            max_pause: Some(max_pause),
            idempotency_key: None,
            unverified: false,
            verification: None,
        };
        start(self.ctx.clone(), request).await
    }

    /// A session of the program's own kind.
    pub(super) async fn session(&self, side: Side) -> SqlSession {
        let settings = match side {
            Side::Source => &self.ctx.config.source.connection,
            Side::Target => &self.ctx.config.target.connection,
        };
        connect_sql(settings, side, "test").await.expect("a session")
    }

    /// A rehearsal, after which everything is armed.
    pub(super) async fn rehearse(&self) {
        let (_, mut running) =
            self.start(CutoverMode::Rehearsal, Duration::from_secs(30)).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, crate::cutover::Outcome::Completed, "{report:#?}");
    }

    /// Waits until the report on the board is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&CutoverReport) -> bool) -> CutoverReport {
        let mut board = self.ctx.board.subscribe();
        let seen = board.wait_for(|status| status.cutover.as_ref().is_some_and(&wanted));
        let seen =
            tokio::time::timeout(Duration::from_secs(30), seen).await.expect("in time").expect("a board");
        seen.cutover.clone().expect("a report")
    }
}

async fn markers(session: &Client) -> Vec<AppliedMarker> {
    let rows = session
        .query(
            "SELECT data FROM pg_logical_slot_get_binary_changes('pgsluice', NULL, NULL,
               'proto_version', '1', 'publication_names', 'pgsluice', 'messages', 'true')",
            &[],
        )
        .await
        .expect("changes");
    let mut decoder = Decoder::new(ProtocolVersion::V1);
    let (mut found, mut nonce) = (Vec::new(), None);
    for row in rows {
        match decoder.decode(Bytes::copy_from_slice(row.get(0))).expect("a message") {
            LogicalMessage::Message { prefix, content, .. } if prefix == MARKER_PREFIX => {
                nonce = Some(String::from_utf8(content.to_vec()).expect("text"));
            }
            LogicalMessage::Commit { end_lsn, .. } => {
                let receipt =
                    |nonce| AppliedMarker { nonce, receipt: CommitReceipt::of_commit(end_lsn, Lsn::new(1)) };
                found.extend(nonce.take().map(receipt));
            }
            _ => {}
        }
    }
    found
}
