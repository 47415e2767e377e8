//! What is measured: for each case its tables, the changes of its backlog and their sizes. Sizes are such that native
//! replication needs some ten seconds on a small machine. Only SQL for the source; nothing of who replicates it.

use super::Outcome;
use super::options::Options;
use super::servers::Server;

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseId {
    /// (a)
    TpcB,
    /// (b)
    Inserts,
    /// (c)
    Updates,
    /// (d)
    Deletes,
    /// (e)
    WideRows,
    /// (f)
    ManyTables,
    /// (g)
    OneTransaction,
    /// (h): not a backlog.
    SteadyState,
}

/// pgbench's scale in (a) and (h): 100,000 accounts each.
const TPC_B_SCALE: u64 = 20;
const TPC_B_TRANSACTIONS: u64 = 200_000;
const TPC_B_CLIENTS: u64 = 4;
const INSERTED_ROWS: u64 = 400_000;
const UPDATED_TABLE_ROWS: u64 = 2_000_000;
const UPDATES: u64 = 300_000;
const DELETED_TABLE_ROWS: u64 = 1_000_000;
const DELETES: u64 = 350_000;
const WIDE_TABLE_ROWS: u64 = 60_000;
const WIDE_CHANGES: u64 = 120_000;
const TABLES: u64 = 1_000;
const ROWS_OF_EACH_TABLE: u64 = 300;
const CHANGES_IN_TABLES: u64 = 300_000;
const ONE_TRANSACTION_ROWS: u64 = 2_000_000;

/// Every case has it: one row, the last that is committed.
const MARKS: &str = "CREATE TABLE bench_marks (id int PRIMARY KEY);";

impl CaseId {
    /// In the order of their letters.
    pub(crate) const ALL: [Self; 8] = [
        Self::TpcB,
        Self::Inserts,
        Self::Updates,
        Self::Deletes,
        Self::WideRows,
        Self::ManyTables,
        Self::OneTransaction,
        Self::SteadyState,
    ];

    /// Of its letter.
    pub(crate) fn parse(letter: &str) -> Outcome<Self> {
        Self::ALL
            .into_iter()
            .find(|case| case.letter() == letter.trim())
            .ok_or_else(|| format!("there is no case \"{letter}\": a to h, with commas in between").into())
    }

