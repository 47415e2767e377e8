//! Schema changes on the source while its changes are streamed: the stream waits exactly there, says which statement
//! makes the target match, and goes on by itself.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord};
use pgsluice::demo::replicator::Replicator;
use pgsluice::model::as_sentence;
use tokio_postgres::Client;

use crate::harness::stage::{COPY_WAIT, Pair, Stage, cut_over, text};
use crate::harness::two_tables::{confirmed, kill};
use crate::harness::wait::until;

/// A change on the source, and what the program must say of it. `$` stands for the quoted name of the case's table.
struct Case {
    table: &'static str,
    setup: &'static str,
    /// Each is a transaction of its own.
    change: &'static [&'static str],
    problem: &'static str,
    remedy: &'static str,
}

const CASES: &[Case] = &[
    Case {
        table: "added",
        setup: "(id int PRIMARY KEY, v text)",
        change: &["ALTER TABLE $ ADD COLUMN c numeric(6,2)", "UPDATE $ SET c = 1.5 WHERE id = 1"],
        problem: "table $ differs between source and target: column \"c\" does not exist on the target",
        remedy: "ALTER TABLE $ ADD COLUMN \"c\" numeric(6,2);",
    },
    Case {
        // Nothing in the stream says that existing rows have the value.
        table: "added_with_default",
        setup: "(id int PRIMARY KEY, v text)",
        change: &[
            "ALTER TABLE $ ADD COLUMN c text COLLATE \"C\" NOT NULL DEFAULT 'it''s \\'",
            "ALTER TABLE $ ALTER COLUMN c SET DEFAULT 'later'",
            "INSERT INTO $ VALUES (100, 'new')",
        ],
        problem: "table $ differs between source and target: column \"c\" does not exist on the target",
        remedy: "ALTER TABLE $ ADD COLUMN \"c\" text COLLATE pg_catalog.\"C\" DEFAULT  E'it''s \\\\' NOT NULL;\n\
                 ALTER TABLE $ ALTER COLUMN \"c\" SET DEFAULT 'later'::text;",
    },
    Case {
        table: "added_volatile",
        setup: "(id int PRIMARY KEY, v text)",
        // Existing rows get values that are nowhere in the stream: it is copied again.
        change: &[
            "ALTER TABLE $ ADD COLUMN c uuid DEFAULT gen_random_uuid()",
            "INSERT INTO $ VALUES (100, 'new')",
        ],
        problem: "table $ differs between source and target: column \"c\" does not exist on the target",
        remedy: "ALTER TABLE $ ADD COLUMN \"c\" uuid;\n\
                 ALTER TABLE $ ALTER COLUMN \"c\" SET DEFAULT gen_random_uuid();\n\
                 -- Rows that were there when \"c\" was added may have got values on the source that are not in the stream: \
                 if so, the table is copied again by itself.",
    },
    Case {
        table: "dropped",
        setup: "(id int PRIMARY KEY, v text, w int)",
        change: &["ALTER TABLE $ DROP COLUMN v", "INSERT INTO $ VALUES (100, 1)"],
        problem: "table $ differs between source and target: column \"v\" was dropped on the source and is still there on \
                  the target",
        remedy: "ALTER TABLE $ DROP COLUMN \"v\";",
    },
    Case {
        table: "dropped and added",
        setup: "(id int PRIMARY KEY, v text, w text)",
        change: &["ALTER TABLE $ DROP COLUMN v, ADD COLUMN v text", "INSERT INTO $ VALUES (100, 'w', 'v')"],
        problem: "table $ differs between source and target: column \"v\" does not exist on the target; column \"v\" was \
                  dropped on the source and is still there on the target",
        remedy: "ALTER TABLE $ DROP COLUMN \"v\";\nALTER TABLE $ ADD COLUMN \"v\" text;",
    },
    Case {
        table: "renamed column",
        setup: "(id int PRIMARY KEY, v text)",
        change: &["ALTER TABLE $ RENAME COLUMN v TO \"W w\"", "UPDATE $ SET \"W w\" = 'x' WHERE id = 1"],
        problem: "table $ differs between source and target: column \"v\" of the target was renamed to \"W w\" on the source",
        remedy: "ALTER TABLE $ RENAME COLUMN \"v\" TO \"W w\";",
    },
    Case {
        table: "swapped columns",
        setup: "(id int PRIMARY KEY, v text, w text)",
        change: &[
            "ALTER TABLE $ RENAME COLUMN v TO x; ALTER TABLE $ RENAME COLUMN w TO v; ALTER TABLE $ RENAME COLUMN x TO w",
            "INSERT INTO $ (id, v, w) VALUES (100, 'v', 'w')",
        ],
        problem: "table $ differs between source and target: column \"v\" of the target was renamed to \"w\" on the source; \
                  column \"w\" of the target was renamed to \"v\" on the source",
        remedy: "ALTER TABLE $ RENAME COLUMN \"v\" TO \"pgsluice_renamed_0\";\n\
                 ALTER TABLE $ RENAME COLUMN \"w\" TO \"pgsluice_renamed_1\";\n\
                 ALTER TABLE $ RENAME COLUMN \"pgsluice_renamed_0\" TO \"w\";\n\
                 ALTER TABLE $ RENAME COLUMN \"pgsluice_renamed_1\" TO \"v\";",
    },
    Case {
        table: "wider",
        setup: "(id int PRIMARY KEY, v int DEFAULT 1)",
        change: &["ALTER TABLE $ ALTER COLUMN v TYPE bigint", "INSERT INTO $ VALUES (100, 5000000000)"],
        problem: "table $ differs between source and target: column \"v\" is int8 on the source and int4 on the target",
        remedy: "ALTER TABLE $ ALTER COLUMN \"v\" DROP DEFAULT, ALTER COLUMN \"v\" TYPE bigint USING \"v\"::bigint, \
                 ALTER COLUMN \"v\" SET DEFAULT 1;\n\
                 -- If the source's ALTER TABLE had another USING clause, use that one: what it made of existing rows is not \
                 in the stream.",
    },
    Case {
        table: "shorter",
        setup: "(id int PRIMARY KEY, v varchar(20), w varchar(10))",
        change: &[
            "ALTER TABLE $ ALTER COLUMN v TYPE varchar(10), ALTER COLUMN w TYPE varchar(20)",
            "INSERT INTO $ VALUES (100, 'v')",
        ],
        problem: "table $ differs between source and target: column \"v\" has type modifier 14 on the source and 24 on the \
                  target; column \"w\" has type modifier 24 on the source and 14 on the target",
        remedy: "ALTER TABLE $ ALTER COLUMN \"v\" TYPE character varying(10) USING \"v\"::character varying(10);\n\
                 -- If the source's ALTER TABLE had another USING clause, use that one: what it made of existing rows is not \
                 in the stream.\n\
                 ALTER TABLE $ ALTER COLUMN \"w\" TYPE character varying(20) USING \"w\"::character varying(20);\n\
                 -- If the source's ALTER TABLE had another USING clause, use that one: what it made of existing rows is not \
                 in the stream.",
    },
    Case {
        table: "text to jsonb",
        setup: "(id int PRIMARY KEY, v text)",
        change: &[
            "ALTER TABLE $ ALTER COLUMN v TYPE jsonb USING v::jsonb",
            "INSERT INTO $ VALUES (100, '{\"b\": [1, 2.50]}')",
        ],
        problem: "table $ differs between source and target: column \"v\" is jsonb on the source and text on the target",
        remedy: "ALTER TABLE $ ALTER COLUMN \"v\" TYPE jsonb USING \"v\"::jsonb;\n\
                 -- If the source's ALTER TABLE had another USING clause, use that one: what it made of existing rows is not \
                 in the stream.",
    },
    Case {
        table: "several in a row",
        setup: "(id int PRIMARY KEY, v text, w text)",
        change: &[
            "ALTER TABLE $ ADD COLUMN c int DEFAULT 7",
            "ALTER TABLE $ DROP COLUMN v",
            "ALTER TABLE $ RENAME COLUMN w TO v",
            "UPDATE $ SET v = 'x' WHERE id = 1",
        ],
        problem: "table $ differs between source and target: column \"w\" of the target was renamed to \"v\" on the source; \
                  column \"c\" does not exist on the target; column \"v\" was dropped on the source and is still there on the \
                  target",
        remedy: "ALTER TABLE $ DROP COLUMN \"v\";\nALTER TABLE $ RENAME COLUMN \"w\" TO \"v\";\n\
                 ALTER TABLE $ ADD COLUMN \"c\" integer DEFAULT '7';\nALTER TABLE $ ALTER COLUMN \"c\" SET DEFAULT 7;",
    },
    Case {
        table: "in the middle, added",
        setup: "(id int PRIMARY KEY, v text)",
        change: &["INSERT INTO $ VALUES (100, 'before'); ALTER TABLE $ ADD COLUMN c int DEFAULT 3; \
                   INSERT INTO $ VALUES (101, 'after', 4); UPDATE $ SET v = 'changed' WHERE id = 100"],
        problem: "table $ differs between source and target: column \"c\" does not exist on the target",
        remedy: "ALTER TABLE $ ADD COLUMN \"c\" integer DEFAULT '3';\nALTER TABLE $ ALTER COLUMN \"c\" SET DEFAULT 3;",
    },
    Case {
        table: "in the middle, renamed",
        setup: "(id int PRIMARY KEY, v text)",
        change: &["INSERT INTO $ VALUES (100, 'before'); ALTER TABLE $ RENAME v TO w; \
                   INSERT INTO $ VALUES (101, 'after'); UPDATE $ SET w = 'changed' WHERE id = 100"],
        problem: "table $ differs between source and target: column \"v\" of the target was renamed to \"w\" on the source",
        remedy: "ALTER TABLE $ RENAME COLUMN \"v\" TO \"w\";",
    },
    Case {
        // The transaction itself goes on; the next one that writes to the table waits.
        table: "in the middle, dropped",
        setup: "(id int PRIMARY KEY, v text, w int)",
        change: &[
            "INSERT INTO $ VALUES (100, 'before', 1); ALTER TABLE $ DROP COLUMN v; INSERT INTO $ VALUES (101, 2)",
            "INSERT INTO $ VALUES (102, 3)",
        ],
        problem: "table $ differs between source and target: column \"v\" was dropped on the source and is still there on \
                  the target",
        remedy: "ALTER TABLE $ DROP COLUMN \"v\";",
    },
    Case {
        table: "labels",
        setup: "(id int PRIMARY KEY, v \"Mood\")",
        change: &[
            "ALTER TYPE \"Mood\" ADD VALUE 'first' BEFORE 'a'",
            "ALTER TYPE \"Mood\" ADD VALUE 'it''s' AFTER 'a'",
            "INSERT INTO $ VALUES (100, 'it''s'), (101, 'first')",
        ],
        problem: "the target refused to insert a row of table $",
        remedy: "ALTER TYPE public.\"Mood\" ADD VALUE 'first' BEFORE 'a';\n\
                 ALTER TYPE public.\"Mood\" ADD VALUE 'it''s' AFTER 'a';",
    },
    Case {
        table: "labels renamed",
        setup: "(id int PRIMARY KEY, v size[])",
        change: &["ALTER TYPE size RENAME VALUE 's' TO 'small'", "INSERT INTO $ VALUES (100, '{small,l}')"],
        problem: "the target refused to insert a row of table $",
        remedy: "ALTER TYPE public.size RENAME VALUE 's' TO 'small';",
    },
    Case {
        table: "no longer required",
        setup: "(id int PRIMARY KEY, v text NOT NULL, d short, CONSTRAINT low CHECK (id < 100))",
        change: &[
            "ALTER TABLE $ ALTER v DROP NOT NULL; ALTER TABLE $ DROP CONSTRAINT low",
            "INSERT INTO $ VALUES (200)",
        ],
        problem: "the target refused to insert a row of table $",
        remedy: "ALTER TABLE $ ALTER COLUMN \"v\" DROP NOT NULL;\nALTER TABLE $ DROP CONSTRAINT \"low\";",
    },
    Case {
        table: "domain",
        setup: "(id int PRIMARY KEY, d short)",
        change: &["ALTER DOMAIN short DROP CONSTRAINT few", "INSERT INTO $ VALUES (100, 'more than three')"],
        problem: "the target refused to insert a row of table $",
        remedy: "ALTER DOMAIN public.short DROP CONSTRAINT \"few\";",
    },
];

