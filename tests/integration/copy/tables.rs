//! Tables of every kind that the copy treats differently, and writers that leave none of them alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::clusters::connect;
use crate::harness::stage::Stage;

use super::{ordered, toasted};

/// Cut by keys: `ordered`, `toasted`, `uniques`, `emptied`, `child`; by blocks: `scattered`, `keyless`; the rest is small.
pub(super) fn schema() -> String {
    format!(
        "{ordered}; {toasted};
         CREATE INDEX ordered_n ON ordered (n); CREATE INDEX toasted_n ON toasted (n, id);
         CREATE TABLE scattered (id uuid PRIMARY KEY, n int, note text);
         INSERT INTO scattered SELECT md5(i::text)::uuid, i, repeat(md5(i::text), 5) FROM generate_series(1, 1500) i;
         CREATE INDEX scattered_n ON scattered (n);
         CREATE TABLE keyless (a int, note text); ALTER TABLE keyless REPLICA IDENTITY FULL;
         INSERT INTO keyless SELECT i % 150, nullif(repeat((i % 4)::text, 200), repeat('0', 200)) FROM generate_series(1, 600) i;
         CREATE TABLE parted (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
         INSERT INTO parted SELECT i, i % 2, repeat(md5(i::text), 4) FROM generate_series(1, 1200) i;
         CREATE TABLE uniques (id int PRIMARY KEY, code int UNIQUE, note text);
         INSERT INTO uniques SELECT i, i, repeat(md5(i::text), 5) FROM generate_series(1, 1000) i;
         CREATE TABLE emptied (id int PRIMARY KEY, note text);
         INSERT INTO emptied SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 800) i;
         CREATE TABLE pairs (a int, b int, note text, PRIMARY KEY (a, b));
         INSERT INTO pairs SELECT i / 10, i % 10, 'pair ' || i FROM generate_series(1, 500) i;
         CREATE TABLE narrow (id int2 PRIMARY KEY, n int); INSERT INTO narrow SELECT i, i FROM generate_series(1, 200) i;
         CREATE TABLE parent (id int PRIMARY KEY, note text);
         INSERT INTO parent SELECT i, 'parent' FROM generate_series(1, 200) i;
         CREATE TABLE child (id bigint PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE, note text);
         INSERT INTO child SELECT i, 1 + i % 200, repeat(md5(i::text), 4) FROM generate_series(1, 1000) i;
         CREATE TABLE nothing_yet (id int PRIMARY KEY, note text); ANALYZE",
        ordered = ordered(),
        toasted = toasted(),
    )
}

/// Sessions that write to every table until they are told to stop.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<u64>,
}

impl Writers {
    pub(super) fn start(stage: &Stage, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..3 {
            tasks.spawn(write(stage.source_url(), StdRng::seed_from_u64(seed + writer), Arc::clone(&stop)));
        }
        tasks.spawn(write_for_long(stage.source_url(), StdRng::seed_from_u64(seed + 99), Arc::clone(&stop)));
        Self { stop, tasks }
    }

    /// How many transactions they committed.
    pub(super) async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        while let Some(ended) = self.tasks.join_next().await {
            done += ended.expect("a writer");
        }
        done
    }
}

/// A lock that the copy holds is not waited for forever, and deadlocks among writers are theirs.
const PATIENCE: &str = "SET lock_timeout = '2s'; SET deadlock_timeout = '100ms'";

/// Short transactions.
async fn write(url: String, mut random: StdRng, stop: Arc<AtomicBool>) -> u64 {
    let client = connect(&url).await;
    client.batch_execute(PATIENCE).await.expect("settings");
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = match random.random_range(0..10) {
            0 => format!(
                "BEGIN; {}; {}; {}; COMMIT",
                change(&mut random),
                change(&mut random),
                change(&mut random)
            ),
            1 => format!(
                "BEGIN; {}; SAVEPOINT s; {}; {}; ROLLBACK TO s; {}; COMMIT",
                change(&mut random),
                change(&mut random),
                change(&mut random),
                change(&mut random)
            ),
            2 => format!("BEGIN; {}; ROLLBACK", change(&mut random)),
            _ => change(&mut random),
        };
        done += u64::from(tried(&client, &sql).await);
        tokio::time::sleep(Duration::from_millis(random.random_range(2..12))).await;
    }
    done
}

