//! Preflight finds what would stop a migration, says what to do, and leaves nothing behind.

use std::collections::BTreeSet;

use pgsluice::cli::{Look, findings_text};
use pgsluice::connection::SqlSession;
use pgsluice::control::dto::FindingRecord;
use pgsluice::model::Side;
use pgsluice::preflight::{Asked, Finding, Severity, Stage, run};

use crate::harness::clusters::options;
use crate::harness::sides::Sides;

async fn check(sides: &Sides) -> Vec<Finding> {
    let (source, target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    run(&sides.config(), Asked { source: &source, target: &target, cluster: None }, Stage::Fresh)
        .await
        .expect("preflight")
}

fn blockers(findings: &[Finding]) -> BTreeSet<&'static str> {
    let blockers = findings.iter().filter(|finding| finding.severity == Severity::Blocker);
    blockers.map(|finding| finding.id).collect()
}

fn warnings(findings: &[Finding]) -> BTreeSet<&'static str> {
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    warnings.map(|finding| finding.id).collect()
}

/// Everything a check could have left behind: objects, slots, publications, grants, settings.
async fn fingerprint(session: &SqlSession) -> String {
    session
        .query_one(
            "SELECT concat_ws('/', (SELECT count(*) FROM pg_class WHERE oid >= 16384),
                    (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_publication),
                    (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_proc),
                    (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_shdepend),
                    (SELECT count(*) FROM pg_db_role_setting))",
            &[],
        )
        .await
        .expect("fingerprint")
        .get(0)
}

#[tokio::test]
async fn a_healthy_pair_passes_and_nothing_is_changed_on_either_side() {
    let sides = Sides::start(14, 17).await;
    let (source, target) = (sides.superuser(Side::Source).await, sides.superuser(Side::Target).await);
    source
        .batch_execute("CREATE TABLE public.orders (id bigint PRIMARY KEY, note text)")
        .await
        .expect("a table");
    let before = (fingerprint(&source).await, fingerprint(&target).await);
    let findings = check(&sides).await;
    assert_eq!(blockers(&findings), BTreeSet::new(), "{findings:#?}");
    assert_eq!((fingerprint(&source).await, fingerprint(&target).await), before);
}

/// Patroni is known by the names of its sessions, which a role without any right sees too.
#[tokio::test]
async fn a_source_that_patroni_manages_is_warned_of_by_a_role_that_may_see_nothing_else() {
    let mut sides = Sides::start(14, 17).await;
    let source = sides.superuser(Side::Source).await;
    source
        .batch_execute(
            "CREATE ROLE mover LOGIN REPLICATION PASSWORD 'm'; GRANT CREATE ON DATABASE postgres TO mover;
             CREATE TABLE public.orders (id bigint PRIMARY KEY); ALTER TABLE public.orders OWNER TO mover",
        )
        .await
        .expect("a role");
    sides.connect_as(Side::Source, "mover", "m");
    source.batch_execute("SET application_name = 'Patronising'").await.expect("another name");
    assert!(!warnings(&check(&sides).await).contains("source.patroni"));
    source.batch_execute("SET application_name = 'Patroni heartbeat'").await.expect("Patroni's name");
    let findings = check(&sides).await;
    assert!(warnings(&findings).contains("source.patroni"), "{findings:#?}");
    let told = findings.iter().find(|finding| finding.id == "source.patroni").expect("the warning");
    assert!(told.finding.contains("\"Patroni heartbeat\"") && told.remedy.contains("\"name\": \"pgsluice\""));
}