const TYPES: &str = "CREATE TYPE \"Mood\" AS ENUM ('a', 'b'); CREATE TYPE size AS ENUM ('s', 'l');
                     CREATE DOMAIN short AS text CONSTRAINT few CHECK (length(VALUE) <= 3);
                     CREATE TABLE other (id int PRIMARY KEY, v text)";

impl Case {
    fn quoted(&self) -> String {
        format!("\"public\".\"{}\"", self.table)
    }

    fn with_name(&self, text: &str) -> String {
        text.replace('$', &self.quoted())
    }
}

/// Two servers, a program that streams, and a session on each.
struct Scene {
    stage: Stage,
    replicator: Replicator,
    source: Client,
    target: Client,
    rows: u32,
}

impl Scene {
    async fn new(pair: Pair, setup: &str) -> Self {
        let stage = Stage::new(pair).await;
        let source = stage.source_client().await;
        source.batch_execute(TYPES).await.expect("types");
        source.batch_execute(setup).await.expect("setup");
        let replicator = stage.streaming().await;
        let target = stage.target_client().await;
        // As an operator with rights: what pgsluice itself forbids there is the applications' writing.
        Self { stage, replicator, source, target, rows: 0 }
    }

    async fn run(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs transactions between a row of another table before and one after; waits until the program says that it waits
    /// exactly between them; returns what it says.
    async fn held_by(&mut self, change: &[String], said: &str) -> (String, String) {
        let (before, after) = (self.rows, self.rows + 1);
        self.rows += 2;
        self.run(&format!("INSERT INTO other VALUES ({before}, 'before')")).await;
        for statement in change {
            self.run(statement).await;
        }
        let changed = text(&self.source, "SELECT pg_current_wal_lsn()::text").await;
        self.run(&format!("INSERT INTO other VALUES ({after}, 'after')")).await;
        let problem = self.problem(said).await;
        until("the row before the change", || async { self.other(before).await == "before" }).await;
        let active = "SELECT active::text FROM pg_replication_slots WHERE database = 'app'";
        until("an active slot", || async { text(&self.source, active).await == "true" }).await;
        let mut looks = 0;
        until("a while of waiting", || {
            looks += 1;
            let done = looks > 20;
            let this = &*self;
            let changed = &changed;
            async move {
                assert_eq!(this.other(after).await, "", "it went past the change");
                // A change that the target refused is tried again in a stream of its own: between two there is none for a moment.
                until("an active slot again", || async { text(&this.source, active).await == "true" }).await;
                let passed = format!(
                    "SELECT ('{}'::pg_lsn > '{changed}'::pg_lsn)::text",
                    confirmed(&this.source).await
                );
                assert_eq!(text(&this.source, &passed).await, "false", "confirmed beyond the change");
                done
            }
        })
        .await;
        problem
    }

    async fn other(&self, id: u32) -> String {
        text(&self.target, &format!("SELECT coalesce((SELECT v FROM other WHERE id = {id}), '')")).await
    }

    async fn problem(&mut self, said: &str) -> (String, String) {
        let status = self
            .replicator
            .wait_for_status(&format!("a wait because: {said}"), COPY_WAIT, |status| {
                status.problem.as_ref().is_some_and(|problem| {
                    let begins_with_it = problem.message.starts_with(&as_sentence(said));
                    problem.blocking == "waiting_for_operator"
                        && (begins_with_it || problem.message.contains(said))
                })
            })
            .await;
        match status {
            Ok(status) => status.problem.map(|problem| (problem.message, problem.remedy)).unwrap_or_default(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Does as the program says, word for word; it goes on by itself, and everything is the same then.
    async fn follow(&mut self, remedy: &str) {
        self.target.batch_execute(remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error:?}"));
        self.goes_on().await;
    }

    async fn goes_on(&mut self) {
        self.stage.caught_up().await;
        let told =
            self.replicator.wait_for_status("no problem", COPY_WAIT, |status| status.problem.is_none()).await;
        if let Err(error) = told {
            panic!("{error}");
        }
        // A table that is copied again joins beside the stream, which has gone on by then.
        until("the same rows", || async { self.stage.compare().await.rows_are_identical() }).await;
        assert_eq!(columns(&self.source).await, columns(&self.target).await);
    }
}

/// Every table's columns, as a definition would list them, by name.
async fn columns(client: &Client) -> String {
    let query = "SELECT string_agg(c.oid::regclass::text || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ||
                                   CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END ||
                                   coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), ''), E'\\n'
                                   ORDER BY c.oid::regclass::text COLLATE \"C\", a.attname COLLATE \"C\")
                   FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
                  WHERE c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text IN ('public', 'elsewhere')";
    text(client, query).await
}

/// Every kind of change of one table: said exactly, waited for exactly there, and followed word for word.
pub(crate) async fn every_change_of_a_table_is_waited_for_and_its_remedy_is_enough(pair: Pair) {
    let setup: String = CASES
        .iter()
        .map(|case| {
            let has_label = case.setup.contains("Mood");
            let value = match case.table {
                "wider" => "i",
                "text to jsonb" => "'{\"a\": 1}'",
                "labels renamed" => "'{s}'",
                _ if has_label => "'a'",
                _ => "'v'",
            };
            let create = format!("CREATE TABLE $ {}; ", case.setup);
            let column = if case.table == "domain" { "d" } else { "v" };
            case.with_name(&format!(
                "{create} INSERT INTO $ (id, {column}) SELECT i, {value} FROM generate_series(1, 20) i; "
            ))
        })
        .collect();
    let mut scene = Scene::new(pair, &setup).await;
    for case in CASES {
        let change: Vec<_> = case.change.iter().map(|statement| case.with_name(statement)).collect();
        let said = case.with_name(case.problem);
        let (message, remedy) = scene.held_by(&change, &said).await;
        assert_eq!(remedy, case.with_name(case.remedy), "{message}");
        scene.follow(&remedy).await;
    }
}

/// Tables that change their names, schemas, or one another's names.
pub(crate) async fn renamed_and_moved_tables_keep_their_rows(pair: Pair) {
    let mut scene = Scene::new(
        pair,
        "CREATE SCHEMA elsewhere;
         CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first VALUES (1, 'first');
         CREATE TABLE second (id int PRIMARY KEY, v text); INSERT INTO second VALUES (1, 'second');
         CREATE TABLE third (id int PRIMARY KEY, v text); INSERT INTO third VALUES (1, 'third')",
    )
    .await;
    let change = ["ALTER TABLE third RENAME TO \"Third\"", "UPDATE \"Third\" SET v = 'x'"].map(String::from);
    let (_, remedy) = scene.held_by(&change, "table \"public\".\"Third\" differs").await;
    assert_eq!(remedy, "ALTER TABLE \"public\".\"third\" RENAME TO \"Third\";");
    scene.follow(&remedy).await;

    let change =
        ["ALTER TABLE \"Third\" SET SCHEMA elsewhere", "INSERT INTO elsewhere.\"Third\" VALUES (2, 'y')"]
            .map(String::from);
    let (_, remedy) = scene.held_by(&change, "it was renamed on the source").await;
    assert_eq!(
        remedy,
        "CREATE SCHEMA IF NOT EXISTS \"elsewhere\";\nALTER TABLE \"public\".\"Third\" SET SCHEMA \"elsewhere\";"
    );
    scene.follow(&remedy).await;

    let change = [
        "ALTER TABLE first RENAME TO x; ALTER TABLE second RENAME TO first; ALTER TABLE x RENAME TO second",
        "UPDATE first SET v = 'was second'; UPDATE second SET v = 'was first'",
    ]
    .map(String::from);
    let (_, remedy) = scene.held_by(&change, "table \"public\".\"first\" differs").await;
    assert!(
        remedy.ends_with(
            "ALTER TABLE \"public\".\"first\" RENAME TO \"first_moved_aside\";\n\
             ALTER TABLE \"public\".\"second\" RENAME TO \"first\";"
        ),
        "{remedy}"
    );
    scene.target.batch_execute(&remedy).await.expect("the first half");
    let (_, remedy) = scene.problem("table \"public\".\"second\" differs").await;
    assert_eq!(remedy, "ALTER TABLE \"public\".\"first_moved_aside\" RENAME TO \"second\";");
    scene.follow(&remedy).await;
    assert_eq!(text(&scene.target, "SELECT v FROM first").await, "was second");
}

/// One transaction, two changed tables, with changes before: waited for one after the other, and killed in between.
pub(crate) async fn a_wait_in_the_middle_of_a_transaction_survives_sudden_death(pair: Pair) {
    let mut scene = Scene::new(
        pair,
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
         INSERT INTO a VALUES (1, 'a'); INSERT INTO b VALUES (1, 'b')",
    )
    .await;
    let change = [String::from(
        "UPDATE a SET v = 'early'; UPDATE b SET v = 'early'; ALTER TABLE a ADD c int; ALTER TABLE b RENAME v TO w;
         UPDATE a SET c = 5; UPDATE b SET w = 'late'",
    )];
    let (_, remedy) = scene.held_by(&change, "table \"public\".\"a\" differs").await;
    assert_eq!(text(&scene.target, "SELECT v FROM a").await, "a", "nothing of the transaction is there");
    let locks = "SELECT count(*)::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname IN ('a', 'b')";
    assert_eq!(text(&scene.target, locks).await, "0", "nothing keeps the operator from altering the tables");
    let request = CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(5_000),
        unverified: true,
    };
    let refused = scene.replicator.api().start_cutover(request, "while held").await.expect_err("a refusal");
    assert!(refused.to_string().contains("table \"public\".\"a\" differs"), "{refused}");
    kill(&mut scene.replicator).await;
    scene.replicator = scene.stage.command("").start().expect("the program");
    let (_, again) = scene.problem("table \"public\".\"a\" differs").await;
    assert_eq!(remedy, again);
    scene.target.batch_execute(&remedy).await.expect("the first table");
    let (_, remedy) = scene.problem("table \"public\".\"b\" differs").await;
    scene.replicator.signal(Signal::SIGTERM);
    scene.replicator.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    scene.replicator = scene.stage.command("").start().expect("the program");
    scene.problem("table \"public\".\"b\" differs").await;
    let held = || async { scene.replicator.api().metric("pgsluice_stream_held").await.expect("metrics") };
    until("a metric that says so", || async { held().await == Some(1.0) }).await;
    scene.follow(&remedy).await;
    assert_eq!(scene.replicator.api().metric("pgsluice_stream_held").await.expect("metrics"), Some(0.0));
}

/// What ALTER TABLE makes of existing rows is not in the stream. Where the operator's statements did not do the same on the
/// target, the table is copied again by itself.
pub(crate) async fn existing_rows_that_a_change_left_different_are_copied_again(pair: Pair) {
    let mut scene = Scene::new(
        pair,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 500) i;
         CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t); INSERT INTO child SELECT i, i FROM generate_series(1, 500) i",
    )
    .await;
    for (change, followed) in [
        // The default without the value that existing rows got by it.
        (
            "ALTER TABLE t ADD COLUMN c int DEFAULT 5",
            "ALTER TABLE t ADD COLUMN c int; ALTER TABLE t ALTER c SET DEFAULT 5",
        ),
        // Dropped and added instead of renamed.
        ("ALTER TABLE t RENAME v TO w", "ALTER TABLE t DROP v; ALTER TABLE t ADD w text"),
        // Each row its own; in the middle of a transaction that has written to the table before.
        (
            "BEGIN; UPDATE t SET w = 'before' WHERE id < 10; ALTER TABLE t ADD s bigserial; UPDATE t SET w = 'x' WHERE id > 490; COMMIT",
            "CREATE SEQUENCE t_s_seq; ALTER TABLE t ADD s bigint NOT NULL DEFAULT nextval('t_s_seq'); ALTER SEQUENCE t_s_seq OWNED BY t.s",
        ),
    ] {
        let last = ["DELETE FROM t WHERE id = 0".to_owned(), "UPDATE t SET id = id WHERE id = 1".to_owned()];
        let change: Vec<String> = std::iter::once(change.to_owned()).chain(last).collect();
        scene.held_by(&change, "differs between source and target").await;
        scene.follow(followed).await;
        let log = scene.replicator.log();
        assert!(log.contains("the table is copied again"), "{log}");
    }
    // To the stream this one looks as before.
    scene
        .run("ALTER TABLE child DROP t; ALTER TABLE child ADD t int; UPDATE child SET t = 7 WHERE id = 1")
        .await;
    until("the same rows", || async { scene.stage.compare().await.rows_are_identical() }).await;
    let joined = scene
        .replicator
        .wait_for_status("nothing outside", COPY_WAIT, |status| status.tables_outside.is_empty());
    if let Err(error) = joined.await {
        panic!("{error}");
    }
    // The end of the join that has brought it back is seen a moment later.
    until("a cutover that is not refused", || async {
        let request = CutoverRequestRecord {
            mode: Some(CutoverModeRecord::Rehearsal),
            max_pause_ms: Some(5_000),
            unverified: true,
        };
        scene.replicator.api().start_cutover(request, "rehearsal").await.is_ok()
    })
    .await;
    let rehearsed = scene.replicator.wait_for_status("the rehearsal's end", COPY_WAIT, |status| {
        status.cutover.as_ref().is_some_and(|seen| seen.outcome != "running")
    });
    if let Err(error) = rehearsed.await {
        panic!("{error}");
    }
    cut_over(&mut scene.replicator).await;
    scene.stage.assert_same_rows().await;
}