/// Transactions that stay open over several chunks; many of them are prepared.
async fn write_for_long(url: String, mut random: StdRng, stop: Arc<AtomicBool>) -> u64 {
    let client = connect(&url).await;
    client.batch_execute(PATIENCE).await.expect("settings");
    let (mut done, mut count) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let mut is_fine = tried(&client, "BEGIN").await;
        for _ in 0..random.random_range(2..6) {
            is_fine = is_fine && tried(&client, &change(&mut random)).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(20..250))).await;
        }
        if !is_fine {
            continue;
        }
        let end = match random.random_range(0..4) {
            0 => {
                let name = format!("long-{count}");
                let _ = tried(&client, &format!("PREPARE TRANSACTION '{name}'")).await;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                let end = if random.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" };
                format!("{end} PREPARED '{name}'")
            }
            _ => "COMMIT".to_owned(),
        };
        done += u64::from(tried(&client, &end).await);
    }
    done
}

async fn tried(client: &Client, sql: &str) -> bool {
    let is_done = client.batch_execute(sql).await.is_ok();
    if !is_done {
        let _ = client.batch_execute("ROLLBACK").await;
    }
    is_done
}

/// One change, of a table of any kind.
fn change(random: &mut StdRng) -> String {
    let (one, two) = (random.random_range(1..3_300), random.random_range(1..3_300));
    let tag = random.random_range(0..1_000_000);
    match random.random_range(0..12) {
        0..3 => keyed(random, "ordered", one, two, "note", "repeat(md5({tag}::text), 6)", tag),
        3..5 => keyed(random, "toasted", one % 290, two % 290, "body", "repeat(md5({tag}::text), 100)", tag),
        5 => scattered(random, one, tag),
        6 => keyless(random, one % 160, tag),
        7 => parted(random, one % 1_300, tag),
        8 => uniques(random, one % 1_000, two % 1_000, tag),
        9 => emptied(random, one % 900, tag),
        10 => family(random, one % 210, one % 1_100, tag),
        _ => small(random, one % 60, two % 10, tag),
    }
}

/// A table with `id`, `n`, and a longer column.
fn keyed(random: &mut StdRng, table: &str, one: i32, two: i32, long: &str, value: &str, tag: i32) -> String {
    let value = value.replace("{tag}", &tag.to_string());
    match random.random_range(0..8) {
        0 => format!("DELETE FROM {table} WHERE id = {one}"),
        1 | 2 => format!("INSERT INTO {table} VALUES ({one}, {tag}, {value}) ON CONFLICT DO NOTHING"),
        3 => format!("UPDATE {table} SET {long} = {value} WHERE id = {one}"),
        4 => moved(table, one, two, ""),
        5 => moved(table, one, two, &format!(", {long} = {value}")),
        6 => format!("UPDATE {table} SET n = n + 1 WHERE id BETWEEN {one} AND {one} + 20"),
        _ => format!("UPDATE {table} SET n = {tag} WHERE id = {one}"),
    }
}

/// A row that gets another key, if that is free.
fn moved(table: &str, from: i32, to: i32, more: &str) -> String {
    format!(
        "UPDATE {table} SET id = {to}{more} WHERE id = {from} AND NOT EXISTS (SELECT FROM {table} WHERE id = {to})"
    )
}

fn scattered(random: &mut StdRng, one: i32, tag: i32) -> String {
    let id = format!("md5('{}')::uuid", one % 1_700);
    match random.random_range(0..4) {
        0 => format!("DELETE FROM scattered WHERE id = {id}"),
        1 => format!(
            "INSERT INTO scattered VALUES ({id}, {tag}, repeat(md5('{tag}'), 5)) ON CONFLICT DO NOTHING"
        ),
        2 => format!("UPDATE scattered SET id = md5('moved {tag}')::uuid WHERE id = {id}"),
        _ => format!("UPDATE scattered SET n = {tag} WHERE id = {id}"),
    }
}

fn keyless(random: &mut StdRng, one: i32, tag: i32) -> String {
    let row = format!("ctid = (SELECT min(ctid) FROM keyless WHERE a = {one})");
    match random.random_range(0..4) {
        0 => format!("DELETE FROM keyless WHERE {row}"),
        1 => {
            format!("INSERT INTO keyless SELECT {one}, nullif({tag} % 3, 0)::text FROM generate_series(1, 2)")
        }
        2 => format!("UPDATE keyless SET a = {tag} % 160 WHERE {row}"),
        _ => format!("UPDATE keyless SET note = nullif({tag} % 3, 0)::text WHERE {row}"),
    }
}

