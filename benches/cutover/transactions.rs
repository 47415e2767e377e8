//! What the clients do: pgbench's TPC-B, writes into three of the other tables, and the ledger's entry, in one transaction
//! and in one query string. Some of them write the other tables first, so that the fence meets clients that hold what comes
//! late in its order and want what comes early. No IO.

use std::sync::Arc;

use pgsluice::demo::workload::Transactions;
use rand::RngExt;
use rand::rngs::StdRng;

/// Tables of each kind, as in `ground.sql`.
const ORDERS: u32 = 27;
const NOTES: u32 = 14;
const STOCK: u32 = 46;
const EVENTS: u32 = 8;
/// Items of each client in a table of stock.
const ITEMS: u32 = 10;

/// Of pgbench, for each unit of scale.
const ACCOUNTS: u32 = 100_000;
const TELLERS: u32 = 10;

/// Transactions on a database that pgbench has made at this scale; of 100, `crossing_percent` write the other tables first.
pub(crate) fn at_scale(scale: u32, crossing_percent: u32) -> Transactions {
    Arc::new(move |random, client, seq| {
        let mut parts = [tpc_b(random, scale), others(random, client, seq)];
        if random.random_ratio(crossing_percent, 100) {
            parts.reverse();
        }
        let [first, second] = parts;
        format!("BEGIN; {first}; {second}; INSERT INTO ledger (client, seq) VALUES ({client}, {seq}); COMMIT")
    })
}

fn tpc_b(random: &mut StdRng, scale: u32) -> String {
    let account = random.random_range(1..=ACCOUNTS * scale);
    let teller = random.random_range(1..=TELLERS * scale);
    let branch = random.random_range(1..=scale);
    let delta = random.random_range(-5_000..=5_000);
    format!(
        "UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {account}; \
         SELECT abalance FROM pgbench_accounts WHERE aid = {account}; \
         UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {teller}; \
         UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = {branch}; \
         INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
         VALUES ({teller}, {branch}, {account}, {delta}, now())"
    )
}

/// One row inserted with a key of its own, one into a partition, and one of the client's own updated.
fn others(random: &mut StdRng, client: usize, seq: u64) -> String {
    let of = random.random_range(1..=ORDERS + NOTES);
    let insert = if of <= ORDERS {
        format!("INSERT INTO orders_{of:02} (client, total) VALUES ({client}, {}.25)", seq % 1_000)
    } else {
        format!("INSERT INTO notes_{:02} (client, words) VALUES ({client}, md5('{seq}'))", of - ORDERS)
    };
    let (event, stock) = (random.random_range(1..=EVENTS), random.random_range(1..=STOCK));
    let item = random.random_range(1..=ITEMS);
    format!(
        "{insert}; INSERT INTO events_{event:02} (client, kind) VALUES ({client}, 'kind {}'); \
         UPDATE stock_{stock:02} SET quantity = quantity - 1, counted_at = now() \
         WHERE client = {client} AND item = {item}",
        seq % 7
    )
}
