//! Several sessions of the source with long transactions under way at once, driven from one random source: nested
//! savepoints rolled back and released at every depth, whole rollbacks, prepared transactions, TRUNCATE and schema
//! changes that are rolled back, tables that are not published. No session waits for another, so one driver
//! suffices and a seed replays the same history.

use rand::RngExt;
use rand::rngs::StdRng;
use tokio_postgres::Client;

/// Deepest nesting of savepoints.
const DEPTH_MAX: usize = 4;
/// Keys of one session.
const KEYS: u64 = 1_000_000_000;

/// A session, and what it has open.
pub(crate) struct Session {
    client: Client,
    number: u64,
    keys_used: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Open { depth: usize },
    Prepared,
}

/// The tables of `sessions` sessions: one they share, with other keys for each, and one of each its own without a key.
pub(crate) fn schema(sessions: u64) -> String {
    let own = |number| {
        format!(
            "CREATE TABLE own_{number} (n int, v text); ALTER TABLE own_{number} REPLICA IDENTITY FULL;
             INSERT INTO own_{number} SELECT g, 'before' FROM generate_series(1, 5) g;"
        )
    };
    let own: String = (0..sessions).map(own).collect();
    format!(
        "CREATE TABLE shared (id bigint PRIMARY KEY, who int, v text, big text);
         ALTER TABLE shared ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE unpublished (n int, v text);
         {own}"
    )
}

impl Session {
    pub(crate) const fn new(client: Client, number: u64) -> Self {
        Self { client, number, keys_used: 0, state: State::Idle }
    }

    /// One more step.
    pub(crate) async fn step(&mut self, random: &mut StdRng) {
        let sql = match self.state {
            State::Idle => {
                self.state = State::Open { depth: 0 };
                format!("BEGIN; {}", self.insert(random))
            }
            State::Prepared => self.end_prepared(random),
            State::Open { depth } => self.inside(depth, random),
        };
        self.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Ends what is open.
    pub(crate) async fn finish(&mut self, random: &mut StdRng) {
        while self.state != State::Idle {
            let sql = match self.state {
                State::Prepared => self.end_prepared(random),
                _ => self.end(random),
            };
            self.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    fn inside(&mut self, depth: usize, random: &mut StdRng) -> String {
        match random.random_range(0..20) {
            0..=5 => self.insert(random),
            6..=7 => self.change(random),
            8 => self.own_rows(random),
            9 => format!("TRUNCATE own_{}; {}", self.number, self.own_rows(random)),
            10 => self.rolled_back_schema_change(),
            11 => "INSERT INTO unpublished SELECT g, repeat('u', 300) FROM generate_series(1, 300) g".into(),
            12 => "SELECT pg_logical_emit_message(true, 'somebody', repeat('m', 2000))".into(),
            13..=15 if depth < DEPTH_MAX => {
                self.state = State::Open { depth: depth + 1 };
                format!("SAVEPOINT s{depth}; {}", self.insert(random))
            }
            16..=17 if depth > 0 => {
                let to = random.random_range(0..depth);
                self.state = State::Open { depth: to + 1 };
                format!("ROLLBACK TO SAVEPOINT s{to}; {}", self.insert(random))
            }
            18 if depth > 0 => {
                let to = random.random_range(0..depth);
                self.state = State::Open { depth: to };
                format!("RELEASE SAVEPOINT s{to}; {}", self.insert(random))
            }
            19 => self.end(random),
            _ => self.change(random),
        }
    }

    fn end(&mut self, random: &mut StdRng) -> String {
        self.state = State::Idle;
        match random.random_range(0..6) {
            0 => "ROLLBACK".into(),
            1..=2 => {
                self.state = State::Prepared;
                format!("PREPARE TRANSACTION 'session {}'", self.number)
            }
            _ => "COMMIT".into(),
        }
    }

    fn end_prepared(&mut self, random: &mut StdRng) -> String {
        self.state = State::Idle;
        let verb = if random.random_range(0..3) == 0 { "ROLLBACK" } else { "COMMIT" };
        format!("{verb} PREPARED 'session {}'", self.number)
    }

    fn insert(&mut self, random: &mut StdRng) -> String {
        let rows = random.random_range(1..400_u64);
        let first = self.number * KEYS + self.keys_used;
        self.keys_used += rows;
        format!(
            "INSERT INTO shared SELECT {first} + g, {}, repeat(md5(g::text), 8),
                    CASE WHEN g % 40 = 1 THEN (SELECT string_agg(md5((g * h)::text), '') FROM generate_series(1, 100) h) END
               FROM generate_series(1, {rows}) g",
            self.number
        )
    }

    fn change(&self, random: &mut StdRng) -> String {
        let (who, rest) = (self.number, random.random_range(0..7));
        let moved = self.number * KEYS + KEYS / 2;
        match random.random_range(0..4) {
            0 => format!("DELETE FROM shared WHERE who = {who} AND id % 7 = {rest}"),
            1 => format!(
                "UPDATE shared SET id = id + {} WHERE who = {who} AND id % 7 = {rest} AND id < {moved}",
                KEYS / 2
            ),
            _ => format!("UPDATE shared SET v = reverse(v) || '!' WHERE who = {who} AND id % 7 = {rest}"),
        }
    }

    fn own_rows(&self, random: &mut StdRng) -> String {
        let (own, rest) = (self.number, random.random_range(0..7));
        format!(
            "INSERT INTO own_{own} SELECT g % 50, repeat('o', 400) FROM generate_series(1, 200) g;
             UPDATE own_{own} SET v = v || '!' WHERE n % 7 = {rest}; DELETE FROM own_{own} WHERE n = {rest}"
        )
    }

    /// The table has another shape only inside the subtransaction; what follows has the old one again.
    fn rolled_back_schema_change(&self) -> String {
        let own = self.number;
        format!(
            "SAVEPOINT ddl; ALTER TABLE own_{own} ADD COLUMN extra text DEFAULT 'e', ALTER COLUMN n TYPE bigint;
             INSERT INTO own_{own} SELECT g, repeat('d', 400), 'more' FROM generate_series(1, 300) g;
             ROLLBACK TO SAVEPOINT ddl; RELEASE SAVEPOINT ddl;
             INSERT INTO own_{own} SELECT g % 50, repeat('a', 400) FROM generate_series(1, 200) g"
        )
    }
}
