//! The throwaway clusters themselves: what every other test stands on.

use std::process::{Command, Stdio};

use pgsluice::demo::cluster::{Authentication, StopMode};

use crate::harness::clusters::{connect, options, start, start_with};

#[tokio::test]
async fn every_version_starts_and_speaks_scram() {
    for major in 14..=18 {
        let cluster = start(major).await;
        let client = connect(&cluster.url("postgres")).await;
        let version: i32 = client
            .query_one("SELECT current_setting('server_version_num')::int", &[])
            .await
            .expect("query")
            .get(0);
        assert_eq!(u32::try_from(version / 10_000).expect("positive"), major);
        let wrong = cluster.url_as("postgres", "wrong", "postgres");
        let refused = tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err();
        assert!(refused, "a wrong password must be refused");
    }
}

#[tokio::test]
async fn rows_survive_a_kill_and_a_restart_on_the_same_port() {
    let mut cluster = start_with(17, options().authentication(Authentication::Trust)).await;
    let port = cluster.port();
    let client = connect(&cluster.url("postgres")).await;
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await.expect("setup");
    for mode in [StopMode::Kill, StopMode::Immediate, StopMode::Fast] {
        cluster.stop(mode).await.expect("stop");
        cluster.start_again().await.expect("start again");
        let client = connect(&cluster.url("postgres")).await;
        let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await.expect("count").get(0);
        assert_eq!(rows, 1, "after {mode:?}");
    }
    assert_eq!(cluster.port(), port);
}

#[tokio::test]
async fn dropping_a_cluster_leaves_neither_process_nor_files() {
    let cluster = start(16).await;
    let data_dir = cluster.data_dir();
    let pid = std::fs::read_to_string(data_dir.join("postmaster.pid")).expect("pid file");
    let pid = pid.lines().next().expect("pid").to_owned();
    drop(cluster);
    assert!(!data_dir.exists());
    let alive = Command::new("kill").args(["-0", &pid]).stderr(Stdio::null()).status().expect("kill -0");
    assert!(!alive.success(), "the server must have ended");
}