#[tokio::test]
async fn every_obstacle_of_a_source_is_found_at_once_with_its_remedy() {
    let source = options()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "1")
        .setting("max_wal_senders", "0")
        .setting("max_prepared_transactions", "2")
        .setting("max_slot_wal_keep_size", "1GB")
        .setting("wal_sender_timeout", "1s");
    let mut sides = Sides::start_with(14, 17, source, options()).await;
    let source = sides.superuser(Side::Source).await;
    source
        .batch_execute(
            "SET search_path = public;
             CREATE TABLE keyless (a int);
             CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
             CREATE TABLE indexed (a int NOT NULL);
             CREATE UNIQUE INDEX indexed_a ON indexed (a);
             CREATE TABLE parted (a int, d date) PARTITION BY RANGE (d);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE UNLOGGED TABLE sessions (a int PRIMARY KEY);
             CREATE TABLE left_out (a int PRIMARY KEY);
             CREATE TABLE refers (a int PRIMARY KEY REFERENCES left_out);
             CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM keyless;
             SELECT lo_from_bytea(0, 'x');
             SELECT pg_create_physical_replication_slot('taken');",
        )
        .await
        .expect("obstacles");
    source
        .batch_execute("BEGIN; INSERT INTO public.keyless VALUES (1); PREPARE TRANSACTION 'forgotten'")
        .await
        .expect("a prepared transaction");
    sides.set("SOURCE__TABLES__EXCLUDE", r#"["public.left_out"]"#);
    let findings = check(&sides).await;
    let expected = [
        "source.foreign_keys",
        "source.free_senders",
        "source.free_slots",
        "source.large_objects",
        "source.replica_identity",
        "source.unlogged_tables",
        "source.wal_level",
    ];
    assert_eq!(blockers(&findings), BTreeSet::from(expected), "{findings:#?}");
    let expected = [
        "source.materialized_views",
        "source.max_slot_wal_keep_size",
        "source.prepared_transactions",
        "source.wal_sender_timeout",
    ];
    assert_eq!(warnings(&findings), BTreeSet::from(expected), "{findings:#?}");
    let keyless: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.id == "source.replica_identity")
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(keyless, ["public.deferred", "public.indexed", "public.keyless", "public.parted_1"]);
    assert!(findings.iter().any(|finding| finding.remedy.contains(r#"USING INDEX "indexed_a""#)));
    assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
    let records: Vec<FindingRecord> = findings.iter().map(FindingRecord::from).collect();
    let shown = findings_text(&records, Look::PLAIN);
    for statement in
        ["ALTER SYSTEM SET wal_level = 'logical';", "ALTER TABLE \"public\".\"keyless\" ADD PRIMARY KEY"]
    {
        assert!(shown.contains(&format!("\n{statement}")), "{statement} cannot be pasted from {shown}");
    }
    assert!(shown.ends_with("blockers: the migration cannot begin. 4 warnings to read first.\n"), "{shown}");

    sides
        .set("PREFLIGHT__WAIVE", r#"["source.unlogged_tables", "source.large_objects", "source.wal_level"]"#);
    let findings = check(&sides).await;
    assert!(!blockers(&findings).contains("source.large_objects"));
    assert!(blockers(&findings).contains("source.wal_level"), "what would fail cannot be waived");
    assert!(warnings(&findings).contains("preflight.waive"));
}

#[tokio::test]
async fn a_role_without_rights_is_told_which_and_one_with_exactly_those_passes() {
    let mut sides = Sides::start(14, 17).await;
    let (source, target) = (sides.superuser(Side::Source).await, sides.superuser(Side::Target).await);
    source
        .batch_execute(
            "CREATE ROLE shop NOLOGIN; CREATE ROLE mover LOGIN PASSWORD 'm';
             CREATE TABLE public.orders (id bigint PRIMARY KEY); ALTER TABLE public.orders OWNER TO shop",
        )
        .await
        .expect("roles");
    target.batch_execute("CREATE ROLE mover LOGIN PASSWORD 'm'").await.expect("a role");
    sides.connect_as(Side::Source, "mover", "m");
    sides.connect_as(Side::Target, "mover", "m");
    let findings = check(&sides).await;
    assert_eq!(
        blockers(&findings),
        BTreeSet::from(["source.privileges", "target.privileges"]),
        "{findings:#?}"
    );

    source
        .batch_execute(
            "ALTER ROLE mover REPLICATION; GRANT shop TO mover; GRANT CREATE ON DATABASE postgres TO mover",
        )
        .await
        .expect("grants");
    target
        .batch_execute(
            "ALTER DATABASE postgres OWNER TO mover; GRANT SET ON PARAMETER session_replication_role TO mover",
        )
        .await
        .expect("grants");
    let findings = check(&sides).await;
    assert_eq!(blockers(&findings), BTreeSet::new(), "{findings:#?}");

    sides.set("TARGET__DURABILITY", "standbys");
    sides.set("TARGET__STANDBYS", "1");
    assert_eq!(blockers(&check(&sides).await), BTreeSet::from(["target.standbys"]), "it may not see them");
    target.batch_execute("GRANT pg_read_all_stats TO mover").await.expect("grant");
    let findings = check(&sides).await;
    assert_eq!(blockers(&findings), BTreeSet::new(), "{findings:#?}");
    assert!(warnings(&findings).contains("target.standbys"), "there are none: {findings:#?}");
}

#[tokio::test]
async fn names_that_are_taken_and_a_target_that_is_not_empty_block_the_beginning_only() {
    let sides = Sides::start(17, 18).await;
    let (source, target) = (sides.superuser(Side::Source).await, sides.superuser(Side::Target).await);
    source
        .batch_execute(
            "CREATE TABLE public.orders (id bigint PRIMARY KEY); CREATE PUBLICATION pgsluice FOR TABLE public.orders;",
        )
        .await
        .expect("a publication");
    source
        .batch_execute("SELECT pg_create_logical_replication_slot('pgsluice', 'pgoutput')")
        .await
        .expect("a slot");
    target
        .batch_execute("CREATE TYPE public.mood AS ENUM ('happy'); CREATE SCHEMA other")
        .await
        .expect("objects");
    let findings = check(&sides).await;
    let expected = ["source.existing_publication", "source.existing_slot", "target.empty"];
    assert_eq!(blockers(&findings), BTreeSet::from(expected), "{findings:#?}");
    let (own_source, own_target) = (sides.session(Side::Source).await, sides.session(Side::Target).await);
    let findings = run(
        &sides.config(),
        Asked { source: &own_source, target: &own_target, cluster: None },
        Stage::Resuming,
    )
    .await
    .expect("preflight");
    assert_eq!(blockers(&findings), BTreeSet::new(), "{findings:#?}");
}

#[tokio::test]
async fn an_existing_schema_must_have_every_table_and_no_rows() {
    let mut sides = Sides::start(14, 15).await;
    sides.set("SCHEMA__MODE", "existing");
    let (source, target) = (sides.superuser(Side::Source).await, sides.superuser(Side::Target).await);
    source
        .batch_execute(
            "CREATE TABLE public.absent (id int PRIMARY KEY); CREATE TABLE public.filled (id int PRIMARY KEY);
             CREATE TABLE public.narrow (id int PRIMARY KEY, note text); CREATE TABLE public.fine (id int PRIMARY KEY)",
        )
        .await
        .expect("tables");
    target
        .batch_execute(
            "CREATE TABLE public.filled (id int PRIMARY KEY); INSERT INTO public.filled VALUES (1);
             CREATE TABLE public.narrow (id int PRIMARY KEY); CREATE TABLE public.fine (id int PRIMARY KEY)",
        )
        .await
        .expect("tables");
    let findings = check(&sides).await;
    let blocked: BTreeSet<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Blocker)
        .map(|finding| (finding.id, finding.subject.as_str()))
        .collect();
    let expected = [
        ("target.empty", "public.filled"),
        ("target.schema", "public.absent"),
        ("target.schema", "public.narrow"),
    ];
    assert_eq!(blocked, BTreeSet::from(expected), "{findings:#?}");
}

#[tokio::test]
async fn a_target_that_is_the_source_or_older_than_it_is_refused() {
    let mut sides = Sides::start(17, 15).await;
    assert_eq!(blockers(&check(&sides).await), BTreeSet::from(["target.version"]));
    // The same database by another name of the same machine.
    let url = sides.source.url("postgres").replace("127.0.0.1", "localhost");
    sides.set("TARGET__URL", &url);
    assert!(blockers(&check(&sides).await).contains("both.same_server"));
}

/// PostgreSQL rounds a number, cuts a time and drops an offset without a word when a value arrives as text.
#[tokio::test]
async fn an_existing_column_that_would_change_values_in_silence_is_a_blocker() {
    let mut sides = Sides::start(14, 17).await;
    sides.set("SCHEMA__MODE", "existing");
    let (source, target) = (sides.superuser(Side::Source).await, sides.superuser(Side::Target).await);
    source
        .batch_execute(
            "CREATE DOMAIN public.rate AS numeric(10,4);
             CREATE TABLE public.t (id int PRIMARY KEY, price numeric, day timestamp, moment timestamptz, share float8,
                 fee numeric, tax public.rate, note varchar(20), doc json, large bigint, kept public.rate)",
        )
        .await
        .expect("source");
    target
        .batch_execute(
            "CREATE DOMAIN public.rate AS numeric(10,4); CREATE DOMAIN public.cents AS numeric(10,2);
             CREATE TABLE public.t (id bigint PRIMARY KEY, price numeric(10,2), day date, moment timestamptz(0), share float4,
                 fee public.cents, tax public.cents, note varchar(30), doc jsonb, large numeric, kept public.rate)",
        )
        .await
        .expect("target");
    let findings = check(&sides).await;
    let columns = |severity| -> BTreeSet<&str> {
        let of_schema = findings.iter().filter(|finding| finding.id == "target.schema");
        of_schema
            .filter(|finding| finding.severity == severity)
            .filter_map(|finding| finding.finding.split(' ').nth(1))
            .collect()
    };
    let changed = BTreeSet::from(["price", "day", "moment", "share", "fee", "tax", "doc"]);
    assert_eq!(columns(Severity::Blocker), changed, "{findings:#?}");
    assert_eq!(columns(Severity::Warning), BTreeSet::from(["id", "note", "large"]), "{findings:#?}");
}

#[tokio::test]
async fn rows_that_nobody_would_migrate_and_what_the_target_would_refuse_are_found() {
    let sides = Sides::start(14, 17).await;
    let source = sides.superuser(Side::Source).await;
    source
        .batch_execute(
            "CREATE TABLE public.jobs (id int PRIMARY KEY, own boolean NOT NULL DEFAULT true);
             ALTER EXTENSION plpgsql ADD TABLE public.jobs;
             UPDATE pg_catalog.pg_extension SET extconfig = ARRAY['public.jobs'::regclass::oid], extcondition = ARRAY['WHERE own']
              WHERE extname = 'plpgsql';
             INSERT INTO public.jobs VALUES (1, false);
             CREATE DOMAIN public.positive AS int;
             CREATE TABLE public.t (id int PRIMARY KEY, n public.positive); INSERT INTO public.t VALUES (1, -1);
             ALTER DOMAIN public.positive ADD CONSTRAINT above_zero CHECK (value > 0) NOT VALID;
             CREATE FUNCTION public.guard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
             CREATE EVENT TRIGGER guard ON ddl_command_start EXECUTE FUNCTION public.guard();
             CREATE SUBSCRIPTION idle CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
        )
        .await
        .expect("source");
    let findings = check(&sides).await;
    assert_eq!(blockers(&findings), BTreeSet::new(), "rows of the extension itself: {findings:#?}");
    let warned = BTreeSet::from(["source.domain_constraints", "source.event_triggers"]);
    assert!(warnings(&findings).is_superset(&warned), "{findings:#?}");
    source.batch_execute("ALTER SUBSCRIPTION idle ENABLE").await.expect("a subscription");
    assert_eq!(blockers(&check(&sides).await), BTreeSet::from(["source.subscriptions"]));
    source.batch_execute("ALTER SUBSCRIPTION idle DISABLE").await.expect("a subscription");
    source
        .batch_execute(
            "INSERT INTO public.jobs VALUES (2);
             CREATE SCHEMA pgsluice; CREATE TABLE pgsluice.mine (id int PRIMARY KEY)",
        )
        .await
        .expect("rows");
    let findings = check(&sides).await;
    let left_behind: BTreeSet<_> = findings
        .iter()
        .filter(|finding| finding.id == "source.uncopied_tables")
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(left_behind, BTreeSet::from(["public.jobs", "pgsluice.mine"]), "{findings:#?}");
}
