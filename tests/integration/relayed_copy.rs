//! COPY on a connection of our own framing, against real servers, without the program around it.

use pgsluice::connection::{ConnectionSettings, WireConnection, WireCopy, WireError, connect_sql};
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::model::Side;

use crate::harness::clusters::{connect, start};

const VERSIONS: [u32; 2] = [14, 17];
const PIECE_BYTES: usize = 64 * 1024;
/// Far beyond every buffer.
const ROW_BYTES: usize = 50_000_000;

async fn connection(cluster: &LocalCluster) -> WireConnection {
    let settings = ConnectionSettings::parse(&cluster.url("postgres")).expect("settings");
    WireConnection::connect_backend(&settings, Side::Source, "test").await.expect("connection")
}

/// All data of a copy, and how many messages it was.
async fn all(mut copy: WireCopy<'_>) -> Result<(Vec<u8>, u64), WireError> {
    let (mut data, mut messages) = (Vec::new(), 0);
    while let Some(piece) = copy.next_piece().await? {
        assert!(piece.data.len() <= PIECE_BYTES);
        data.extend_from_slice(&piece.data);
        messages += piece.messages;
    }
    Ok((data, messages))
}

/// The connection answers to what it is asked now, not to what it was asked before.
async fn goes_on(connection: &mut WireConnection) {
    let rows = connection.simple_query("SELECT 7 AS seven").await.expect("query");
    assert_eq!(rows[0].get("seven"), Some("7"));
}

#[tokio::test]
async fn copies_of_many_rows_of_none_and_of_a_huge_one_come_whole_and_the_connection_goes_on() {
    for major in VERSIONS {
        let cluster = start(major).await;
        let mut connection = connection(&cluster).await;
        for format in ["text", "binary"] {
            let many = format!(
                "COPY (SELECT i, md5(i::text) FROM generate_series(1, 200000) i) TO STDOUT (FORMAT {format})"
            );
            let (data, messages) =
                all(connection.copy_out(&many, PIECE_BYTES).await.expect("begun")).await.expect("data");
            let settings = ConnectionSettings::parse(&cluster.url("postgres")).expect("settings");
            let other = connect_sql(&settings, Side::Source, "test").await.expect("session");
            let same: Vec<_> = {
                use futures_util::TryStreamExt as _;
                other.copy_out(&many).await.expect("begun").try_collect().await.expect("data")
            };
            assert_eq!(messages, same.len() as u64);
            assert!(data == same.concat(), "{format} on {major} differs from what another client reads");

            let none = format!("COPY (SELECT WHERE false) TO STDOUT (FORMAT {format})");
            let (data, _) =
                all(connection.copy_out(&none, PIECE_BYTES).await.expect("begun")).await.expect("data");
            assert!(data.len() <= 21, "a header and a trailer at most");

            let huge = format!("COPY (SELECT repeat('x', {ROW_BYTES})) TO STDOUT (FORMAT {format})");
            let (data, messages) =
                all(connection.copy_out(&huge, PIECE_BYTES).await.expect("begun")).await.expect("data");
            assert_eq!(data.iter().filter(|byte| **byte == b'x').count(), ROW_BYTES);
            assert_eq!(messages, if format == "text" { 1 } else { 2 });
            goes_on(&mut connection).await;
        }
    }
}

#[tokio::test]
async fn an_error_before_or_in_the_middle_of_a_copy_is_the_servers_and_leaves_a_usable_connection() {
    for major in VERSIONS {
        let cluster = start(major).await;
        let mut connection = connection(&cluster).await;
        let refused =
            connection.copy_out("COPY nothing TO STDOUT", PIECE_BYTES).await.expect_err("no such table");
        assert_eq!(refused.sqlstate(), Some("42P01"));
        goes_on(&mut connection).await;

        let fails = "COPY (SELECT 1 / (i - 150000) FROM generate_series(1, 200000) i) TO STDOUT";
        let copy = connection.copy_out(fails, PIECE_BYTES).await.expect("begun");
        let error = all(copy).await.expect_err("division by zero");
        assert!(matches!(error, WireError::Server(_)), "{error}");
        assert_eq!(error.sqlstate(), Some("22012"));
        goes_on(&mut connection).await;
    }
}

#[tokio::test]
async fn a_session_that_is_ended_in_the_middle_of_a_copy_says_so() {
    for major in VERSIONS {
        let cluster = start(major).await;
        let mut connection = connection(&cluster).await;
        let pid = connection.backend_pid();
        let client = connect(&cluster.url("postgres")).await;
        let slow = "COPY (SELECT i, pg_sleep(0.001) FROM generate_series(1, 100000) i) TO STDOUT";
        let copy = connection.copy_out(slow, PIECE_BYTES).await.expect("begun");
        client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("terminated");
        let error = all(copy).await.expect_err("ended");
        assert!(matches!(error, WireError::Ended(_)), "{error}");
        assert_eq!(error.sqlstate(), Some("57P01"));
        assert!(matches!(connection.simple_query("SELECT 1").await, Err(WireError::Lost(_))));
    }
}
