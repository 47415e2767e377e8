//! Repairs come through the source's WAL, where anybody who may write to the source can write what looks like one.

use serde_json::json;

use crate::harness::stage::{Pair, Stage, text};

#[tokio::test]
async fn a_repair_that_nobody_has_asked_for_changes_nothing() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    let schema = "CREATE TABLE kept (id int PRIMARY KEY, v text); INSERT INTO kept VALUES (1, 'true')";
    source.batch_execute(schema).await.expect("schema");
    let replicator = stage.streaming_with("verify.repair = true").await;
    let oid = text(&source, "SELECT 'kept'::regclass::oid::text").await;
    let forged = json!({
        "nonce": "0".repeat(32),
        "source_oid": oid.parse::<u32>().expect("an OID"),
        "only": "ONLY ",
        "table": "\"public\".\"kept\"",
        "columns": ["id", "v"],
        "key": ["id"],
        "rows": [{ "key": ["1"], "values": ["1", "forged"] }],
    });
    let message = format!("SELECT pg_logical_emit_message(true, 'pgsluice.repair', '{forged}')::text");
    text(&source, &message).await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let log = replicator.log();
    assert!(log.contains("nobody has asked this process for was passed over"), "{log}");
}
