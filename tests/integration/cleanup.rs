//! What is left when it is over: after a cutover, a rollback, an abort or a migration that was given up, `cleanup` leaves
//! both catalogs as they would be had there never been a migration.

use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::store;
use tokio_postgres::Client;

use crate::harness::stage::{
    COPY_WAIT, Pair, Stage, ask, cut_over, end_of, roll_back, text, way_back_is_open,
};
use crate::harness::wait::until;
use crate::whole_migration::SMALL;

/// Everything in a database's catalogs that a program can leave behind, one line each, by name and not by OID: relations with
/// their options and privileges, columns' storage and statistics, functions, triggers and whether they are enabled,
/// policies, rules, types, schemas, event triggers, publications, subscriptions, slots, comments, settings, roles.
const CATALOG: &str = "
SELECT string_agg(line, E'\\n' ORDER BY line COLLATE \"C\") FROM (
    SELECT concat_ws('|', 'relation', c.oid::regclass, c.relkind, c.relpersistence, c.reloptions, c.relacl, c.relreplident,
                     c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)) AS line
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT concat_ws('|', 'column', attrelid::regclass, attname, attnum, atttypid::regtype, attnotnull, attacl, attoptions)
      FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid >= 16384
    UNION ALL
    SELECT concat_ws('|', 'function', oid::regprocedure, proacl, md5(prosrc)) FROM pg_proc WHERE oid >= 16384
    UNION ALL
    SELECT concat_ws('|', 'trigger', tgrelid::regclass, CASE WHEN tgisinternal THEN 'internal' ELSE tgname END, tgenabled, tgtype)
      FROM pg_trigger
    UNION ALL
    SELECT concat_ws('|', 'sequence', seqrelid::regclass, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
      FROM pg_sequence
    UNION ALL
    SELECT concat_ws('|', 'schema', nspname, nspacl, pg_get_userbyid(nspowner)) FROM pg_namespace
     WHERE nspname !~ '^pg_(toast_)?temp'
    UNION ALL
    SELECT concat_ws('|', 'event trigger', evtname, evtenabled) FROM pg_event_trigger
    UNION ALL
    SELECT concat_ws('|', 'publication', pubname) FROM pg_publication
    UNION ALL
    SELECT concat_ws('|', 'subscription', subname) FROM pg_subscription
    UNION ALL
    SELECT concat_ws('|', 'slot', slot_name, plugin) FROM pg_replication_slots
    UNION ALL
    SELECT concat_ws('|', 'origin', roname) FROM pg_replication_origin
    UNION ALL
    SELECT concat_ws('|', 'type', oid::regtype) FROM pg_type WHERE oid >= 16384
    UNION ALL
    SELECT concat_ws('|', 'constraint', conrelid::regclass, conname, convalidated) FROM pg_constraint WHERE oid >= 16384
    UNION ALL
    SELECT concat_ws('|', 'comment', classoid::regclass, description) FROM pg_description WHERE objoid >= 16384
    UNION ALL
    SELECT concat_ws('|', 'setting', setdatabase, setrole, setconfig) FROM pg_db_role_setting
    UNION ALL
    SELECT concat_ws('|', 'role', rolname, rolsuper, rolreplication, rolconnlimit) FROM pg_roles
    UNION ALL
    SELECT concat_ws('|', 'database', datname, privileges.all, datallowconn, datconnlimit)
      FROM pg_database, LATERAL (SELECT string_agg(item::text, ',' ORDER BY item::text) AS all
          FROM unnest(coalesce(datacl, acldefault('d', datdba))) item) privileges
    UNION ALL
    SELECT concat_ws('|', 'prepared', gid) FROM pg_prepared_xacts
    UNION ALL
    SELECT concat_ws('|', 'advisory lock', classid, objid) FROM pg_locks WHERE locktype = 'advisory'
) AS catalog";

/// What is there once the program's own sessions have ended: a server notices that a client has gone a moment later.
pub(crate) async fn catalog(client: &Client) -> Vec<String> {
    let ours = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'pgsluice %'";
    until("the end of the program's sessions", || async { text(client, ours).await == "0" }).await;
    text(client, CATALOG).await.lines().map(str::to_owned).collect()
}

