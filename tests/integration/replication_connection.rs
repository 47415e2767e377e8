//! The replication connection and its stream against real walsenders, without the program around it.

use std::time::Duration;

use pgsluice::connection::{ConnectionSettings, ReplicationConnection, ReplicationError, ReplicationStream};
use pgsluice::demo::cluster::{LocalCluster, StopMode};
use pgsluice::model::{Disposition, Lsn, Side};
use pgsluice_proto::PgTimestamp;
use pgsluice_proto::command;
use pgsluice_proto::copy_both::{ReplyRequest, StandbyStatus, WalMessage};
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion, TupleValue};

use crate::harness::clusters::{connect, start};
use crate::harness::wait;

const VERSIONS: [u32; 2] = [14, 17];
/// Far beyond one read of the socket.
const LARGE_VALUE_BYTES: usize = 3_000_000;
const START: &str = "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')";

async fn replicate(cluster: &LocalCluster) -> ReplicationConnection {
    let settings = ConnectionSettings::parse(&cluster.url("postgres")).expect("settings");
    ReplicationConnection::connect(&settings, Side::Source, "test", &[]).await.expect("connection")
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

/// Everything up to and including the next commit.
async fn next_transaction(stream: &mut ReplicationStream) -> Vec<LogicalMessage> {
    let mut decoder = Decoder::new(ProtocolVersion::V1);
    let mut messages = Vec::new();
    loop {
        // Cancelled again and again on purpose: a dropped `receive` must lose nothing.
        let Ok(received) = tokio::time::timeout(Duration::from_millis(1), stream.receive()).await else {
            continue;
        };
        for message in received.expect("receive") {
            if let WalMessage::Data(data) = message {
                messages.push(decoder.decode(data.payload).expect("decode"));
            }
        }
        if matches!(messages.last(), Some(LogicalMessage::Commit { .. })) {
            return messages;
        }
    }
}

fn confirming(lsn: Lsn) -> StandbyStatus {
    StandbyStatus {
        written: Some(lsn),
        flushed: Some(lsn),
        applied: Some(lsn),
        sent_at: PgTimestamp::from_unix_micros(0),
        reply: ReplyRequest::Requested,
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

async fn rows_of_one(connection: &mut ReplicationConnection, sql: &str) -> String {
    let rows = connection.simple_query(sql).await.expect("query");
    rows[0].values()[0].clone().expect("a value")
}

#[tokio::test]
async fn messages_larger_than_any_buffer_arrive_whole_while_receive_is_cancelled() {
    for major in VERSIONS {
        let cluster = start_with_slot(major).await;
        let client = connect(&cluster.url("postgres")).await;
        let mut stream = replicate(&cluster).await.start_replication(START).await.expect("stream");
        client
            .execute("INSERT INTO t SELECT 1, repeat('x', $1)", &[&i32::try_from(LARGE_VALUE_BYTES).unwrap()])
            .await
            .expect("large row");
        let messages = next_transaction(&mut stream).await;
        let large = messages.iter().find_map(|message| match message {
            LogicalMessage::Insert { new, .. } => new.columns.get(1),
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
        let mut stream = replicate(&cluster).await.start_replication(START).await.expect("stream");
        client.batch_execute("INSERT INTO t VALUES (1, 'a')").await.expect("row");
        let messages = next_transaction(&mut stream).await;
        let Some(LogicalMessage::Commit { end_lsn, .. }) = messages.last() else { panic!("{messages:?}") };
        stream.send_status(&confirming(*end_lsn)).await.expect("status");
        let confirmed = || async {
            let row = client
                .query_one("SELECT confirmed_flush_lsn::text, active_pid FROM pg_replication_slots", &[])
                .await
                .expect("query");
            assert_eq!(row.get::<_, Option<i32>>(1), Some(stream.backend_pid()));
            row.get::<_, String>(0).parse::<Lsn>().expect("position") >= *end_lsn
        };
        wait::until("the slot to advance", confirmed).await;

        let busy = replicate(&cluster).await.start_replication(START).await.expect_err("somebody else reads");
        assert_eq!((busy.sqlstate(), busy.disposition()), (Some("55006"), Disposition::Retry));
        stream.close().await;
        let row = client.query_one("SELECT active FROM pg_replication_slots", &[]).await.expect("query");
        assert!(!row.get::<_, bool>(0), "free at once on {major}");
    }
}

#[tokio::test]
async fn a_missing_slot_and_a_stopped_server_are_told_apart() {
    let mut cluster = start_with_slot(17).await;
    let command = START.replace("\"s\"", "\"nowhere\"");
    let missing = replicate(&cluster).await.start_replication(&command).await.expect_err("no such slot");
    assert_eq!(missing.sqlstate(), Some("42704"));
    assert_ne!(missing.disposition(), Disposition::Retry);

    let mut stream = replicate(&cluster).await.start_replication(START).await.expect("stream");
    let ending = async {
        loop {
            match stream.receive().await {
                Ok(messages) => {
                    // A walsender that shuts down waits until everything is confirmed.
                    if let Some(WalMessage::Keepalive(keepalive)) = messages.last() {
                        let _ = stream.send_status(&confirming(keepalive.wal_end)).await;
                    }
                }
                Err(error) => return error,
            }
        }
    };
    let (stopped, error) = tokio::join!(cluster.stop(StopMode::Fast), ending);
    stopped.expect("stop");
    assert!(
        matches!(error, ReplicationError::Ended | ReplicationError::Lost(_))
            || error.sqlstate() == Some("57P01"),
        "{error}"
    );
    assert_eq!(error.disposition(), Disposition::Retry);
}