/// What did not happen, and what the operator did before, is not waited for.
pub(crate) async fn rolled_back_and_anticipated_changes_are_not_waited_for(pair: Pair) {
    let mut scene = Scene::new(
        pair,
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text); INSERT INTO t VALUES (1, 'v', 'w');
         CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, 'u')",
    )
    .await;
    scene
        .run("BEGIN; INSERT INTO t VALUES (2, 'a', 'b'); SAVEPOINT s; ALTER TABLE t ADD c int; UPDATE t SET c = 1;
              ROLLBACK TO s; INSERT INTO t VALUES (3, 'c', 'd'); COMMIT; ALTER TABLE t REPLICA IDENTITY FULL;
              UPDATE t SET v = 'full' WHERE id = 3")
        .await;
    scene.goes_on().await;
    // Early: the stream still says `v`, and its values go where they belong.
    scene
        .target
        .batch_execute(
            "ALTER TABLE t RENAME v TO x; ALTER TABLE t ADD c int DEFAULT 1; ALTER TABLE u RENAME TO early",
        )
        .await
        .expect("early");
    scene.run("UPDATE t SET v = 'early' WHERE id = 1; INSERT INTO u VALUES (2, 'early')").await;
    scene.stage.caught_up().await;
    assert_eq!(text(&scene.target, "SELECT x FROM t WHERE id = 1").await, "early");
    scene
        .run(
            "ALTER TABLE t RENAME v TO x; ALTER TABLE t ADD c int DEFAULT 1; ALTER TABLE u RENAME TO early;
              UPDATE t SET x = 'late' WHERE id = 2; INSERT INTO early VALUES (3, 'late')",
        )
        .await;
    scene.goes_on().await;
    let log = scene.replicator.log();
    assert!(!log.contains("waits for an operator"), "{log}");

    // Nothing is written after this one, so the stream never comes to it.
    scene.run("ALTER TABLE early ADD COLUMN unseen int DEFAULT 4").await;
    let request = || CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(5_000),
        unverified: true,
    };
    let refused = scene
        .replicator
        .api()
        .start_cutover(request(), "unseen")
        .await
        .expect_err("the target lacks a column");
    assert!(refused.to_string().contains("column \"unseen\" does not exist on the target"), "{refused}");
    scene
        .target
        .batch_execute("ALTER TABLE early ADD COLUMN unseen int DEFAULT 4")
        .await
        .expect("the operator's part");
    scene.goes_on().await;
    cut_over(&mut scene.replicator).await;
}