    /// a to h.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::TpcB => "a",
            Self::Inserts => "b",
            Self::Updates => "c",
            Self::Deletes => "d",
            Self::WideRows => "e",
            Self::ManyTables => "f",
            Self::OneTransaction => "g",
            Self::SteadyState => "h",
        }
    }

    /// What it is, with its size at the chosen scale.
    pub(crate) fn title(self, options: &Options) -> String {
        let of = |full| grouped(options.scaled(full));
        match self {
            Self::TpcB => {
                format!("{} pgbench transactions (TPC-B, scale {TPC_B_SCALE})", of(TPC_B_TRANSACTIONS))
            }
            Self::Inserts => format!("{} inserts, 10 a transaction", of(INSERTED_ROWS)),
            Self::Updates => format!(
                "{} updates of random rows of {}, 25 a transaction",
                of(UPDATES),
                of(UPDATED_TABLE_ROWS)
            ),
            Self::Deletes => {
                format!("{} deletes from {} rows, 25 a transaction", of(DELETES), of(DELETED_TABLE_ROWS))
            }
            Self::WideRows => {
                format!("{} changes of wide rows (jsonb, arrays, TOAST), 10 a transaction", of(WIDE_CHANGES))
            }
            Self::ManyTables => {
                format!("{} changes over {TABLES} tables, 20 a transaction", of(CHANGES_IN_TABLES))
            }
            Self::OneTransaction => format!("one transaction of {} rows", of(ONE_TRANSACTION_ROWS)),
            Self::SteadyState => "steady state".to_owned(),
        }
    }

    /// Makes the tables and the rows that are there before the backlog.
    pub(crate) async fn load(self, source: &Server, database: &str, options: &Options) -> Outcome<()> {
        let n = |full| options.scaled(full);
        let sql = match self {
            Self::TpcB | Self::SteadyState => {
                source.pgbench(database, &["-i".into(), "-q".into(), format!("-s{TPC_B_SCALE}")]).await?;
                // As pgbench leaves it, the history has no key. No row of it is ever updated or deleted.
                "ALTER TABLE pgbench_history REPLICA IDENTITY FULL;".to_owned()
            }
            Self::Inserts => EVENTS.to_owned(),
            Self::Updates => format!("{STOCK}{}", fill("stock", n(UPDATED_TABLE_ROWS), STOCK_ROW)),
            Self::Deletes => format!("{STOCK}{}", fill("stock", n(DELETED_TABLE_ROWS), STOCK_ROW)),
            Self::WideRows => format!("{DOCUMENTS}{}", fill("documents", n(WIDE_TABLE_ROWS), DOCUMENT_ROW)),
            Self::ManyTables => many_tables(),
            Self::OneTransaction => NARROW.to_owned(),
        };
        let client = source.client(database).await?;
        client.batch_execute(&format!("SET synchronous_commit = off; {MARKS}{sql}")).await?;
        if self == Self::SteadyState {
            client.batch_execute(PROBES).await?;
        }
        Ok(client.batch_execute("VACUUM (ANALYZE)").await?)
    }

    /// Commits the backlog.
    pub(crate) async fn generate(self, source: &Server, database: &str, options: &Options) -> Outcome<()> {
        let n = |full| options.scaled(full);
        let (count, statements) = match self {
            Self::TpcB => {
                let each = n(TPC_B_TRANSACTIONS) / TPC_B_CLIENTS;
                let arguments = ["-n", "-Mprepared", "-j2"].map(str::to_owned).into_iter();
                let sized = [format!("-c{TPC_B_CLIENTS}"), format!("-t{each}")];
                source.pgbench(database, &arguments.chain(sized).collect::<Vec<_>>()).await?;
                return Ok(());
            }
            Self::SteadyState => return Ok(()),
            Self::OneTransaction => {
                let sql = format!("INSERT INTO narrow {}", rows(n(ONE_TRANSACTION_ROWS), NARROW_ROW));
                return source.execute(database, &format!("SET synchronous_commit = off; {sql}")).await;
            }
            Self::Inserts => (n(INSERTED_ROWS) / 10, INSERT_EVENTS.to_owned()),
            Self::Updates => {
                let update = "UPDATE stock SET quantity = quantity + 1, changed_at = clock_timestamp()
                    WHERE id = ANY (ARRAY(SELECT 1 + (random() * (:rows - 1))::bigint FROM generate_series(1, 25)));";
                (n(UPDATES) / 25, with_rows(update, n(UPDATED_TABLE_ROWS)))
            }
            Self::Deletes => {
                // A prime step that does not divide the number of rows meets every row once.
                let delete = "DELETE FROM stock
                    WHERE id = ANY (ARRAY(SELECT 1 + ((n::bigint * 25 + i) * 2147483647) % :rows FROM generate_series(0, 24) i));";
                (n(DELETES) / 25, with_rows(delete, n(DELETED_TABLE_ROWS)))
            }
            Self::WideRows => (n(WIDE_CHANGES) / 10, with_rows(CHANGE_DOCUMENTS, n(WIDE_TABLE_ROWS))),
            Self::ManyTables => (n(CHANGES_IN_TABLES) / 20, change_tables()),
        };
        let client = source.client(database).await?;
        client.batch_execute(&repeatedly(&statements)).await?;
        client.batch_execute(&format!("CALL backlog({count})")).await?;
        Ok(client.batch_execute("DROP PROCEDURE backlog").await?)
    }
}

const EVENTS: &str = "
    CREATE TABLE events (id bigint PRIMARY KEY, device int NOT NULL, kind text NOT NULL, reading numeric(12,3),
        happened_at timestamptz NOT NULL, payload text);
    CREATE INDEX ON events (device, happened_at);";
const INSERT_EVENTS: &str = "
    INSERT INTO events SELECT n * 10 + i, (random() * 5000)::int, 'reading', random() * 1000, clock_timestamp(), md5(i::text) || n
      FROM generate_series(0, 9) i;";

const STOCK: &str = "
    CREATE TABLE stock (id bigint PRIMARY KEY, quantity int NOT NULL, price numeric(10,2) NOT NULL,
        changed_at timestamptz NOT NULL, label text NOT NULL);";
const STOCK_ROW: &str = "i, i % 1000, i % 997, now(), 'item ' || md5(i::text)";