struct Before {
    stage: Stage,
    source: Vec<String>,
}

impl Before {
    async fn of(pair: Pair) -> Self {
        let stage = Stage::new(pair).await;
        store::create(&stage.source_url(), SMALL).await.expect("store");
        let source = catalog(&stage.source_client().await).await;
        Self { stage, source }
    }

    /// Runs `cleanup` with `arguments`, and again: the first leaves nothing, the second finds nothing.
    async fn is_as_before_after(&self, arguments: &[&str]) {
        let cleanup = self.stage.run(&[&["cleanup"], arguments].concat());
        assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
        let again = self.stage.run(&["cleanup", "--output", "json"]);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        let said: serde_json::Value = serde_json::from_slice(&again.stdout).expect("json");
        assert_eq!(said["actions"], serde_json::json!([]), "{said}");
        assert_eq!(
            difference(&self.source, &catalog(&self.stage.source_client().await).await),
            Vec::<String>::new()
        );
        let target = catalog(&self.stage.target_client().await).await;
        let ours: Vec<&String> = target
            .iter()
            .filter(|line| {
                line.contains("pgsluice")
                    || ["slot|", "publication|", "origin|"].iter().any(|kind| line.starts_with(kind))
            })
            .collect();
        assert_eq!(ours, Vec::<&String>::new());
    }
}

pub(crate) fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

pub(crate) async fn nothing_is_left_after_a_cutover(pair: Pair) {
    let before = Before::of(pair).await;
    let mut replicator = before.stage.streaming().await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    let refused = before.stage.run(&["cleanup"]);
    assert!(!refused.status.success(), "it was cleaned up under the running program");
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    before.is_as_before_after(&["--unfence-source"]).await;
}

pub(crate) async fn nothing_is_left_after_a_rollback(pair: Pair) {
    let before = Before::of(pair).await;
    let mut replicator = before.stage.streaming().await;
    cut_over(&mut replicator).await;
    roll_back(&mut replicator).await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    before.is_as_before_after(&["--unfence-target"]).await;
}

pub(crate) async fn nothing_is_left_after_an_abort_or_when_it_is_given_up(pair: Pair) {
    let before = Before::of(pair).await;
    let mut replicator = before.stage.streaming().await;
    let armed = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    assert_eq!(end_of(&mut replicator, &armed).await.outcome, "completed");
    // Somebody has a transaction id for longer than the pause allowed, and nothing that arming would wait for.
    let source = before.stage.source_client().await;
    source.batch_execute("BEGIN; SELECT * FROM customers WHERE id = 1 FOR UPDATE").await.expect("a writer");
    let accepted = ask(&replicator, CutoverModeRecord::Cutover, 1_000).await;
    assert_eq!(end_of(&mut replicator, &accepted).await.outcome, "aborted");
    source.batch_execute("ROLLBACK").await.expect("the writer ends");
    let slots = "SELECT count(*)::text FROM pg_replication_slots";
    let target = before.stage.target_client().await;
    assert_eq!(text(&target, slots).await, "0", "the way back's slot would keep WAL for nobody");
    replicator.signal(nix::sys::signal::Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    before.is_as_before_after(&[]).await;
}

/// The old server is lost for good in the window: its slot on the new primary must not keep WAL for ever.
pub(crate) async fn the_way_back_to_a_lost_source_is_ended_on_the_target_alone(pair: Pair) {
    let before = Before::of(pair).await;
    let mut replicator = before.stage.streaming().await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    let mut stage = before.stage;
    stage.source.stop(pgsluice::demo::cluster::StopMode::Immediate).await.expect("the source is gone");
    assert!(!stage.run(&["cleanup"]).status.success(), "the source cannot be asked");
    let cleanup = stage.run(&["cleanup", "--without-source"]);
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    let target = catalog(&stage.target_client().await).await;
    let ours: Vec<_> = target.iter().filter(|line| line.contains("pgsluice")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
