-- Made-up rows for the craft store: about 210,000 at demo.scale = 1, of which 20 MB are long texts.

SELECT setseed(0.42);

INSERT INTO customers (email, name, address, tags, created_at)
SELECT 'customer' || i || '@example.com', 'Customer ' || i,
       jsonb_build_object('street', (i % 97) || ' Loom Lane', 'city', (ARRAY['Köln', 'Łódź', 'São Paulo', 'Kyōto'])[1 + i % 4]),
       CASE WHEN i % 3 = 0 THEN ARRAY['vip', 'newsletter'] WHEN i % 3 = 1 THEN ARRAY['quote"d', NULL] ELSE '{}' END,
       now() - random() * interval '900 days'
  FROM generate_series(1, (10000 * current_setting('demo.scale')::float8)::int) AS i;

-- md5 text does not compress, so the descriptions go out of line.
INSERT INTO products (sku, name, category, price, attributes, description)
SELECT 'SKU-' || lpad(i::text, 8, '0'), 'Product ' || i, (enum_range(NULL::product_category))[1 + i % 6],
       round((1 + random() * 200)::numeric, 2),
       jsonb_build_object('weight_g', i % 500, 'colours', jsonb_build_array('red', 'green', NULL),
                          'care', (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 20 + i % 60) AS j)),
       (SELECT string_agg(md5((i + j)::text), ' ') FROM generate_series(1, 80 + i % 160) AS j)
  FROM generate_series(1, (2000 * current_setting('demo.scale')::float8)::int) AS i;

INSERT INTO inventory (product_id, warehouse, quantity)
SELECT id, warehouse, 1000 + id % 500 FROM products, unnest(ARRAY['north', 'south']) AS warehouse;

INSERT INTO orders (customer_id, status, total, note, placed_at)
SELECT 1 + (random() * ((SELECT count(*) FROM customers) - 1))::bigint, (enum_range(NULL::order_status))[1 + i % 4],
       round((random() * 500)::numeric, 2), CASE WHEN i % 10 = 0 THEN E'please wrap\n\t"nicely"' END,
       now() - random() * interval '150 days'
  FROM generate_series(1, (40000 * current_setting('demo.scale')::float8)::int) AS i;

INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price)
SELECT o.id, line, 1 + (o.id + line) % (SELECT count(*) FROM products), 1 + o.id % 5, round((random() * 90)::numeric, 2)
  FROM orders o, generate_series(1, 2) AS line;

INSERT INTO payments (order_id, method, amount, receipt, paid_at)
SELECT id, (ARRAY['card', 'invoice', 'voucher'])[1 + id % 3], total, decode(md5(id::text), 'hex'), placed_at + interval '1 hour'
  FROM orders WHERE status IN ('paid', 'shipped');

INSERT INTO recommendations (customer_id, product_ids, scores, model)
SELECT id, ARRAY[1 + id % 100, 2 + id % 300, 3], ARRAY[0.1, 'NaN', 'Infinity']::real[], 'v1' FROM customers WHERE id % 2 = 0;

INSERT INTO wishes (customer_id, product_id, remark)
SELECT 1 + i % 200, CASE WHEN i % 7 > 0 THEN 1 + i % 50 END, CASE WHEN i % 2 = 0 THEN 'soon' END
  FROM generate_series(1, (1000 * current_setting('demo.scale')::float8)::int) AS i;

INSERT INTO coupons (code, owner, percent, valid, terms)
SELECT 'COUPON-' || i, i % 64, (i % 50) + 0.5, daterange('2024-01-01', '2030-01-01'),
       (SELECT string_agg(md5((i - j)::text), ' ') FROM generate_series(1, 100) AS j)
  FROM generate_series(1, 640) AS i;

INSERT INTO events (at, kind, payload)
SELECT now() - random() * interval '170 days', (ARRAY['visit', 'search', 'cart'])[1 + i % 3],
       CASE WHEN i % 5 > 0 THEN jsonb_build_object('page', '/p/' || i, 'ms', i % 900) END
  FROM generate_series(1, (30000 * current_setting('demo.scale')::float8)::int) AS i;

ANALYZE;