fn parted(random: &mut StdRng, one: i32, tag: i32) -> String {
    match random.random_range(0..4) {
        0 => format!("DELETE FROM parted WHERE id = {one}"),
        1 => format!("INSERT INTO parted VALUES ({one}, {tag} % 2, 'new {tag}') ON CONFLICT DO NOTHING"),
        // To the other partition, when that is free.
        2 => format!(
            "UPDATE parted p SET part = 1 - part WHERE id = {one}
                AND NOT EXISTS (SELECT FROM parted q WHERE q.id = p.id AND q.part = 1 - p.part)"
        ),
        _ => format!("UPDATE parted SET note = 'tag {tag}' WHERE id = {one}"),
    }
}

/// What is unique wanders from row to row.
fn uniques(random: &mut StdRng, one: i32, two: i32, tag: i32) -> String {
    match random.random_range(0..4) {
        0 => format!("DELETE FROM uniques WHERE id = {one}"),
        1 => format!("INSERT INTO uniques VALUES ({one}, {two}, 'new {tag}') ON CONFLICT DO NOTHING"),
        2 => format!("UPDATE uniques SET note = 'tag {tag}' WHERE id = {one}"),
        _ => format!(
            "DO $$ DECLARE a int; b int; BEGIN
                SELECT code INTO a FROM uniques WHERE id = {one} FOR UPDATE; SELECT code INTO b FROM uniques WHERE id = {two} FOR UPDATE;
                IF a IS NULL OR b IS NULL OR a = b THEN RETURN; END IF;
                UPDATE uniques SET code = -{tag} - 1 WHERE id = {one}; UPDATE uniques SET code = a WHERE id = {two};
                UPDATE uniques SET code = b WHERE id = {one}; END $$"
        ),
    }
}

fn emptied(random: &mut StdRng, one: i32, tag: i32) -> String {
    match random.random_range(0..12) {
        0 => format!(
            "TRUNCATE emptied; INSERT INTO emptied SELECT i, repeat(md5(i::text || '{tag}'), 5) FROM generate_series(1, 400) i"
        ),
        1 => "TRUNCATE emptied, nothing_yet".to_owned(),
        2..4 => format!("DELETE FROM emptied WHERE id = {one}"),
        4 => format!(
            "INSERT INTO nothing_yet VALUES ({one}, 'new') ON CONFLICT (id) DO UPDATE SET note = '{tag}'"
        ),
        5..9 => format!("INSERT INTO emptied VALUES ({one}, 'new {tag}') ON CONFLICT DO NOTHING"),
        _ => format!("UPDATE emptied SET note = 'tag {tag}' WHERE id = {one}"),
    }
}

fn family(random: &mut StdRng, parent: i32, child: i32, tag: i32) -> String {
    match random.random_range(0..5) {
        0 => format!("DELETE FROM parent WHERE id = {parent}"),
        1 => format!("INSERT INTO parent VALUES ({parent}, 'new {tag}') ON CONFLICT DO NOTHING"),
        2 => format!(
            "INSERT INTO child SELECT {child}, id, 'new {tag}' FROM parent WHERE id = {parent} ON CONFLICT DO NOTHING"
        ),
        3 => format!("UPDATE child SET parent_id = (SELECT min(id) FROM parent) WHERE id = {child}"),
        _ => format!("UPDATE child SET note = 'tag {tag}' WHERE id = {child}"),
    }
}

fn small(random: &mut StdRng, a: i32, b: i32, tag: i32) -> String {
    match random.random_range(0..5) {
        0 => format!("DELETE FROM pairs WHERE a = {a} AND b = {b}"),
        1 => format!("INSERT INTO pairs VALUES ({a}, {b}, '{tag}') ON CONFLICT DO NOTHING"),
        2 => format!(
            "UPDATE pairs SET a = a + 100 WHERE a = {a} AND b = {b} AND NOT EXISTS (SELECT FROM pairs WHERE a = {a} + 100 AND b = {b})"
        ),
        3 => format!("UPDATE narrow SET n = {tag} WHERE id = {a}"),
        _ => format!("INSERT INTO narrow VALUES ({a} + 150, {tag}) ON CONFLICT (id) DO UPDATE SET n = 0"),
    }
}
