//! The replication connection and the protocol crate's session against real walsenders, without the program around
//! them: the test drives the session as the program's reader does.

use std::time::Duration;

use pgsluice::connection::{
    ConnectionSettings, WireConnection, WireError, WireSocket, disposition_of_sqlstate,
};
use pgsluice::demo::cluster::{LocalCluster, StopMode};
use pgsluice::model::{Disposition, Lsn, Side};
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion, TupleValue};
use pgsluice_proto::session::{
    Now, ReplicationSession, SessionConfig, SessionError, SessionEvent, StreamEnd,
};
use pgsluice_proto::{PgTimestamp, command};

use crate::harness::clusters::{connect, start};
use crate::harness::wait;

const VERSIONS: [u32; 2] = [14, 17];
/// Far beyond one read of the socket.
const LARGE_VALUE_BYTES: usize = 3_000_000;
const START: &str = "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')";

async fn replicate(cluster: &LocalCluster) -> WireConnection {
    let settings = ConnectionSettings::parse(&cluster.url("postgres")).expect("settings");
    WireConnection::connect_walsender(&settings, Side::Source, "test", &[]).await.expect("connection")
}

async fn start_with_slot(major: u32) -> LocalCluster {
    let cluster = start(major).await;
    let client = connect(&cluster.url("postgres")).await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t")
        .await
        .expect("table");
    let mut connection = replicate(&cluster).await;
    let rows = connection
        .simple_query("CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        .await
        .expect("slot");
    assert_eq!(rows[0].get("slot_name"), Some("s"));
    connection.close().await;
    cluster
}

/// A session and its socket, driven by the test. Time stands still: status updates are sent when asked for.
struct Driver {
    socket: WireSocket,
    session: ReplicationSession,
    backend_pid: i32,
}

impl Driver {
    async fn start(connection: WireConnection, command: &str) -> Self {
        let backend_pid = connection.backend_pid();
        let (socket, rest) = connection.into_socket(command).await.expect("sent");
        let config = SessionConfig {
            start: None,
            status_interval: Duration::from_secs(1),
            silence_limit: None,
            frame_bytes_max: 1 << 30,
        };
        let mut session = ReplicationSession::new(config, Duration::ZERO);
        session.handle_bytes(&rest, Duration::ZERO);
        Self { socket, session, backend_pid }
    }

    async fn event(&mut self) -> Result<SessionEvent, Failure> {
        loop {
            if let Some(event) = self.session.poll_event()? {
                return Ok(event);
            }
            self.transmit().await?;
            // Cancelled again and again on purpose: a dropped read must lose nothing.
            let read = self.socket.read_into(self.session.read_buffer());
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(1), read).await {
                read?;
                self.session.handle_read(Duration::ZERO);
            }
        }
    }

    async fn transmit(&mut self) -> Result<(), Failure> {
        let now = Now { monotonic: Duration::ZERO, wall: PgTimestamp::from_unix_micros(0) };
        let mut out = bytes::BytesMut::new();
        self.session.poll_transmit(now, &mut out)?;
        Ok(self.socket.send(&out).await?)
    }

    async fn confirm(&mut self, lsn: Lsn) -> Result<(), Failure> {
        self.session.handle_durable(lsn)?;
        self.session.request_status();
        self.transmit().await
    }

    /// Ends the stream in good order.
    async fn close(mut self) {
        self.session.finish();
        while !matches!(self.event().await.expect("event"), SessionEvent::Ended(StreamEnd::Requested)) {}
    }
}

#[derive(Debug)]
enum Failure {
    Session(SessionError),
    Connection(WireError),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Connection(error)
    }
}

impl Failure {
    fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Session(SessionError::Server(fields)) => Some(fields.code.clone()),
            Self::Session(_) => None,
            Self::Connection(error) => error.sqlstate().map(str::to_owned),
        }
    }
}

/// Everything up to and including the next commit.
async fn next_transaction(stream: &mut Driver) -> Vec<LogicalMessage> {
    let mut decoder = Decoder::new(ProtocolVersion::V1);
    let mut messages = Vec::new();
    loop {
        if let SessionEvent::Data(data) = stream.event().await.expect("event") {
            messages.push(decoder.decode(data.payload).expect("decode"));
        }
        if matches!(messages.last(), Some(LogicalMessage::Commit { .. })) {
            return messages;
        }
    }
}

#[tokio::test]
async fn identify_system_and_plain_sql_run_on_one_connection_and_survive_an_error() {
    for major in VERSIONS {
        let cluster = start(major).await;
        let mut connection = replicate(&cluster).await;
        let rows = connection.simple_query(&command::identify_system()).await.expect("identify");
        assert_eq!(rows[0].get("dbname"), Some("postgres"));
        assert!(rows[0].get("xlogpos").is_some_and(|lsn| lsn.parse::<Lsn>().is_ok()));
        let error = connection.simple_query("SELECT nonsense").await.expect_err("no such column");
        assert_eq!(error.sqlstate(), Some("42703"));
        let rows = connection.simple_query("SELECT NULL AS nothing, 'ü' AS text").await.expect("query");
        assert_eq!((rows[0].get("nothing"), rows[0].get("text")), (None, Some("ü")));
        let pid = rows_of_one(&mut connection, "SELECT pg_catalog.pg_backend_pid() AS pid").await;
        assert_eq!(pid, connection.backend_pid().to_string());
        assert_eq!(connection.server_version().major(), major);
    }
}

