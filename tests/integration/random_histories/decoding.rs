//! Whether a history failed because the source itself cannot decode its WAL any more: PostgreSQL has bugs too, and some
//! histories meet them (seen with 14.23: "could not map filenode ... to relation OID", in a history with TRUNCATE in a
//! subtransaction; what exactly leads to it is not known). Asked without the
//! program, so that no fault of the program passes for one of the server.

use std::time::Duration;

use pgsluice::demo::cluster::LocalCluster;
use tokio_postgres::error::SqlState;

use crate::harness::clusters::connect;

const TRIES: u32 = 100;
const SLOT: &str =
    "SELECT slot_name::text, (SELECT string_agg(quote_ident(pubname), ',') FROM pg_publication),
                           pg_terminate_backend(active_pid)
                      FROM pg_replication_slots WHERE database = 'app'";
/// Fails as the walsender does; whatever it answers, nothing is taken from the slot.
const PEEK: &str = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
                       'proto_version', '1', 'publication_names', $2)";

/// What the source says when it decodes what is left, if that is an internal error of the server.
pub(super) async fn internal_error(source: &LocalCluster) -> Option<String> {
    let client = connect(&source.url("app")).await;
    let slot = client.query_opt(SLOT, &[]).await.ok()??;
    let (slot, publications): (String, Option<String>) = (slot.get(0), slot.get(1));
    let publications = publications?;
    for _ in 0..TRIES {
        let error = client.query_one(PEEK, &[&slot, &publications]).await.err()?;
        let said = error.as_db_error()?;
        match said.code() {
            // Its walsender is about to end.
            code if *code == SqlState::OBJECT_IN_USE => tokio::time::sleep(Duration::from_millis(50)).await,
            code if *code == SqlState::INTERNAL_ERROR => return Some(said.message().to_owned()),
            _ => return None,
        }
    }
    None
}
