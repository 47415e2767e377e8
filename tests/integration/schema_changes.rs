//! Schema changes on the source while its changes are streamed: the stream waits exactly there, says which statement
//! makes the target match, and goes on by itself.

use crate::harness::stage::{Pair, Stage, text};

/// What is recorded of the tables that were copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shapes_that_were_copied_are_recorded() {
    for pair in [Pair { source: 14, target: 17 }, Pair { source: 17, target: 18 }] {
        let stage = Stage::new(pair).await;
        let source = stage.source_client().await;
        source
            .batch_execute(
                "CREATE SCHEMA x; CREATE DOMAIN x.short AS varchar(5); CREATE TYPE x.mood AS ENUM ('a');
                 CREATE TABLE plain (id int PRIMARY KEY, gone int, s x.short, m x.mood, n numeric(7,2)[], v varchar(9),
                                     g int GENERATED ALWAYS AS (id + 1) STORED);
                 ALTER TABLE plain DROP COLUMN gone;
                 CREATE TABLE parent (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
                 CREATE TABLE middle PARTITION OF parent FOR VALUES IN (1) PARTITION BY LIST (k);
                 CREATE TABLE leaf PARTITION OF middle FOR VALUES IN (1);
                 INSERT INTO plain VALUES (1); INSERT INTO parent VALUES (1, 1)",
            )
            .await
            .expect("schema");
        let _replicator = stage.streaming().await;
        let target = stage.target_client().await;
        let recorded = text(
            &target,
            "SELECT string_agg(table_name || ' ' || state || ' ' || coalesce(join_lsn::text, '-') || ' ' ||
                    (target_oid = (schema_name || '.' || table_name)::regclass)::text || ' ' ||
                    (SELECT string_agg((c ->> 'name') || ':' || (c ->> 'type') || ':' || (c ->> 'modifier') || ':' || (c ->> 'number'), ',')
                       FROM jsonb_array_elements(columns) c), E'\\n' ORDER BY table_name)
               FROM pgsluice.relation",
        )
        .await;
        assert_eq!(
            recorded,
            "leaf joined - true id:int4:-1:1,k:int4:-1:2\n\
             plain joined - true id:int4:-1:1,s:varchar:-1:3,m:x.mood:-1:4,n:_numeric:458758:5,v:varchar:13:6"
        );
        // The way from the leaf to what is named in the publication: two steps.
        let membership =
            text(&target, "SELECT membership FROM pgsluice.relation WHERE table_name = 'leaf'").await;
        assert_eq!(membership.split('<').count(), 3, "{membership}");
    }
}