async fn rows_of_one(connection: &mut WireConnection, sql: &str) -> String {
    let rows = connection.simple_query(sql).await.expect("query");
    rows[0].values()[0].clone().expect("a value")
}

#[tokio::test]
async fn messages_larger_than_any_buffer_arrive_whole_while_reads_are_cancelled() {
    for major in VERSIONS {
        let cluster = start_with_slot(major).await;
        let client = connect(&cluster.url("postgres")).await;
        let mut stream = Driver::start(replicate(&cluster).await, START).await;
        client
            .execute("INSERT INTO t SELECT 1, repeat('x', $1)", &[&i32::try_from(LARGE_VALUE_BYTES).unwrap()])
            .await
            .expect("large row");
        let messages = next_transaction(&mut stream).await;
        let large = messages.iter().find_map(|message| match message {
            LogicalMessage::Insert { new, .. } => new.get(1),
            _ => None,
        });
        let Some(TupleValue::Text(value)) = large else { panic!("{messages:?}") };
        assert_eq!(value.len(), LARGE_VALUE_BYTES);
        assert!(value.iter().all(|byte| *byte == b'x'));

        client
            .batch_execute("INSERT INTO t SELECT i, i FROM generate_series(2, 5001) i")
            .await
            .expect("rows");
        let rows = next_transaction(&mut stream).await;
        let inserts = rows.iter().filter(|message| matches!(message, LogicalMessage::Insert { .. })).count();
        assert_eq!(inserts, 5000);
        stream.close().await;
    }
}

#[tokio::test]
async fn a_status_update_moves_the_slot_and_an_orderly_close_frees_it() {
    for major in VERSIONS {
        let cluster = start_with_slot(major).await;
        let client = connect(&cluster.url("postgres")).await;
        let mut stream = Driver::start(replicate(&cluster).await, START).await;
        client.batch_execute("INSERT INTO t VALUES (1, 'a')").await.expect("row");
        let messages = next_transaction(&mut stream).await;
        let Some(LogicalMessage::Commit { end_lsn, .. }) = messages.last() else { panic!("{messages:?}") };
        stream.confirm(*end_lsn).await.expect("status");
        let backend_pid = stream.backend_pid;
        let confirmed = || async {
            let row = client
                .query_one("SELECT confirmed_flush_lsn::text, active_pid FROM pg_replication_slots", &[])
                .await
                .expect("query");
            assert_eq!(row.get::<_, Option<i32>>(1), Some(backend_pid));
            row.get::<_, String>(0).parse::<Lsn>().expect("position") >= *end_lsn
        };
        wait::until("the slot to advance", confirmed).await;

        let busy = Driver::start(replicate(&cluster).await, START).await.event().await;
        assert_eq!(busy.expect_err("somebody else reads").sqlstate().as_deref(), Some("55006"));
        assert_eq!(disposition_of_sqlstate("55006"), Disposition::Retry);
        stream.close().await;
        let row = client.query_one("SELECT active FROM pg_replication_slots", &[]).await.expect("query");
        assert!(!row.get::<_, bool>(0), "free at once on {major}");
    }
}

#[tokio::test]
async fn a_missing_slot_and_a_stopped_server_are_told_apart() {
    let mut cluster = start_with_slot(17).await;
    let command = START.replace("\"s\"", "\"nowhere\"");
    let missing = Driver::start(replicate(&cluster).await, &command).await.event().await;
    assert_eq!(missing.expect_err("no such slot").sqlstate().as_deref(), Some("42704"));
    assert_ne!(disposition_of_sqlstate("42704"), Disposition::Retry);

    let mut stream = Driver::start(replicate(&cluster).await, START).await;
    let ending = async {
        loop {
            match stream.event().await {
                // A walsender that shuts down waits until everything is confirmed.
                Ok(SessionEvent::Keepalive(keepalive)) => drop(stream.confirm(keepalive.wal_end).await),
                Ok(SessionEvent::Ended(end)) => return Ok(end),
                Ok(_) => {}
                Err(failure) => return Err(failure),
            }
        }
    };
    let (stopped, ended) = tokio::join!(cluster.stop(StopMode::Fast), ending);
    stopped.expect("stop");
    match ended {
        Ok(end) => assert_eq!(end, StreamEnd::ByServer),
        Err(Failure::Connection(WireError::Lost(_))) => {}
        Err(failure) => assert_eq!(failure.sqlstate().as_deref(), Some("57P01"), "{failure:?}"),
    }
}