/// Traps 9 and 11: the stream announces such a table as before, and what found its rows until now is not unique any more.
pub(crate) async fn a_table_that_loses_its_key_is_not_known_by_it_any_more(pair: Pair) {
    let stage = Stage::new(pair).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    source
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL;
             INSERT INTO t SELECT i, 'copied' FROM generate_series(1, 20) i",
        )
        .await
        .expect("schema");
    let mut replicator = stage.streaming_with("apply.coalesce = \"always\"\n").await;
    target.batch_execute("ALTER TABLE t REPLICA IDENTITY FULL").await.expect("as on the source");
    source
        .batch_execute(
            "INSERT INTO t VALUES (100, 'new'); UPDATE t SET v = 'streamed' WHERE id IN (1, 2, 100)",
        )
        .await
        .expect("changes by the key");
    let mut did = vec!["changes of a table with a key".to_owned()];
    stage.caught_up_after(&mut replicator, &did).await;
    stage.assert_same_rows().await;

    // The operator's order: the target first.
    let drop_key = "ALTER TABLE t DROP CONSTRAINT t_pkey";
    target.batch_execute(drop_key).await.expect("no key on the target");
    source.batch_execute(drop_key).await.expect("no key on the source");
    source
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (1, 'second'); DELETE FROM t WHERE v = 'streamed' AND id = 1;
             UPDATE t SET v = 'changed' WHERE id = 2; INSERT INTO t VALUES (101, 'new'); DELETE FROM t WHERE id = 3; COMMIT",
        )
        .await
        .expect("two rows with one id");
    did.push("two rows with one id, and one of them deleted".to_owned());
    stage.caught_up_after(&mut replicator, &did).await;
    assert_eq!(text(&target, "SELECT string_agg(v, ',') FROM t WHERE id = 1").await, "second");
    stage.assert_same_rows().await;
}

/// What is recorded of the tables that were copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shapes_that_were_copied_are_recorded() {
    for pair in [Pair::of(14, 17), Pair::of(17, 18)] {
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
                    (SELECT string_agg((c ->> 'name') || ':' || (c ->> 'type') || ':' || (c ->> 'modifier') || ':' || (c ->> 'number') || ':' || (c ->> 'target'), ',')
                       FROM jsonb_array_elements(columns) c), E'\\n' ORDER BY table_name)
               FROM pgsluice.relation",
        )
        .await;
        assert_eq!(
            recorded,
            "leaf joined - true id:int4:-1:1:1,k:int4:-1:2:2\n\
             plain joined - true id:int4:-1:1:1,s:varchar:-1:3:2,m:x.mood:-1:4:3,n:_numeric:458758:5:4,v:varchar:13:6:5"
        );
        // The way from the leaf to what is named in the publication: two steps.
        let membership =
            text(&target, "SELECT membership FROM pgsluice.relation WHERE table_name = 'leaf'").await;
        assert_eq!(membership.split('<').count(), 3, "{membership}");
    }
}