/// Bodies are longer than a row may be and do not compress, so that they are stored out of line.
const DOCUMENTS: &str = "
    CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, properties jsonb NOT NULL, tags text[] NOT NULL,
        body text NOT NULL, amount numeric(12,2), changed_at timestamptz NOT NULL);
    CREATE FUNCTION body(n bigint) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(md5((n * 1000 + j)::text), '') FROM generate_series(1, 100) j $$;
    CREATE FUNCTION properties(n bigint) RETURNS jsonb LANGUAGE sql AS $$
        SELECT jsonb_build_object('owner', md5(n::text), 'size', n, 'flags', jsonb_build_array(n % 2, n % 3, n % 5),
            'address', jsonb_build_object('street', md5((n + 1)::text), 'city', md5((n + 2)::text), 'zip', n % 100000),
            'notes', repeat(md5(n::text), 4)) $$;";
const DOCUMENT_ROW: &str =
    "i, 'title ' || i, properties(i), ARRAY['a' || i, 'b' || i % 10], body(i), i, now()";
/// Three new rows, five changes that leave the long value as it is, two that change it.
const CHANGE_DOCUMENTS: &str = "
    INSERT INTO documents SELECT :rows + n * 3 + i, 'new', properties(n + i), ARRAY['x', 'y'], body(n * 3 + i), n, clock_timestamp()
      FROM generate_series(1, 3) i;
    UPDATE documents SET properties = properties(n), amount = n, changed_at = clock_timestamp()
      WHERE id = ANY (ARRAY(SELECT 1 + (random() * (:rows - 1))::bigint FROM generate_series(1, 5)));
    UPDATE documents SET body = body(-n), changed_at = clock_timestamp()
      WHERE id = ANY (ARRAY(SELECT 1 + (random() * (:rows - 1))::bigint FROM generate_series(1, 2)));";

const NARROW: &str =
    "CREATE TABLE narrow (id bigint PRIMARY KEY, payload text NOT NULL, at timestamptz NOT NULL);";
const NARROW_ROW: &str = "i, md5(i::text), now()";

/// What the latency is measured with: each writer counts up.
const PROBES: &str = "CREATE TABLE probes (writer int, n bigint, PRIMARY KEY (writer, n));";

fn many_tables() -> String {
    format!(
        "DO $$ BEGIN FOR t IN 1..{TABLES} LOOP
            EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, n int NOT NULL, payload text NOT NULL, at timestamptz NOT NULL)', t);
            EXECUTE format('INSERT INTO t%s SELECT i, 0, md5(i::text), now() FROM generate_series(1, {ROWS_OF_EACH_TABLE}) i', t);
        END LOOP; END $$;"
    )
}

/// Five new rows and five changed ones in each of two tables; every table has its turn.
fn change_tables() -> String {
    let pass = format!("(n * 2 / {TABLES})");
    [0, 1].map(|second| format!(
        "EXECUTE 'INSERT INTO t' || (n * 2 + {second}) % {TABLES} + 1 || ' SELECT {ROWS_OF_EACH_TABLE} + ' || {pass} || ' * 5 + i, 0, md5(i::text), clock_timestamp() FROM generate_series(1, 5) i';
         EXECUTE 'UPDATE t' || (n * 2 + {second}) % {TABLES} + 1 || ' SET n = n + 1, at = clock_timestamp() WHERE id = ANY (ARRAY(SELECT 1 + (random() * {ROWS_OF_EACH_TABLE} - 1)::bigint FROM generate_series(1, 5)))';"
    )).concat()
}

/// The same statements again and again, each time in a transaction of its own; they can use its number, `n`, from 0.
fn repeatedly(statements: &str) -> String {
    format!(
        "SET synchronous_commit = off;
         CREATE PROCEDURE backlog(transactions bigint) LANGUAGE plpgsql AS $$ BEGIN
             PERFORM setseed(0.5);
             FOR n IN 0..transactions - 1 LOOP {statements} COMMIT; END LOOP;
         END $$;"
    )
}

fn fill(table: &str, count: u64, row: &str) -> String {
    format!("INSERT INTO {table} {};", rows(count, row))
}

fn rows(count: u64, row: &str) -> String {
    format!("SELECT {row} FROM generate_series(1::bigint, {count}) i")
}

fn with_rows(statement: &str, rows: u64) -> String {
    statement.replace(":rows", &rows.to_string())
}

/// `2000000` as `2,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
