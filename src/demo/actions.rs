//! What the craft store's clients do: small transactions of several statements, as SQL text, made from random numbers
//! only. Each also writes the client's ledger entry. No IO.

use rand::{Rng, RngExt};

use super::store::{CUSTOMERS, PRODUCTS, Scale};

/// Products that everybody buys.
const HOT_PRODUCTS: u32 = 8;

/// One transaction, sent as one query string: a client never leaves it half done, and the server answers once.
#[derive(Clone, Debug)]
pub(super) struct StoreTransaction {
    pub(super) sql: String,
}

/// What a transaction does, and how often, in percent.
const MIX: [(Action, u32); 10] = [
    (Action::PlaceOrder, 30),
    (Action::Pay, 20),
    (Action::Restock, 15),
    (Action::DescribeProduct, 4),
    (Action::TagProduct, 9),
    (Action::Recommend, 8),
    (Action::Visit, 8),
    (Action::RenameCoupon, 3),
    (Action::CancelOrder, 2),
    (Action::Wish, 1),
];

#[derive(Clone, Copy, Debug)]
enum Action {
    PlaceOrder,
    Pay,
    Restock,
    DescribeProduct,
    TagProduct,
    Recommend,
    Visit,
    RenameCoupon,
    CancelOrder,
    Wish,
}

/// The next transaction of `client`, its `seq`th.
pub(super) fn next(random: &mut impl Rng, scale: Scale, client: usize, seq: u64) -> StoreTransaction {
    let mut ticket = random.random_range(0..MIX.iter().map(|(_, weight)| weight).sum());
    let action = MIX
        .into_iter()
        .find(|(_, weight)| {
            let drawn = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            drawn
        })
        .map_or(Action::Visit, |(action, _)| action);
    let mut dice = Dice { random, scale };
    let work = statements(action, &mut dice, client, seq);
    let ledger = format!("INSERT INTO ledger (client, seq, action) VALUES ({client}, {seq}, '{action:?}')");
    StoreTransaction { sql: format!("BEGIN; {work}; {ledger}; COMMIT") }
}

struct Dice<'a, R> {
    random: &'a mut R,
    scale: Scale,
}

impl<R: Rng> Dice<'_, R> {
    fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound.max(1))
    }

    fn customer(&mut self) -> u32 {
        let customers = self.scale.of(CUSTOMERS);
        1 + self.below(customers)
    }

    fn product(&mut self) -> u32 {
        let products = self.scale.of(PRODUCTS);
        1 + if self.below(4) == 0 { self.below(products.min(HOT_PRODUCTS)) } else { self.below(products) }
    }
}

fn statements<R: Rng>(action: Action, dice: &mut Dice<'_, R>, client: usize, seq: u64) -> String {
    let (customer, product) = (dice.customer(), dice.product());
    let amount = 1 + dice.below(5);
    match action {
        Action::PlaceOrder => place_order(dice, customer, product, amount),
        Action::Pay => format!(
            "WITH paid AS (UPDATE orders SET status = 'paid' WHERE id = (SELECT id FROM orders WHERE customer_id = {customer} \
             AND status = 'placed' ORDER BY id LIMIT 1) RETURNING id, total) \
             INSERT INTO payments (order_id, method, amount) SELECT id, 'card', total FROM paid"
        ),
        Action::Restock => {
            let hot = 1 + dice.below(HOT_PRODUCTS.min(dice.scale.of(PRODUCTS)));
            format!(
                "UPDATE inventory SET quantity = quantity + {amount}, counted_at = now() \
                 WHERE product_id = {hot} AND warehouse = 'north'"
            )
        }
        Action::DescribeProduct => format!(
            "UPDATE products SET revised_at = now(), description = (SELECT string_agg(md5((random() * j)::text), ' ') \
             FROM generate_series(1, {}) AS j) WHERE id = {product}",
            70 + dice.below(120)
        ),
        // The long description stays as it is: it is not in the stream.
        Action::TagProduct => format!(
            "UPDATE products SET attributes = jsonb_set(attributes, '{{seen}}', '{seq}'), price = price + 0.01 \
             WHERE id = {product}"
        ),
        Action::Recommend => format!(
            "INSERT INTO recommendations (customer_id, product_ids, scores, model) \
             VALUES ({customer}, ARRAY[{product}, {amount}, NULL], ARRAY[0.5, {amount}.25], 'v{seq}') \
             ON CONFLICT (customer_id) DO UPDATE SET product_ids = excluded.product_ids, scores = excluded.scores, \
             model = excluded.model"
        ),
        Action::Visit => format!(
            "INSERT INTO events (at, kind, payload) SELECT now() - j * interval '20 days', 'visit', \
             jsonb_build_object('customer', {customer}, 'product', {product}) FROM generate_series(0, {amount}) AS j"
        ),
        Action::RenameCoupon => format!(
            "UPDATE coupons SET code = 'COUPON-{client}-{seq}', percent = percent + 0.1 \
             WHERE code = (SELECT min(code) FROM coupons WHERE owner = {})",
            client % 64
        ),
        Action::CancelOrder => format!(
            "DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE customer_id = {customer} \
             AND status = 'placed' ORDER BY id LIMIT 1)"
        ),
        Action::Wish => format!(
            "INSERT INTO wishes VALUES ({0}, {product}, NULL), ({0}, {product}, NULL); DELETE FROM wishes WHERE ctid = \
             (SELECT ctid FROM wishes WHERE customer_id = {0} LIMIT 1); UPDATE wishes SET remark = 'seen {seq}' WHERE ctid = \
             (SELECT ctid FROM wishes WHERE customer_id = {0} LIMIT 1)",
            1 + dice.below(200)
        ),
    }
}

/// An order of one to three lines; stock is taken in the order of product ids, so that clients never wait in a circle.
fn place_order<R: Rng>(dice: &mut Dice<'_, R>, customer: u32, product: u32, amount: u32) -> String {
    let mut products = vec![product];
    products.extend((0..dice.below(3)).map(|_| dice.product()));
    products.sort_unstable();
    products.dedup();
    let list = products.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let take: String = products
        .iter()
        .map(|id| {
            format!(
                "; UPDATE inventory SET quantity = CASE WHEN quantity < {amount} THEN quantity + 500 \
                 ELSE quantity - {amount} END WHERE product_id = {id} AND warehouse = 'south'"
            )
        })
        .collect();
    format!(
        "WITH placed AS (INSERT INTO orders (customer_id, total) SELECT {customer}, sum(price) * {amount} FROM products \
         WHERE id IN ({list}) RETURNING id) \
         INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price) \
         SELECT placed.id, row_number() OVER (), p.id, {amount}, p.price FROM placed, products p WHERE p.id IN ({list}){take}"
    )
}
