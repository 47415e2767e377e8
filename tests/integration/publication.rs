//! The publication: ours alone, of exactly the tables selected, and never one that breaks the source's own writes.

use pgsluice::config::TableFilter;
use pgsluice::connection::SqlSession;
use pgsluice::model::Side;
use pgsluice::runtime::Shutdown;
use pgsluice::source::SourceTable;
use pgsluice::source::catalog::read_tables;
use pgsluice::source::publication::{self, Dropped, Ensured, PublicationError, ensure};

use crate::harness::clusters::start;
use crate::harness::wait::until;

const SCHEMA: &str = "
CREATE TABLE public.orders (id bigint PRIMARY KEY);
CREATE TABLE public.parent (id int PRIMARY KEY);
CREATE TABLE public.child (CONSTRAINT child_pkey PRIMARY KEY (id)) INHERITS (public.parent);
CREATE UNLOGGED TABLE public.sessions (id int);
CREATE TABLE public.events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')";

async fn tables(session: &SqlSession) -> Vec<SourceTable> {
    read_tables(session, &TableFilter::default()).await.expect("the catalog")
}

async fn connect(url: &str) -> SqlSession {
    let settings = pgsluice::connection::ConnectionSettings::parse(url).expect("a url");
    pgsluice::connection::connect_sql(&settings, Side::Source, "test").await.expect("a session")
}

async fn create_and_inspect(major: u32) {
    let cluster = start(major).await;
    let session = connect(&cluster.url("postgres")).await;
    session.batch_execute(SCHEMA).await.expect("schema");
    let selected = tables(&session).await;
    let shutdown = Shutdown::new();
    assert_eq!(ensure(&session, "p", &selected, &shutdown).await.expect("created"), Ensured::Created);
    assert_eq!(ensure(&session, "p", &selected, &shutdown).await.expect("verified"), Ensured::Present);
    let state = publication::inspect(&session, "p").await.expect("inspected").expect("it exists");
    let names: Vec<&str> = state.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(
        names,
        ["child", "events", "orders", "parent"],
        "roots stand for partitions; unlogged stay out"
    );

    // A partition that comes later is in the stream too; a table that comes later is not, and is not adopted.
    session
        .batch_execute("CREATE TABLE public.events_2 PARTITION OF public.events DEFAULT")
        .await
        .expect("a partition");
    assert_eq!(
        ensure(&session, "p", &tables(&session).await, &shutdown).await.expect("same"),
        Ensured::Present
    );
    session.batch_execute("CREATE TABLE public.later (id int PRIMARY KEY)").await.expect("a table");
    let error = ensure(&session, "p", &tables(&session).await, &shutdown).await.expect_err("a new member");
    assert!(
        matches!(&error, PublicationError::MembersDiffer { unpublished, .. } if unpublished.len() == 1),
        "{error}"
    );

    session.batch_execute("ALTER PUBLICATION p SET (publish = 'insert')").await.expect("altered");
    let error = ensure(&session, "p", &selected, &shutdown).await.expect_err("no longer everything");
    assert!(matches!(error, PublicationError::Altered { .. }), "{error}");
    assert_eq!(publication::drop(&session, "p").await.expect("dropped"), Dropped::Dropped);
    assert_eq!(publication::drop(&session, "p").await.expect("nothing to drop"), Dropped::Absent);
}

#[tokio::test]
async fn a_publication_is_created_once_and_verified_afterwards_on_14() {
    create_and_inspect(14).await;
}

#[tokio::test]
async fn a_publication_is_created_once_and_verified_afterwards_on_18() {
    create_and_inspect(18).await;
}

/// Trap 19: the source's own UPDATE and DELETE must never fail because of us.
#[tokio::test]
async fn tables_whose_own_writes_would_fail_are_not_published() {
    let cluster = start(18).await;
    let session = connect(&cluster.url("postgres")).await;
    session
        .batch_execute(
            "CREATE TABLE public.keyless (a int);
             CREATE TABLE public.full_generated (a int, b int GENERATED ALWAYS AS (a + 1) STORED);
             ALTER TABLE public.full_generated REPLICA IDENTITY FULL;
             CREATE TABLE public.full_plain (a int); ALTER TABLE public.full_plain REPLICA IDENTITY FULL;
             INSERT INTO public.keyless VALUES (1); INSERT INTO public.full_generated VALUES (1);
             INSERT INTO public.full_plain VALUES (1)",
        )
        .await
        .expect("schema");
    let error = ensure(&session, "p", &tables(&session).await, &Shutdown::new()).await.expect_err("refused");
    let PublicationError::NoReplicaIdentity { tables: refused } = &error else { panic!("{error}") };
    let names: Vec<&str> = refused.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["full_generated", "keyless"]);
    assert!(publication::inspect(&session, "p").await.expect("inspected").is_none());

    // The server agrees with the judgement: these fail once published, and the third does not.
    session.batch_execute("CREATE PUBLICATION all_of_them FOR ALL TABLES").await.expect("a publication");
    for table in ["keyless", "full_generated"] {
        session.batch_execute(&format!("DELETE FROM public.{table}")).await.expect_err(table);
    }
    session.batch_execute("DELETE FROM public.full_plain").await.expect("a usable identity");
}

#[tokio::test]
async fn somebody_elses_publication_is_neither_used_nor_dropped() {
    let cluster = start(17).await;
    let session = connect(&cluster.url("postgres")).await;
    session
        .batch_execute(
            "CREATE TABLE public.orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE public.orders",
        )
        .await
        .expect("schema");
    let error = ensure(&session, "p", &tables(&session).await, &Shutdown::new()).await.expect_err("not ours");
    assert!(matches!(error, PublicationError::NotOurs { .. }), "{error}");
    let error = publication::drop(&session, "p").await.expect_err("not ours");
    assert!(matches!(error, PublicationError::NotOurs { .. }), "{error}");
    assert!(publication::inspect(&session, "p").await.expect("inspected").is_some());
}

#[tokio::test]
async fn publishing_does_not_wait_for_writers_and_waits_out_ddl() {
    let cluster = start(14).await;
    let url = cluster.url("postgres");
    let (session, writer) = (connect(&url).await, connect(&url).await);
    session.batch_execute(SCHEMA).await.expect("schema");
    let selected = tables(&session).await;
    writer.batch_execute("BEGIN; INSERT INTO public.orders VALUES (1)").await.expect("an open transaction");
    assert_eq!(ensure(&session, "p", &selected, &Shutdown::new()).await.expect("created"), Ensured::Created);
    publication::drop(&session, "p").await.expect("dropped");

    writer.batch_execute("ALTER TABLE public.orders ADD note text").await.expect("DDL");
    let publisher = connect(&url).await;
    let publishing = tokio::spawn(async move { ensure(&publisher, "p", &selected, &Shutdown::new()).await });
    until("the publisher waits for the lock", || async {
        let row = session.query_one("SELECT count(*) FROM pg_locks WHERE NOT granted", &[]).await;
        row.expect("pg_locks").get::<_, i64>(0) > 0
    })
    .await;
    writer.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(publishing.await.expect("no panic").expect("created"), Ensured::Created);
}
